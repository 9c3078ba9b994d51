// What tells ptxas where values live: reads that it does not merge, registers that it does not move, and how many a warp has.
#pragma once
#include <stdint.h>

namespace fqla {

// `x`, which ptxas then takes for each lane's own: what it knows to be the warp's it moves to uniform registers, loads as soon as they are issued, and
// waits for them.
__device__ __forceinline__ int32_t of_lane(int32_t x) {
    uint32_t lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return x + static_cast<int32_t>(lane >> 5);
}

}  // namespace fqla

namespace fqla::sm90 {

// threadIdx.x, read anew: what is worked out of it before a loop and used behind it, ptxas may spill.
__device__ __forceinline__ int fresh_thread() {
    int r;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(r));
    return r;
}

// Hides from the compiler what it knows of `x`.
__device__ __forceinline__ void opaque(int& x) { asm volatile("" : "+r"(x)); }

// A zero that ptxas cannot share with another of them, for it spills what the roles of a kernel share.
__device__ __forceinline__ uint32_t fresh_zero() {
    uint32_t r;
    asm volatile("mov.b32 %0, 0;" : "=r"(r));
    return r;
}

// Keeps a register array where it is across an asynchronous product.
template <int N>
__device__ __forceinline__ void pin(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+f"(r[i])::"memory");
}
template <int N>
__device__ __forceinline__ void pin(uint32_t (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) asm volatile("" : "+r"(r[i])::"memory");
}

// Raises or lowers the registers of each thread of this warpgroup to N; a rise waits until others have given theirs.
template <int N>
__device__ __forceinline__ void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void give_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

}  // namespace fqla::sm90
