// Prefill: the heads and rows of bench/compare.py's table.
#include "bench_gpu.h"

namespace {

void forward(benchmark::State& state, const bench::Case& c) {
    bench::Gpu& gpu = bench::Gpu::get();
    bench::Arena arena;
    bench::Inputs in(arena, c);
    in.state.write_data = arena.bytes(c.rows.size() * static_cast<size_t>(c.value_heads) * bench::kDim * bench::kDim * 4);
    flashqla_query_info info;
    void* workspace = bench::prepare(state, arena, in, FLASHQLA_OP_FORWARD, info);
    if (!workspace) return;
    bench::measure(state, c, info, [&] {
        return flashqla_forward(gpu.handle(), &in.problem, &in.sequences, &in.state, &in.forward, workspace, info.workspace_bytes, gpu.stream());
    });
}

}  // namespace

int main(int argc, char** argv) {
    for (const char* heads : {"2/8", "4/16", "8/32", "16/64", "16/32", "16/48", "16/16"})
        for (const char* seqs : {"32768", "8192", "2048", "8192x4", "1024x8"}) {
            const bench::Case c(heads, seqs);
            bench::add("forward/" + c.name(), [c](benchmark::State& state) { forward(state, c); });
        }
    return bench::run_all(argc, argv);
}
