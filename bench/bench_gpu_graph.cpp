// A decode step of 48 layers as one captured graph, as engines replay it: one token a row, raw gates, logits and L2 norm inside, q, k and v
// as views of one packed row, states in place. The graph is captured once for a number of rows; before each replay live rows move to
// other slots, their number and the offsets change, and rows beyond it are empty and PAD. us_a_layer is what a layer of the step costs.
#include <algorithm>
#include <cmath>
#include <random>

#include "bench_gpu.h"

namespace {

constexpr int64_t kLayers = 48;

// The rows that a replay finds alive, of those that the graph was captured for.
struct Live {
    const char* name;
    int32_t least, most;
};

// Layers share activations and tables; each has its own pool.
class DecodeStep {
public:
    DecodeStep(bench::Arena& arena, const bench::Case& c) : rows_(static_cast<int32_t>(c.rows.size())), slots_(rows_ + rows_ / 4 + 1) {
        const int64_t keys = int64_t{c.key_heads} * bench::kDim, width = 2 * keys + int64_t{c.value_heads} * bench::kDim;
        flashqla_problem_init(&problem_, sizeof problem_, FLASHQLA_FORM_QWEN);
        problem_.key_heads = c.key_heads;
        problem_.value_heads = c.value_heads;
        problem_.key_dim = problem_.value_dim = bench::kDim;
        flashqla_sequences_init(&sequences_, sizeof sequences_);
        sequences_.rows = rows_;
        sequences_.tokens = rows_;
        sequences_.max_tokens = 1;
        flashqla_forward_args_init(&args_, sizeof args_);
        const auto wave = [](double step, double size) {
            return [=](int64_t i) { return static_cast<float>(size * std::sin(step * static_cast<double>(i))); };
        };
        auto* qkv = static_cast<uint16_t*>(arena.bf16(rows_ * width, wave(0.7, 1)));
        auto* ba = static_cast<uint16_t*>(arena.bf16(int64_t{2} * rows_ * c.value_heads, wave(1.3, 1)));
        args_.q = view(qkv, width, bench::kDim);
        args_.k = view(qkv + keys, width, bench::kDim);
        args_.v = view(qkv + 2 * keys, width, bench::kDim);
        args_.beta = view(ba, 2 * c.value_heads, 1);
        args_.gate = view(ba + c.value_heads, 2 * c.value_heads, 1);
        args_.A_log.data = arena.f32(c.value_heads, wave(0.9, 1));
        args_.dt_bias.data = arena.f32(c.value_heads, wave(1.1, 1));
        args_.out.data = arena.bytes(static_cast<size_t>(rows_ * c.value_heads * bench::kDim) * 2);
        pool_bytes_ = static_cast<size_t>(slots_) * static_cast<size_t>(c.value_heads) * bench::kDim * bench::kDim * 4;
        pools_ = static_cast<char*>(arena.bytes(pool_bytes_ * kLayers));
        host_tables_.resize(2 * static_cast<size_t>(rows_) + 1);
        tables_ = static_cast<int32_t*>(arena.bytes(host_tables_.size() * 4));
        for (int32_t slot = 0; slot < slots_; slot++) order_.push_back(slot);
        flashqla_state_init(&state_, sizeof state_);
        state_.read_slots_count = state_.write_slots_count = slots_;
        state_.read_slots = state_.write_slots = tables_;
        sequences_.offsets = tables_ + rows_;
    }

    // Asks for the workspace, warms up, zeroes the states. False: the benchmark is skipped.
    bool prepare(benchmark::State& state, bench::Arena& arena) {
        const bench::Gpu& gpu = bench::Gpu::get();
        if (arena.failed()) return state.SkipWithError("out of device memory"), false;
        fqla_dev* device = bench::Gpu::get().device();
        if (fqla_dev_set(device, pools_, 0, pool_bytes_ * kLayers, gpu.stream())) return state.SkipWithError(fqla_dev_error(device)), false;
        info_ = flashqla_query_info{};
        info_.struct_size = sizeof info_;
        state_.read_data = state_.write_data = pools_;
        if (flashqla_query(gpu.handle(), &problem_, &sequences_, &state_, FLASHQLA_OP_FORWARD, &info_) ||
            flashqla_warmup(gpu.handle(), &problem_, FLASHQLA_OP_FORWARD))
            return state.SkipWithError(flashqla_last_error()), false;
        if (info_.status) return state.SkipWithError(info_.reason), false;
        workspace_ = arena.bytes(info_.workspace_bytes);
        if (!workspace_) state.SkipWithError("out of device memory");
        return workspace_ != nullptr;
    }

    int32_t enqueue() {
        const bench::Gpu& gpu = bench::Gpu::get();
        for (int64_t layer = 0; layer < kLayers; layer++) {
            state_.read_data = state_.write_data = pools_ + static_cast<size_t>(layer) * pool_bytes_;
            const int32_t status = flashqla_forward(gpu.handle(), &problem_, &sequences_, &state_, &args_, workspace_, info_.workspace_bytes, gpu.stream());
            if (status) return status;
        }
        return FLASHQLA_STATUS_OK;
    }

    // Other slots for `live` rows; the others are PAD and have no token.
    bool deal(int32_t live) {
        std::shuffle(order_.begin(), order_.end(), random_);
        int32_t *slots = host_tables_.data(), *offsets = slots + rows_;
        for (int32_t n = 0; n < rows_; n++) slots[n] = n < live ? order_[static_cast<size_t>(n)] : FLASHQLA_SLOT_PAD;
        for (int32_t n = 0; n <= rows_; n++) offsets[n] = std::min(n, live);
        return !fqla_dev_upload(bench::Gpu::get().device(), tables_, slots, host_tables_.size() * 4);
    }
    int32_t any(const Live& live) { return std::uniform_int_distribution<int32_t>(live.least, live.most)(random_); }
    const char* engine() const { return info_.engine_name; }

private:
    static flashqla_tensor view(uint16_t* data, int64_t stride_token, int64_t stride_head) {
        flashqla_tensor t{};
        t.data = data;
        t.dtype = FLASHQLA_DTYPE_BF16;
        t.stride_token = stride_token;
        t.stride_head = stride_head;
        return t;
    }

    int32_t rows_, slots_;
    flashqla_problem problem_;
    flashqla_sequences sequences_;
    flashqla_state state_;
    flashqla_forward_args args_;
    flashqla_query_info info_;
    char* pools_ = nullptr;
    size_t pool_bytes_ = 0;
    int32_t* tables_ = nullptr;  // slots, then offsets
    void* workspace_ = nullptr;
    std::vector<int32_t> host_tables_, order_;
    std::mt19937 random_{7};
};

void replay(benchmark::State& state, const bench::Case& c, const Live& live) {
    bench::Gpu& gpu = bench::Gpu::get();
    fqla_dev* d = gpu.device();
    bench::Arena arena;
    DecodeStep step(arena, c);
    if (!step.prepare(state, arena)) return;
    void* graph = nullptr;
    if (!step.deal(live.most) || fqla_dev_stream_sync(d, gpu.stream()) || fqla_dev_capture_begin(d, gpu.stream()))
        return state.SkipWithError(fqla_dev_error(d));
    const int32_t status = step.enqueue();
    if (fqla_dev_capture_end(d, gpu.stream(), &graph) || status) return state.SkipWithError(status ? flashqla_last_error() : fqla_dev_error(d));
    fqla_dev_event start, end;
    if (fqla_dev_event_create(d, &start) || fqla_dev_event_create(d, &end)) return state.SkipWithError(fqla_dev_error(d));
    double seconds = 0, rows = 0;
    for (auto _ : state) {
        (void)_;
        const int32_t count = step.any(live);
        const bool ok = step.deal(count) && gpu.flush() && !fqla_dev_event_record(d, &start, gpu.stream()) && !fqla_dev_graph_launch(d, graph, gpu.stream()) &&
                        !fqla_dev_event_record(d, &end, gpu.stream());
        const double ms = ok ? fqla_dev_elapsed_ms(d, &start, &end) : -1;
        if (ms < 0) {
            state.SkipWithError(fqla_dev_error(d));
            break;
        }
        state.SetIterationTime(ms / 1e3);
        seconds += ms / 1e3, rows += count;
    }
    fqla_dev_event_destroy(d, &start);
    fqla_dev_event_destroy(d, &end);
    fqla_dev_graph_destroy(d, graph);
    const auto replays = static_cast<double>(state.iterations());
    state.SetLabel(step.engine());
    state.counters["us_a_layer"] = seconds * 1e6 / (replays * kLayers);
    state.counters["live_rows"] = rows / replays;
}

void add(const char* heads, const char* seqs, const Live& live) {
    const bench::Case c(heads, seqs);
    bench::add("graph48/" + c.name() + "/" + live.name, [c, live](benchmark::State& state) { replay(state, c, live); });
}

}  // namespace

int main(int argc, char** argv) {
    for (const char* heads : {"2/8", "16/32", "16/64"}) {
        add(heads, "1", {"all", 1, 1});
        add(heads, "1x8", {"all", 8, 8});
        add(heads, "1x64", {"all", 64, 64});
        add(heads, "1x64", {"1_to_64", 1, 64});  // one graph for every number of rows
        add(heads, "1x64", {"8", 8, 8});         // what PAD rows cost, beside 1x8
        add(heads, "1x64", {"none", 0, 0});      // what a replay costs without work
    }
    return bench::run_all(argc, argv);
}
