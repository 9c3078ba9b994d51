// One sequence on a CPU handle, as a decoding or training model calls it: L2-normalised q and k, log gates, beta as a value, f32 states.
// Shapes, tiled heads, [V, K] states and inputs are those that ggml's op is timed with, so the two tables can be laid side by side.
#pragma once
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "flashqla.h"

namespace bench {

inline void check(int32_t status) {
    if (status == FLASHQLA_STATUS_OK) return;
    std::fprintf(stderr, "%s: %s\n", flashqla_status_name(status), flashqla_last_error());
    std::exit(1);
}

// Elements of f32 or bf16.
class Buffer {
public:
    template <class Next>
    Buffer(int32_t dtype, size_t count, Next next) : dtype_(dtype), bytes_(count * (dtype == FLASHQLA_DTYPE_F32 ? 4 : 2)) {
        for (size_t i = 0; i < count; i++) put(i, next());
    }
    explicit Buffer(int32_t dtype, size_t count) : Buffer(dtype, count, [] { return 0.0f; }) {}
    flashqla_tensor tensor() {
        flashqla_tensor t{};
        t.data = bytes_.data();
        t.dtype = dtype_;
        return t;
    }
    void* data() { return bytes_.data(); }

private:
    void put(size_t i, float x) {
        if (dtype_ == FLASHQLA_DTYPE_F32)
            std::memcpy(&bytes_[4 * i], &x, 4);
        else
            std::memcpy(&bytes_[2 * i], reinterpret_cast<const char*>(&x) + 2, 2);  // bf16: the upper half, cut
    }
    int32_t dtype_;
    std::vector<char> bytes_;
};

struct Shape {
    int32_t key_heads, value_heads;
    int64_t tokens;
    int32_t threads, dtype, layout;
};

constexpr int32_t kDim = 128;

class CpuProblem {
public:
    explicit CpuProblem(const Shape& s)
        : shape_(s),
          q(keys()),
          k(keys()),
          v(values()),
          gate(per_token([this] { return -std::log1p(std::exp(normal())) / 16; })),
          beta(per_token([this] { return 1 / (1 + std::exp(-normal())); })),
          start(FLASHQLA_DTYPE_F32, states(), [this] { return 0.3f * normal(); }),
          final(FLASHQLA_DTYPE_F32, states()) {
        flashqla_config config;
        check(flashqla_config_init(&config, sizeof config));
        config.device = FLASHQLA_DEVICE_CPU;
        config.threads = s.threads;
        check(flashqla_create(&handle, &config));
        check(flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN));
        problem.key_heads = s.key_heads;
        problem.value_heads = s.value_heads;
        problem.key_dim = problem.value_dim = kDim;
        problem.dtype = s.dtype;
        problem.head_map = FLASHQLA_HEADS_TILED;
        problem.state_layout = s.layout;
        check(flashqla_sequences_init(&sequences, sizeof sequences));
        sequences.rows = 1;
        sequences.tokens = s.tokens;
        check(flashqla_state_init(&state, sizeof state));
        state.read_data = start.data();
        state.write_data = final.data();
    }
    ~CpuProblem() { flashqla_destroy(handle); }
    CpuProblem(const CpuProblem&) = delete;
    CpuProblem& operator=(const CpuProblem&) = delete;

    size_t key_count() const { return static_cast<size_t>(shape_.tokens * shape_.key_heads * kDim); }
    size_t value_count() const { return gate_count() * kDim; }
    size_t gate_count() const { return static_cast<size_t>(shape_.tokens * shape_.value_heads); }
    size_t states() const { return static_cast<size_t>(shape_.value_heads) * kDim * kDim; }
    Buffer values() {
        return Buffer(shape_.dtype, value_count(), [this] { return normal(); });
    }

private:
    float normal() { return normal_(random_); }
    // Unit length but for noise of 1/sqrt(kDim).
    Buffer keys() {
        return Buffer(shape_.dtype, key_count(), [this] { return normal() / std::sqrt(static_cast<float>(kDim)); });
    }
    template <class Next>
    Buffer per_token(Next next) {
        return Buffer(FLASHQLA_DTYPE_F32, gate_count(), next);
    }

    Shape shape_;
    std::mt19937 random_{7};
    std::normal_distribution<float> normal_;

public:
    Buffer q, k, v, gate, beta, start, final;
    flashqla_handle* handle = nullptr;
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;
};

// Times call() and keeps the best iteration beside the mean: other programs on the machine only ever add time.
template <class Call>
void time_calls(benchmark::State& state, const Shape& shape, const Call& call) {
    using Clock = std::chrono::steady_clock;
    call();
    call();
    double best = 1e30;
    for (auto _ : state) {
        const Clock::time_point begin = Clock::now();
        call();
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        state.SetIterationTime(seconds);
        best = seconds < best ? seconds : best;
    }
    state.counters["best_ms"] = best * 1e3;
    state.counters["tokens/s"] = benchmark::Counter(static_cast<double>(shape.tokens), benchmark::Counter::kIsIterationInvariantRate);
}

// heads, T and threads of the results file; "f32/vk" and so on chooses dtype and layout.
inline void add_shapes(benchmark::internal::Benchmark* b) {
    b->ArgNames({"HK", "HV", "T", "threads"})->UseManualTime()->Unit(benchmark::kMillisecond);
    const int64_t heads[][2] = {{16, 32}, {2, 8}, {16, 16}};
    for (const auto& h : heads)
        for (int64_t tokens : {1, 64, 512, 2048})
            for (int64_t threads : {1, 2}) b->Args({h[0], h[1], tokens, threads});
}

inline Shape shape_of(const benchmark::State& state, int32_t dtype, int32_t layout) {
    return {static_cast<int32_t>(state.range(0)), static_cast<int32_t>(state.range(1)), state.range(2), static_cast<int32_t>(state.range(3)), dtype, layout};
}

}  // namespace bench
