// CUDA C++ for g++, in front of every kernel source: qualifiers, built-in variables, warp functions and intrinsics that the kernels use.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "multiprocessor.h"
#include "numbers.h"

#undef __device__
#undef __host__
#undef __global__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __cluster_dims__
#undef __grid_constant__
#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __cluster_dims__(x, y, z) __attribute__((section("fqla_cluster_" #x)))  // which kernels.cpp tells it by
#define __grid_constant__
// Of a block, which one host thread runs to its end, with what the block before it left; clusters use dynamic shared memory alone.
#define __shared__ static thread_local

#define threadIdx (emulated::me().thread)
#define blockIdx (emulated::me().block)
#define blockDim (emulated::g_block)
#define gridDim (emulated::g_grid)

using std::max;
using std::min;

inline void __syncthreads() { emulated::machine().sync_named(0, static_cast<int>(emulated::g_block.x)); }
inline void __syncwarp() { emulated::machine().meet_warp(0); }

namespace emulated {

inline int lane() { return static_cast<int>(me().thread.x) % kWarp; }

// What lane `from` has brought; -1: this lane's own.
template <class T>
T exchange(T mine, int from) {
    static_assert(sizeof(T) <= 8, "one word");
    uint64_t bits = 0;
    memcpy(&bits, &mine, sizeof mine);
    const uint64_t* all = machine().meet_warp(bits);
    T theirs;
    memcpy(&theirs, all + (from < 0 || from >= kWarp ? lane() : from), sizeof theirs);
    return theirs;
}

}  // namespace emulated

template <class T>
T __shfl_sync(unsigned, T x, int from) {
    return emulated::exchange(x, from & 31);
}
template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
    return emulated::exchange(x, emulated::lane() ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T x, int distance) {
    return emulated::exchange(x, emulated::lane() - distance);
}
template <class T>
T __shfl_down_sync(unsigned, T x, int distance) {
    return emulated::exchange(x, emulated::lane() + distance);
}
inline unsigned __ballot_sync(unsigned, bool x) {
    const uint64_t* all = emulated::machine().meet_warp(x);
    unsigned bits = 0;
    for (int i = 0; i < emulated::kWarp; i++) bits |= static_cast<unsigned>(all[i]) << i;
    return bits;
}
inline int __reduce_add_sync(unsigned, int x) {
    const uint64_t* all = emulated::machine().meet_warp(static_cast<uint32_t>(x));
    uint32_t sum = 0;  // wraps, as the card's does
    for (int i = 0; i < emulated::kWarp; i++) sum += static_cast<uint32_t>(all[i]);
    return static_cast<int>(sum);
}
inline int __reduce_max_sync(unsigned, int x) {
    const uint64_t* all = emulated::machine().meet_warp(static_cast<uint32_t>(x));
    int most = static_cast<int32_t>(all[0]);
    for (int i = 1; i < emulated::kWarp; i++) most = std::max(most, static_cast<int32_t>(all[i]));
    return most;
}
inline bool __any_sync(unsigned mask, bool x) { return __ballot_sync(mask, x) != 0; }

inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline float __uint_as_float(unsigned bits) { return emulated::bits_to_float(bits); }
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline float reciprocal_root(float x) { return 1 / std::sqrt(x); }
#define rsqrtf reciprocal_root  // newer libraries have one of that name
template <class T>
void __stcs(T* to, T x) {
    *to = x;
}
