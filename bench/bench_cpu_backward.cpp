// Backward on the CPU, every gradient.
#include <memory>

#include "cpu_problem.h"

namespace {

void backward(benchmark::State& state, int32_t dtype, int32_t layout) {
    const bench::Shape shape = bench::shape_of(state, dtype, layout);
    bench::CpuProblem p(shape);
    bench::Buffer d_out = p.values(), dq(dtype, p.key_count()), dk(dtype, p.key_count()), dv(dtype, p.value_count());
    bench::Buffer d_gate(FLASHQLA_DTYPE_F32, p.gate_count()), d_beta(FLASHQLA_DTYPE_F32, p.gate_count()), d_initial(FLASHQLA_DTYPE_F32, p.states());
    flashqla_backward_args args;
    bench::check(flashqla_backward_args_init(&args, sizeof args));
    args.q = p.q.tensor();
    args.k = p.k.tensor();
    args.v = p.v.tensor();
    args.gate = p.gate.tensor();
    args.beta = p.beta.tensor();
    args.d_out = d_out.tensor();
    args.d_final = p.start.tensor();
    args.dq = dq.tensor();
    args.dk = dk.tensor();
    args.dv = dv.tensor();
    args.d_gate = d_gate.tensor();
    args.d_beta = d_beta.tensor();
    args.d_initial = d_initial.tensor();

    flashqla_query_info info{};
    info.struct_size = sizeof info;
    bench::check(flashqla_query(p.handle, &p.problem, &p.sequences, &p.state, FLASHQLA_OP_BACKWARD, &info));
    const size_t bytes = (info.workspace_bytes + 255) / 256 * 256;
    const std::unique_ptr<void, void (*)(void*)> workspace(std::aligned_alloc(256, bytes), std::free);
    bench::time_calls(state, shape,
                      [&] { bench::check(flashqla_backward(p.handle, &p.problem, &p.sequences, &p.state, &args, workspace.get(), bytes, nullptr)); });
}

BENCHMARK_CAPTURE(backward, f32 / vk, FLASHQLA_DTYPE_F32, FLASHQLA_STATE_VK)->Apply(bench::add_shapes);
BENCHMARK_CAPTURE(backward, bf16 / vk, FLASHQLA_DTYPE_BF16, FLASHQLA_STATE_VK)->Apply(bench::add_shapes);

}  // namespace

BENCHMARK_MAIN();
