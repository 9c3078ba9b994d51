// The library's kernels as functions of the CPU, by their symbols.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace emulated {

struct Kernel {
    const char* name;
    size_t parameter_bytes;
    int cluster;                                            // blocks of a cluster, as its __cluster_dims__ say
    std::function<void()> (*bind)(const void* parameters);  // one thread's run
};

const Kernel* find_kernel(const char* name);  // null: no such kernel

}  // namespace emulated
