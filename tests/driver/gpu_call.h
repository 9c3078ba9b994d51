// A small forward call on a handle of the fake device. Its "device" pointers are numbers: nothing may follow them.
#pragma once
#include <doctest/doctest.h>
#include <flashqla.h>

#include <cstring>
#include <string>

#include "fake_cuda.h"

inline void* device_pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }

struct GpuCall {
    flashqla_handle* handle = nullptr;
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;
    flashqla_forward_args args;
    flashqla_backward_args grads;
    const flashqla_state* use_state = &state;
    void* const kWorkspace = device_pointer(0x1000000000000);
    static constexpr uint64_t kWorkspaceBytes = uint64_t{1} << 47;
    void* stream = device_pointer(0x5000);

    explicit GpuCall(int32_t device = 0, flashqla_log_fn log = nullptr) {
        flashqla_config config;
        flashqla_config_init(&config, sizeof config);
        config.device = device;
        config.log = log;
        REQUIRE_MESSAGE(flashqla_create(&handle, &config) == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
        flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_QWEN);
        problem.key_heads = 16, problem.value_heads = 32, problem.key_dim = problem.value_dim = 128;
        problem.engine = FLASHQLA_ENGINE_RECURRENT;
        flashqla_sequences_init(&sequences, sizeof sequences);
        sequences.rows = 8, sequences.tokens = 8;
        flashqla_state_init(&state, sizeof state);
        state.read_data = state.write_data = device_pointer(0x700000000000);
        state.read_slots_count = state.write_slots_count = 100;
        state.read_slots = state.write_slots = static_cast<const int32_t*>(device_pointer(0x720000000000));
        flashqla_forward_args_init(&args, sizeof args);
        place();
    }
    ~GpuCall() { flashqla_destroy(handle); }
    GpuCall(const GpuCall&) = delete;
    GpuCall& operator=(const GpuCall&) = delete;

    // Tensors a terabyte apart: none meets another, whatever the bounds.
    void place() {
        uintptr_t next = 0x100000000000;
        const auto put = [&](flashqla_tensor& t) { t.data = device_pointer(next += 0x10000000000); };
        for (flashqla_tensor* t : {&args.q, &args.k, &args.v, &args.gate, &args.beta, &args.A_log, &args.dt_bias, &args.out}) put(*t);
        flashqla_backward_args_init(&grads, sizeof grads);
        for (flashqla_tensor* t :
             {&grads.d_out, &grads.dq, &grads.dk, &grads.dv, &grads.d_gate, &grads.d_beta, &grads.dA_log, &grads.ddt_bias, &grads.d_initial})
            put(*t);
    }

    int32_t forward() { return flashqla_forward(handle, &problem, &sequences, use_state, &args, kWorkspace, kWorkspaceBytes, stream); }
    int32_t backward() {
        grads.q = args.q, grads.k = args.k, grads.v = args.v, grads.gate = args.gate, grads.beta = args.beta, grads.A_log = args.A_log,
        grads.dt_bias = args.dt_bias;
        return flashqla_backward(handle, &problem, &sequences, use_state, &grads, kWorkspace, kWorkspaceBytes, stream);
    }
    int32_t warm() { return flashqla_warmup(handle, &problem, FLASHQLA_OP_FORWARD); }
};

// The last error has all of these parts.
inline bool says(std::initializer_list<const char*> parts) {
    for (const char* part : parts)
        if (!std::strstr(flashqla_last_error(), part)) {
            MESSAGE(std::string(flashqla_last_error()));
            return false;
        }
    return true;
}
