// What the planner knows of a call: numbers from the host, never a pointer.
#pragma once
#include <cstdint>

#include "params.h"

namespace fqla {

struct Problem {
    Form form;
    uint64_t flags;  // FLASHQLA_PROBLEM_*
    int32_t engine;  // FLASHQLA_ENGINE_*
};

struct Bounds {
    int64_t rows, tokens, max_tokens;
    bool offsets;  // rows are cut on the device; else all have max_tokens
};

// Which parts of flashqla_state a call uses.
struct StateUse {
    bool read, write, checkpoints, token_states;
};

struct Request {
    int32_t op;  // FLASHQLA_OP_*
    Problem problem;
    Bounds bounds;
    StateUse state;
    bool aligned_16_bytes;        // q, k, v, out and their strides
    bool decode_reaches = false;  // decode.h
    bool saved = false;           // the forward saves for its backward, the backward reads that; only where saved_bytes (plan.h) is not 0
    int64_t segments = 0;         // that context parallelism would cut each row into: make_plan finds them once, for all engines
    bool cut = false;             // without chunk records: the kernels of cut.h find them; `segments` is then what it would be with records
    double cut_us = 0;            // what that is estimated at
    int64_t long_rows = 0;        // only longer rows are the engine's (row_split.h), and so many are reckoned with; 0: all rows are

    int64_t engine_rows() const { return long_rows ? long_rows : bounds.rows; }
};

}  // namespace fqla
