// What the GPU benchmarks share: a device with a handle, tensors of the plain form on it, and the clock.
//
// The clock is that of compare.py: one call is captured into a graph, the L2 cache is flushed, the replay is timed by events; Google
// Benchmark repeats. Inputs are as FlashQLA's own benchmark has them: unit q and k, sigmoid beta, three quarters of the heads decay gently.
#pragma once
#include <benchmark/benchmark.h>

#include <functional>
#include <string>
#include <vector>

#include "device.h"  // first: it asks for POSIX
#include "flashqla.h"

namespace bench {

struct Case {
    const char* heads;  // "16/32": key heads, value heads
    const char* seqs;   // "8192x4+100": rows of tokens
    int32_t key_heads = 0, value_heads = 0;
    std::vector<int32_t> rows;
    Case(const char* heads, const char* seqs);
    int64_t tokens() const;
    int32_t longest() const;
    std::string name() const { return std::string(heads) + "/" + seqs; }
};

constexpr int32_t kDim = 128;
constexpr int kIterations = 30;  // fixed, since each search for a number of them would make the inputs anew

// The GPU with its handle; `why_not` tells what is missing, and then nothing is measured.
class Gpu {
public:
    static Gpu& get();
    const char* why_not() const { return why_not_.empty() ? nullptr : why_not_.c_str(); }
    const flashqla_handle* handle() const { return handle_; }
    fqla_dev* device() { return &device_; }
    void* stream() const { return stream_; }
    bool flush();  // writes over more memory than the L2 cache holds

    Gpu(const Gpu&) = delete;
    Gpu& operator=(const Gpu&) = delete;

private:
    Gpu();
    fqla_dev device_;
    flashqla_handle* handle_ = nullptr;
    void* stream_ = nullptr;
    void* flush_memory_ = nullptr;
    size_t flush_bytes_ = 0;
    std::string why_not_;
};

// Device memory of one benchmark, freed together.
class Arena {
public:
    ~Arena();
    void* bytes(size_t count);
    void* bf16(int64_t count, const std::function<float(int64_t)>& value);
    void* f32(int64_t count, const std::function<float(int64_t)>& value);
    void* i32(const std::vector<int32_t>& values);
    bool failed() const { return failed_; }

private:
    std::vector<void*> memory_;
    bool failed_ = false;
};

// Inputs of a call: q, k, v, log gates, beta, offsets, initial states.
struct Inputs {
    Inputs(Arena& arena, const Case& c);
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;  // reads h0
    flashqla_forward_args forward;
};

// The workspace for op, or NULL with `state` skipped; also warms up.
void* prepare(benchmark::State& state, Arena& arena, const Inputs& inputs, int32_t op, flashqla_query_info& info);

// Runs the benchmark loop over `call`, which returns a flashqla status.
void measure(benchmark::State& state, const Case& c, const flashqla_query_info& info, const std::function<int32_t()>& call);

// Registers a benchmark that `run` measures.
void add(const std::string& name, const std::function<void(benchmark::State&)>& run);

// Runs what was registered; without a GPU it only says so.
int run_all(int argc, char** argv);

}  // namespace bench
