// What a call is, as plain data: made once by src/api from the public structs, read alike by the CPU backend and by every kernel.
// Compiled by g++ and nvcc; layouts are asserted below so that both sides agree.
#pragma once
#include <stdint.h>

#include "flashqla.h"

namespace fqla {

constexpr int64_t element_bytes(int32_t dtype) { return dtype == FLASHQLA_DTYPE_F64 ? 8 : dtype == FLASHQLA_DTYPE_F32 ? 4 : 2; }

// A tensor with resolved strides (never "all zero means packed"; `row` is 0 where offsets are given) and a resolved dtype.
struct View {
    void* data;
    int64_t row, token, head;  // strides in elements
    int32_t dtype;             // FLASHQLA_DTYPE_*
    int32_t reserved;
};

// The mathematics: flashqla_problem with every default filled in.
struct Form {
    int32_t key_heads, value_heads;
    int32_t key_dim, value_dim;
    int32_t dtype, state_dtype;
    int32_t head_map, gate, beta, qk_norm, state_layout;
    int32_t reserved;
    double beta_scale, scale, eps;
};

// Of the states of one row, all its heads.
constexpr int64_t state_elements(const Form& form) { return int64_t{form.value_heads} * form.key_dim * form.value_dim; }

struct Rows {
    const void* offsets;  // [count + 1] or null: `count` rows of max_tokens each
    int64_t tokens;       // extent of the tensors
    int64_t max_tokens;   // no row is longer
    int32_t count;
    int32_t offsets_are_64bit;
    int32_t least, most;  // tokens of the rows that this launch serves, where a call's rows are shared out by length; 0: no bound
};

// One side of the states. Null data: zero start, or nothing stored.
struct Pool {
    void* data;
    const int32_t* table;  // [rows] or null: slot n for row n
    int64_t slots, slot_stride;
};

struct StateIo {
    Pool read, write;
    const int32_t* checkpoint_slots;  // [rows, checkpoint_width] into `write`
    int64_t checkpoint_width;
    int64_t checkpoint_interval;  // 0: none
    const int32_t* token_slots;   // [rows, token_width] into `write`
    int64_t token_width;
    const int32_t* accepted;  // [rows] or null
    int32_t store_final;      // 0: final states are not stored
    int32_t reserved;
};

struct Inputs {
    View q, k, v, gate, beta, a_log, dt_bias;
};

struct Forward {
    Form form;
    Rows rows;
    StateIo state;
    Inputs in;
    View out;
};

// Gradients with null data are not wanted.
struct Gradients {
    View q, k, v, gate, beta, a_log, dt_bias, initial;
};

struct Backward {
    Form form;
    Rows rows;
    StateIo state;  // read side only
    Inputs in;
    View d_out, d_final;
    Gradients grad;
};

static_assert(sizeof(View) == 40 && sizeof(Form) == 72 && sizeof(Rows) == 40 && sizeof(Pool) == 32 && sizeof(StateIo) == 120, "layout");
static_assert(sizeof(Inputs) == 280 && sizeof(Forward) == 552 && sizeof(Gradients) == 320 && sizeof(Backward) == 912, "layout");

// GMIN of the gates (alpha = 0 and g = -inf enter as this): exp(-40) = 4e-18 is below any f32 rounding, and no -inf - -inf can arise.
constexpr double kMinLogGate = -40.0;
// From where on APPROXIMATE_WARMUP counts a state as forgotten; without it that is kMinLogGate.
constexpr double kApproximateLogDecay = -10.0;

}  // namespace fqla
