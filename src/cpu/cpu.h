// The CPU backend: the same calls as the kernels serve, on host memory, synchronously. See forward.cpp and backward.cpp.
#pragma once
#include <cstdint>

#include "params.h"
#include "plan.h"

namespace fqla::cpu {

class ThreadPool;  // thread_pool.h

const char* simd_name();  // what the running CPU gets: "portable", "avx2", "avx512", "neon"

// Both read and write only what the call describes. `workspace` has plan.workspace's layout. One call at a time a pool.
void forward(ThreadPool& pool, const Forward& call, const Plan& plan, void* workspace);
void backward(ThreadPool& pool, const Backward& call, const Plan& plan, void* workspace);

}  // namespace fqla::cpu
