// A well-formed call on a CPU handle, which tests then break at one place.
#pragma once
#include <doctest/doctest.h>
#include <flashqla.h>

#include <cstdint>

#include "arena.h"

// 3 rows of 4 tokens, 2/4 heads, K 8, V 16, all f32.
struct Call {
    static constexpr int kRows = 3, kTokens = 12, kKeyHeads = 2, kValueHeads = 4, kKeyDim = 8, kValueDim = 16, kSlots = 6;
    static constexpr int kState = kValueHeads * kKeyDim * kValueDim, kTableWidth = 4;

    explicit Call(int threads = 2);
    ~Call() { flashqla_destroy(handle); }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    // Raw gates, with their two tensors.
    void make_raw();
    // Both pools given, one slot a row.
    void give_states();
    void give_offsets();

    int32_t forward();
    int32_t backward();
    int32_t query(int32_t op);

    Arena memory{1 << 20};
    float *q, *k, *v, *gate, *beta, *a_log, *dt_bias, *out;
    float *d_out, *dq, *dk, *dv, *d_gate, *d_beta, *d_a_log, *d_dt_bias, *d_final, *d_initial;
    float *read_pool, *write_pool;
    int32_t *offsets, *read_slots, *write_slots, *checkpoint_slots, *token_slots, *accepted;
    char* scratch;  // kScratch bytes
    static constexpr uint64_t kScratch = 256 << 10;

    flashqla_handle* handle = nullptr;
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;
    flashqla_forward_args args;
    flashqla_backward_args grads;
    flashqla_query_info info;

    // What is handed over: NULL where a test says so.
    const flashqla_handle* use_handle;
    const flashqla_problem* use_problem = &problem;
    const flashqla_sequences* use_sequences = &sequences;
    const flashqla_state* use_state = &state;
    const flashqla_forward_args* use_args = &args;
    const flashqla_backward_args* use_grads = &grads;
    void* workspace = nullptr;
    uint64_t workspace_bytes = 0;
    void* stream = nullptr;
};

template <class T>
T* shifted(T* p, int bytes) {
    return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + static_cast<uintptr_t>(bytes));
}
