// Requests: when they come, how long they are, and which tokens they are made of.
//
// A token's activations are a row of a bank (bank.h). A request is a run of rows there, so that any chunk of it is copied as one
// piece; prompts of a group begin with the same rows, and a wrong guess is a row that lies a little further on.
#pragma once
#include "options.h"
#include "random.h"

namespace serving {

constexpr int64_t kWrong = 5;  // rows from a token to the wrong guess in its place

struct Request {
    int64_t id = 0;
    int32_t group = -1;                   // whose prefix the prompt begins with; -1: none
    int64_t shared = 0;                   // tokens of that prefix
    int64_t prompt = 0, length = 0;       // tokens of the prompt, and with the answer
    int64_t shared_row = 0, own_row = 0;  // rows of the bank: token t lies at (t < shared ? shared_row : own_row) + t
    bool drafts = false;                  // its answer is speculated on

    int64_t row_of(int64_t token) const { return (token < shared ? shared_row : own_row) + token; }
};

class Traffic {
public:
    explicit Traffic(const Options& options);

    // Whether one came until `now`, in seconds; it is then in `request`.
    bool arrived(double now, Request& request);
    double next() const { return next_; }
    static int64_t bank_rows(const Options& options) { return 4 * options.longest() + kWrong; }

private:
    int64_t between(int64_t least, int64_t most);  // log-uniform: most requests are short, some are long
    int64_t any_row() { return random_.below(3 * options_.longest()); }
    Request draw();

    const Options& options_;
    numeric::Random random_;
    int64_t count_ = 0;
    double next_ = 0;
};

}  // namespace serving
