#include "call.h"

#include <cmath>

namespace {

float* filled(Arena& memory, size_t count, float first, float step) {
    float* p = memory.take<float>(count);
    for (size_t i = 0; i < count; i++) p[i] = first + step * std::sin(static_cast<float>(i));
    return p;
}

int32_t* table(Arena& memory, int count, int32_t value) {
    auto* p = memory.take<int32_t>(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) p[i] = value;
    return p;
}

}  // namespace

Call::Call(int threads) {
    constexpr size_t keys = kTokens * kKeyHeads * kKeyDim, values = kTokens * kValueHeads * kValueDim, scalars = kTokens * kValueHeads;
    q = filled(memory, keys, 0.1F, 0.3F);
    k = filled(memory, keys, 0.0F, 0.3F);
    v = filled(memory, values, 0.2F, 1.0F);
    gate = filled(memory, scalars, -0.5F, 0.3F);
    beta = filled(memory, scalars, 0.5F, 0.3F);
    a_log = filled(memory, kValueHeads, 0.0F, 0.1F);
    dt_bias = filled(memory, kValueHeads, 0.0F, 0.1F);
    out = memory.take<float>(values);
    d_out = filled(memory, values, 0.0F, 1.0F);
    dq = memory.take<float>(keys);
    dk = memory.take<float>(keys);
    dv = memory.take<float>(values);
    d_gate = memory.take<float>(scalars);
    d_beta = memory.take<float>(scalars);
    d_a_log = memory.take<float>(kValueHeads);
    d_dt_bias = memory.take<float>(kValueHeads);
    d_final = filled(memory, kRows * kState, 0.0F, 0.1F);
    d_initial = memory.take<float>(kRows * kState);
    read_pool = filled(memory, kSlots * kState, 0.0F, 0.5F);
    write_pool = memory.take<float>(kSlots * kState);
    offsets = table(memory, kRows + 1, 0);
    read_slots = table(memory, kRows, 0);
    write_slots = table(memory, kRows, 0);
    checkpoint_slots = table(memory, kRows * kTableWidth, FLASHQLA_SLOT_PAD);
    token_slots = table(memory, kRows * kTableWidth, FLASHQLA_SLOT_PAD);
    accepted = table(memory, kRows, 0);
    scratch = memory.take<char>(kScratch);
    for (int n = 0; n < kRows; n++) offsets[n + 1] = 4 * (n + 1), read_slots[n] = n, write_slots[n] = kSlots - 1 - n;

    flashqla_config config;
    REQUIRE(flashqla_config_init(&config, sizeof config) == FLASHQLA_STATUS_OK);
    config.device = FLASHQLA_DEVICE_CPU;
    config.threads = threads;
    REQUIRE(flashqla_create(&handle, &config) == FLASHQLA_STATUS_OK);
    use_handle = handle;

    flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN);
    problem.key_heads = kKeyHeads, problem.value_heads = kValueHeads, problem.key_dim = kKeyDim, problem.value_dim = kValueDim;
    problem.dtype = FLASHQLA_DTYPE_F32;
    flashqla_sequences_init(&sequences, sizeof sequences);
    sequences.rows = kRows, sequences.tokens = kTokens;
    flashqla_state_init(&state, sizeof state);
    flashqla_forward_args_init(&args, sizeof args);
    args.q.data = q, args.k.data = k, args.v.data = v, args.gate.data = gate, args.beta.data = beta, args.out.data = out;
    flashqla_backward_args_init(&grads, sizeof grads);
    grads.q.data = q, grads.k.data = k, grads.v.data = v, grads.gate.data = gate, grads.beta.data = beta, grads.d_out.data = d_out;
    grads.dq.data = dq, grads.dk.data = dk, grads.dv.data = dv, grads.d_gate.data = d_gate, grads.d_beta.data = d_beta;
    grads.d_final.data = d_final, grads.d_initial.data = d_initial;
    info = {};
    info.struct_size = sizeof info;
    workspace = scratch;
    workspace_bytes = kScratch;
    memory.remember();
}

void Call::make_raw() {
    problem.gate = FLASHQLA_GATE_RAW;
    args.A_log.data = grads.A_log.data = a_log;
    args.dt_bias.data = grads.dt_bias.data = dt_bias;
    grads.dA_log.data = d_a_log;
    grads.ddt_bias.data = d_dt_bias;
}

void Call::give_states() {
    state.read_data = read_pool, state.read_slots_count = kSlots, state.read_slots = read_slots;
    state.write_data = write_pool, state.write_slots_count = kSlots, state.write_slots = write_slots;
}

void Call::give_offsets() { sequences.offsets = offsets; }

int32_t Call::forward() { return flashqla_forward(use_handle, use_problem, use_sequences, use_state, use_args, workspace, workspace_bytes, stream); }

int32_t Call::backward() { return flashqla_backward(use_handle, use_problem, use_sequences, use_state, use_grads, workspace, workspace_bytes, stream); }

int32_t Call::query(int32_t op) { return flashqla_query(use_handle, use_problem, use_sequences, use_state, op, &info); }
