// The steps of the main job. Each runs on any backend: on the device for its result and time, on a CPU handle in F64 for the truth.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "backend.h"
#include "layer.h"

namespace job {

// What the steps work on, made once and rounded to the run's type, so that every backend sees the same numbers.
struct Job {
    Job(const Layer& layer, const std::string& text, int64_t prompt_tokens, int64_t train_tokens);

    static constexpr int64_t kNew = 64;   // tokens decoded after the prompt
    static constexpr int64_t kDraft = 4;  // tokens of a verify call: one that is certain and three guesses

    const Layer& layer;
    Tokens prompt;                   // the text
    Tokens next;                     // the kNew tokens that follow it
    Tokens drafts;                   // kDraft tokens a round: the accepted ones are those of `next`, the rest are wrong guesses
    std::vector<int32_t> accepted;   // how many of each round are right
    Tokens train;                    // documents packed without padding
    std::vector<int32_t> offsets;    // where they begin, and the end
    Values d_out, d_final, initial;  // of the training step: by token, by document, by document
};

struct Result {
    std::string tensor;
    Values values;
};

struct Outcome {
    std::string engine;
    int64_t tokens = 0;
    double ms = 0;  // of the whole step
    std::vector<Result> results;
};

using Progress = std::function<void(int64_t done, int64_t of)>;

// Serving: prefill, decode and verify over one pool of states.
class Session {
public:
    Session(Backend& backend, const Job& job);
    Outcome prefill(const Progress& progress);  // the prompt, from nothing, to slot kPrompt
    Outcome decode(const Progress& progress);   // kNew calls of one token from slot kPrompt, in place in slot kDecode
    Outcome verify(const Progress& progress);   // rounds of kDraft tokens with rollback, the last tokens one by one

private:
    enum Slot : int32_t { kNone = FLASHQLA_SLOT_NONE, kPrompt = 0, kDecode, kResumed, kFirstDraft };
    static constexpr int32_t kSlots = kFirstDraft + Job::kDraft;

    struct Call {  // one flashqla_forward on rows of `in`, its output to rows of `out`
        const Memory& qkv;
        const Memory& ba;
        int64_t first, tokens;
        Memory& out;
        int64_t first_out;
    };
    flashqla_state slots(int32_t read, int32_t write);  // a row that reads and writes these slots of the pool
    void forward(const Call& call, const flashqla_state& state);
    Values state_of(int32_t slot) const;

    Backend& backend_;
    const Job& job_;
    Memory slot_numbers_;  // on the device: NONE, 0, 1, 2, ... so that a slot table of one row is a pointer into it
    Memory accepted_;      // [rounds + 1]: 0, then the accepted counts
    Memory pool_, a_log_, dt_bias_, prompt_qkv_, prompt_ba_, next_qkv_, next_ba_, draft_qkv_, draft_ba_, prompt_out_, next_out_, draft_out_;
};

// One training step's backward over packed documents: every gradient that there is.
Outcome train(Backend& backend, const Job& job);

// Median time of `run` in milliseconds on a device; on an exact backend it runs once.
double timed(Backend& backend, const std::function<void()>& run);

// Views of packed activations: q, k, v are column ranges of one row, b and a of another. No copies.
template <class Args>  // flashqla_forward_args or flashqla_backward_args
void set_inputs(Args& args, const Shape& s, const Memory& qkv, const Memory& ba, int64_t first, const Memory& a_log, const Memory& dt_bias) {
    const int64_t row = s.channels(), scalars = 2 * int64_t{s.value_heads};
    args.q = qkv.view(first * row, row, s.dim);
    args.k = qkv.view(first * row + s.key_channels(), row, s.dim);
    args.v = qkv.view(first * row + 2 * s.key_channels(), row, s.dim);
    args.beta = ba.view(first * scalars, scalars, 1);
    args.gate = ba.view(first * scalars + s.value_heads, scalars, 1);
    args.A_log = a_log.view();
    args.dt_bias = dt_bias.view();
}

}  // namespace job
