// Roundings and exponentials of one instruction, and the tags of the two operand types.
#pragma once
#include <stdint.h>

namespace fqla::sm90 {

struct Bf16 {};
struct F16 {};

// Two values of an operand type in a register.
__device__ __forceinline__ uint32_t pack(Bf16, float low, float high) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
__device__ __forceinline__ uint32_t pack(F16, float low, float high) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

}  // namespace fqla::sm90
