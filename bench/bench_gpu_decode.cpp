// Decode: one token a row, L2 norm, VK states in place, as servers call it; and verify of four tokens with per-token states.
#include "bench_gpu.h"

namespace {

void decode(benchmark::State& state, const bench::Case& c, bool verify) {
    bench::Gpu& gpu = bench::Gpu::get();
    bench::Arena arena;
    bench::Inputs in(arena, c);
    const int32_t rows = in.sequences.rows, width = c.longest(), slots = verify ? rows * (1 + width) : rows;
    in.problem.qk_norm = FLASHQLA_NORM_L2;
    in.problem.state_layout = FLASHQLA_STATE_VK;
    in.problem.flags = 0;
    in.sequences.offsets = nullptr;  // rows of equal length
    const size_t pool_bytes = static_cast<size_t>(slots) * static_cast<size_t>(c.value_heads) * bench::kDim * bench::kDim * 4;
    void* pool = arena.bytes(pool_bytes);
    if (arena.failed()) return state.SkipWithError("out of device memory");
    fqla_dev_set(gpu.device(), pool, 0, pool_bytes, gpu.stream());
    in.state.read_data = in.state.write_data = pool;
    in.state.read_slots_count = in.state.write_slots_count = slots;
    if (verify) {
        std::vector<int32_t> table;
        for (int32_t slot = rows; slot < slots; slot++) table.push_back(slot);
        in.state.token_slots = static_cast<const int32_t*>(arena.i32(table));
        in.state.token_width = width;
        in.state.flags = FLASHQLA_STATE_NO_FINAL;
    }
    flashqla_query_info info;
    void* workspace = bench::prepare(state, arena, in, FLASHQLA_OP_FORWARD, info);
    if (!workspace) return;
    bench::measure(state, c, info, [&] {
        return flashqla_forward(gpu.handle(), &in.problem, &in.sequences, &in.state, &in.forward, workspace, info.workspace_bytes, gpu.stream());
    });
}

void add(const char* family, const char* heads, const char* seqs, bool verify) {
    const bench::Case c(heads, seqs);
    bench::add(std::string(family) + "/" + c.name(), [c, verify](benchmark::State& state) { decode(state, c, verify); });
}

}  // namespace

int main(int argc, char** argv) {
    for (const char* heads : {"2/8", "16/32", "16/64"}) {
        for (const char* seqs : {"1", "1x8", "1x64", "1x256"}) add("decode", heads, seqs, false);
        for (const char* seqs : {"4", "4x8", "4x64"}) add("verify", heads, seqs, true);
    }
    return bench::run_all(argc, argv);
}
