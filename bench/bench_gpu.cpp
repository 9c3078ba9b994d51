#include "bench_gpu.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>

namespace bench {
namespace {

float noise(int64_t i) {  // uniform in [-1, 1), the same on every machine
    auto x = static_cast<uint64_t>(i) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 31)) * 0xbf58476d1ce4e5b9u;
    return static_cast<float>(static_cast<double>(x >> 11) / 4503599627370496.0 - 1.0);
}

uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace

Case::Case(const char* heads_in, const char* seqs_in) : heads(heads_in), seqs(seqs_in) {
    char* end = nullptr;
    key_heads = static_cast<int32_t>(std::strtol(heads, &end, 10));
    value_heads = static_cast<int32_t>(std::strtol(end + 1, &end, 10));
    for (const char* at = seqs; *at; at = *end == '+' ? end + 1 : end) {
        const auto length = static_cast<int32_t>(std::strtol(at, &end, 10));
        const long count = *end == 'x' ? std::strtol(end + 1, &end, 10) : 1;
        rows.insert(rows.end(), static_cast<size_t>(count), length);
    }
}

int64_t Case::tokens() const { return std::accumulate(rows.begin(), rows.end(), int64_t{0}); }
int32_t Case::longest() const { return *std::max_element(rows.begin(), rows.end()); }

// ---- the GPU

Gpu& Gpu::get() {
    static Gpu gpu;
    return gpu;
}

Gpu::Gpu() {
    if (fqla_dev_open(&device_, 0) || fqla_dev_stream_create(&device_, &stream_)) {
        why_not_ = fqla_dev_error(&device_);
        return;
    }
    flashqla_config config;
    flashqla_config_init(&config, sizeof config);
    config.device = device_.ordinal;
    if (flashqla_create(&handle_, &config)) why_not_ = flashqla_last_error();
    constexpr int kL2Bytes = 38;
    flush_bytes_ = 2 * static_cast<size_t>(fqla_dev_attribute(&device_, kL2Bytes));
    flush_memory_ = fqla_dev_alloc(&device_, flush_bytes_);
    if (!flush_memory_) why_not_ = fqla_dev_error(&device_);
}

bool Gpu::flush() { return !fqla_dev_set(&device_, flush_memory_, 0, flush_bytes_, stream_); }

// ---- memory

Arena::~Arena() {
    for (void* memory : memory_) fqla_dev_free(Gpu::get().device(), memory);
}

void* Arena::bytes(size_t count) {
    void* memory = fqla_dev_alloc(Gpu::get().device(), count);
    failed_ |= !memory;
    memory_.push_back(memory);
    return memory;
}

// The first million numbers are made, the rest repeats them: large cases would else spend minutes on the host.
template <class T, class Make>
static void* filled(Arena& arena, int64_t count, Make make) {
    constexpr int64_t kPeriod = 1 << 20;
    fqla_dev* d = Gpu::get().device();
    std::vector<T> host(static_cast<size_t>(std::min(count, kPeriod)));
    for (size_t i = 0; i < host.size(); i++) host[i] = make(static_cast<int64_t>(i));
    auto* memory = static_cast<T*>(arena.bytes(static_cast<size_t>(count) * sizeof(T)));
    if (!memory) return nullptr;
    for (int64_t at = 0; at < count; at += kPeriod)
        fqla_dev_upload(d, memory + at, host.data(), static_cast<size_t>(std::min(count - at, kPeriod)) * sizeof(T));
    return memory;
}

void* Arena::bf16(int64_t count, const std::function<float(int64_t)>& value) {
    return filled<uint16_t>(*this, count, [&](int64_t i) { return to_bf16(value(i)); });
}
void* Arena::f32(int64_t count, const std::function<float(int64_t)>& value) { return filled<float>(*this, count, value); }
void* Arena::i32(const std::vector<int32_t>& values) {
    return filled<int32_t>(*this, static_cast<int64_t>(values.size()), [&](int64_t i) { return values[static_cast<size_t>(i)]; });
}

// ---- a call

Inputs::Inputs(Arena& arena, const Case& c) {
    const int64_t keys = c.tokens() * c.key_heads * kDim, values = c.tokens() * c.value_heads * kDim, scalars = c.tokens() * c.value_heads;
    flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN);
    problem.key_heads = c.key_heads;
    problem.value_heads = c.value_heads;
    problem.key_dim = problem.value_dim = kDim;
    problem.flags = FLASHQLA_PROBLEM_KEYS_BOUNDED;  // unit keys and beta < 1

    std::vector<int32_t> offsets{0};
    for (const int32_t row : c.rows) offsets.push_back(offsets.back() + row);
    flashqla_sequences_init(&sequences, sizeof sequences);
    sequences.rows = static_cast<int32_t>(c.rows.size());
    sequences.tokens = c.tokens();
    sequences.max_tokens = c.longest();
    sequences.offsets = arena.i32(offsets);

    flashqla_forward_args_init(&forward, sizeof forward);
    const float unit = std::sqrt(3.0f / kDim);  // uniform noise of this size has norm 1
    forward.q.data = arena.bf16(keys, [&](int64_t i) { return unit * noise(i); });
    forward.k.data = arena.bf16(keys, [&](int64_t i) { return unit * noise(i + keys); });
    forward.v.data = arena.bf16(values, [&](int64_t i) { return 1.7f * noise(3 * i + 1); });
    forward.gate.data = arena.f32(scalars, [&](int64_t i) { return i % 4 == 3 ? 0 : -std::log1p(std::exp(-1.7f * noise(5 * i + 2))) / 16; });
    forward.beta.data = arena.f32(scalars, [&](int64_t i) { return 1 / (1 + std::exp(-1.7f * noise(7 * i + 3))); });
    forward.out.data = arena.bytes(static_cast<size_t>(values) * 2);

    flashqla_state_init(&state, sizeof state);
    state.read_data = arena.f32(sequences.rows * int64_t{c.value_heads} * kDim * kDim, [](int64_t i) { return noise(11 * i + 4); });
}

void* prepare(benchmark::State& state, Arena& arena, const Inputs& inputs, int32_t op, flashqla_query_info& info) {
    const Gpu& gpu = Gpu::get();
    memset(&info, 0, sizeof info);
    info.struct_size = sizeof info;
    if (arena.failed()) return state.SkipWithError("out of device memory"), nullptr;
    if (flashqla_query(gpu.handle(), &inputs.problem, &inputs.sequences, &inputs.state, op, &info)) return state.SkipWithError(flashqla_last_error()), nullptr;
    if (info.status) return state.SkipWithError(info.reason), nullptr;
    if (flashqla_warmup(gpu.handle(), &inputs.problem, op)) return state.SkipWithError(flashqla_last_error()), nullptr;
    void* workspace = arena.bytes(info.workspace_bytes);
    if (!workspace) state.SkipWithError("out of device memory");
    return workspace;
}

void measure(benchmark::State& state, const Case& c, const flashqla_query_info& info, const std::function<int32_t()>& call) {
    Gpu& gpu = Gpu::get();
    fqla_dev* d = gpu.device();
    void *stream = gpu.stream(), *graph = nullptr;
    double host_us = 1e30;
    for (int i = 0; i < 3; i++) {  // the host's own time, the stream being idle
        fqla_dev_stream_sync(d, stream);
        const double begin = fqla_dev_clock_ms();
        if (call()) return state.SkipWithError(flashqla_last_error());
        host_us = std::min(host_us, (fqla_dev_clock_ms() - begin) * 1e3);
    }
    if (fqla_dev_stream_sync(d, stream) || fqla_dev_capture_begin(d, stream)) return state.SkipWithError(fqla_dev_error(d));
    const int32_t status = call();
    if (fqla_dev_capture_end(d, stream, &graph) || status) return state.SkipWithError(status ? flashqla_last_error() : fqla_dev_error(d));
    fqla_dev_event start, end;
    if (fqla_dev_event_create(d, &start) || fqla_dev_event_create(d, &end)) return state.SkipWithError(fqla_dev_error(d));
    for (auto _ : state) {
        (void)_;
        const bool ok =
            gpu.flush() && !fqla_dev_event_record(d, &start, stream) && !fqla_dev_graph_launch(d, graph, stream) && !fqla_dev_event_record(d, &end, stream);
        const double ms = ok ? fqla_dev_elapsed_ms(d, &start, &end) : -1;
        if (ms < 0) {
            state.SkipWithError(fqla_dev_error(d));
            break;
        }
        state.SetIterationTime(ms / 1e3);
    }
    fqla_dev_event_destroy(d, &start);
    fqla_dev_event_destroy(d, &end);
    fqla_dev_graph_destroy(d, graph);
    state.SetItemsProcessed(state.iterations() * c.tokens());
    state.SetLabel(info.engine_name);
    state.counters["host_us"] = host_us;
    state.counters["workspace_MiB"] = static_cast<double>(info.workspace_bytes) / 1048576;
}

void add(const std::string& name, const std::function<void(benchmark::State&)>& run) {
    benchmark::RegisterBenchmark(name.c_str(), run)->UseManualTime()->Iterations(kIterations)->Unit(benchmark::kMillisecond);
}

int run_all(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    if (const char* why = Gpu::get().why_not()) {
        std::printf("skipped: %s\n", why);
        return 0;
    }
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}

}  // namespace bench
