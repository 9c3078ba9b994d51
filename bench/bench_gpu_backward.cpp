// Backward, from what the forward saved (where the engine saves anything), all gradients of the plain form.
#include "bench_gpu.h"

namespace {

void backward(benchmark::State& state, const bench::Case& c) {
    bench::Gpu& gpu = bench::Gpu::get();
    bench::Arena arena;
    bench::Inputs in(arena, c);
    flashqla_query_info forward_info, info;
    void* forward_workspace = bench::prepare(state, arena, in, FLASHQLA_OP_FORWARD, forward_info);
    if (!forward_workspace) return;
    void* workspace = bench::prepare(state, arena, in, FLASHQLA_OP_BACKWARD, info);
    if (!workspace) return;
    if (forward_info.saved_bytes) {
        in.forward.saved = arena.bytes(forward_info.saved_bytes);
        in.forward.saved_bytes = forward_info.saved_bytes;
        if (flashqla_forward(gpu.handle(), &in.problem, &in.sequences, &in.state, &in.forward, forward_workspace, forward_info.workspace_bytes, gpu.stream()))
            return state.SkipWithError(flashqla_last_error());
    }
    const int64_t keys = c.tokens() * c.key_heads * bench::kDim, values = c.tokens() * c.value_heads * bench::kDim, scalars = c.tokens() * c.value_heads;
    const int64_t states = in.sequences.rows * int64_t{c.value_heads} * bench::kDim * bench::kDim;
    const auto wave = [](int64_t i) { return static_cast<float>(i * 37 % 101) / 50 - 1; };
    flashqla_backward_args args;
    flashqla_backward_args_init(&args, sizeof args);
    args.q = in.forward.q, args.k = in.forward.k, args.v = in.forward.v, args.gate = in.forward.gate, args.beta = in.forward.beta;
    args.d_out.data = arena.bf16(values, wave);
    args.d_final.data = arena.f32(states, wave);
    args.dq.data = arena.bytes(static_cast<size_t>(keys) * 2);
    args.dk.data = arena.bytes(static_cast<size_t>(keys) * 2);
    args.dv.data = arena.bytes(static_cast<size_t>(values) * 2);
    args.d_gate.data = arena.bytes(static_cast<size_t>(scalars) * 4);
    args.d_beta.data = arena.bytes(static_cast<size_t>(scalars) * 4);
    args.d_initial.data = arena.bytes(static_cast<size_t>(states) * 4);
    args.saved = in.forward.saved;
    args.saved_bytes = in.forward.saved_bytes;
    if (arena.failed()) return state.SkipWithError("out of device memory");
    bench::measure(state, c, info, [&] {
        return flashqla_backward(gpu.handle(), &in.problem, &in.sequences, &in.state, &args, workspace, info.workspace_bytes, gpu.stream());
    });
}

}  // namespace

int main(int argc, char** argv) {
    for (const char* heads : {"16/32", "8/16", "4/8", "2/4"})
        for (const char* seqs : {"8192", "32768", "3000+1000+4192", "1024x8"}) {
            const bench::Case c(heads, seqs);
            bench::add("backward/" + c.name(), [c](benchmark::State& state) { backward(state, c); });
        }
    return bench::run_all(argc, argv);
}
