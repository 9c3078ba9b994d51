// Forward on the CPU. `--benchmark_filter=f32/vk` is what ggml's op computes: compare best_ms.
#include "cpu_problem.h"

namespace {

void forward(benchmark::State& state, int32_t dtype, int32_t layout) {
    const bench::Shape shape = bench::shape_of(state, dtype, layout);
    bench::CpuProblem p(shape);
    bench::Buffer out(dtype, p.value_count());
    flashqla_forward_args args;
    bench::check(flashqla_forward_args_init(&args, sizeof args));
    args.q = p.q.tensor();
    args.k = p.k.tensor();
    args.v = p.v.tensor();
    args.gate = p.gate.tensor();
    args.beta = p.beta.tensor();
    args.out = out.tensor();
    bench::time_calls(state, shape, [&] { bench::check(flashqla_forward(p.handle, &p.problem, &p.sequences, &p.state, &args, nullptr, 0, nullptr)); });
}

BENCHMARK_CAPTURE(forward, f32 / vk, FLASHQLA_DTYPE_F32, FLASHQLA_STATE_VK)->Apply(bench::add_shapes);
BENCHMARK_CAPTURE(forward, f32 / kv, FLASHQLA_DTYPE_F32, FLASHQLA_STATE_KV)->Apply(bench::add_shapes);
BENCHMARK_CAPTURE(forward, bf16 / vk, FLASHQLA_DTYPE_BF16, FLASHQLA_STATE_VK)->Apply(bench::add_shapes);

}  // namespace

BENCHMARK_MAIN();
