// A case with its numbers and tables filled in, and what its rows then are.
#pragma once
#include "case.h"
#include "numbers.h"
#include "random.h"

namespace numeric {

// Inputs as plain arrays [tokens, heads, dim], states as [.., HV, K, V] whatever the layout; all rounded to the types of the case.
struct Values {
    Numbers q, k, v, gate, beta, a_log, dt_bias;
    Numbers pool;  // of reading
    Numbers d_out, d_final;
};

struct Tables {
    std::vector<int64_t> offsets;                                                           // also where the call is given none
    int64_t slots = 0;                                                                      // of either pool
    std::vector<int32_t> read_slots, write_slots, checkpoint_slots, token_slots, accepted;  // empty: not given
    int64_t checkpoint_width = 0;
};

struct Sample {
    Case c;
    int64_t tokens = 0;
    Tables tables;
    Values values;
};

// Fresh numbers and tables from c.seed.
Sample make_sample(const Case& c);
Tables make_tables(const Case& c, Random& random);
Values make_values(const Case& c, int64_t tokens, int64_t slots, Random& random);

// Which axes of a tensor have stride 0 (Strides::repeated).
struct Repeat {
    bool row = false, token = false, head = false;
};
Repeat repeat_of(const Case& c, const char* tensor);

// A state that a row stores after its first `count` tokens.
struct Store {
    int64_t count, slot;
};

// What the header says a row does, read off the tables by the tests' own code.
struct Row {
    int64_t begin = 0, length = 0;
    bool skip_forward = false, skip_backward = false;  // the backward does not look at write slots
    int64_t start = -1;                                // slot of reading, -1: zero
    std::vector<Store> stores;                         // by count, the final state among them
};
std::vector<Row> rows_of(const Sample& sample);

}  // namespace numeric
