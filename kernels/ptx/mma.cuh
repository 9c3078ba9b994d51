// Products of one warp, D += A B in f32: A [16, 16] and B [16, 8] of an operand type, A [16, 8] and B [8, 8] in tf32.
#pragma once
#include "numbers.cuh"

namespace fqla::sm90 {

#define FQLA_DEFINE_MMA(T, NAME)                                                                                                         \
    __device__ __forceinline__ void mma_m16n8(T, float(&d)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1) {                        \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                                    \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                                    \
    }
FQLA_DEFINE_MMA(Bf16, "bf16")
FQLA_DEFINE_MMA(F16, "f16")

__device__ __forceinline__ uint32_t round_tf32(float x) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
}

__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t* a, float2 b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(__float_as_uint(b.x)), "r"(__float_as_uint(b.y)));
}

}  // namespace fqla::sm90
