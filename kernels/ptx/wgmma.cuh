// The warpgroup products in use, and what keeps ptxas from serialising them. Accumulators are m64, f32; B comes from shared memory in
// tiles of 128-byte rows (64 16-bit values), swizzled over 128 bytes and aligned to 1024.
#pragma once
#include <stdint.h>

#include "numbers.cuh"

namespace fqla::sm90 {

// Of `offset` bytes behind `tile`, both multiples of 16; with the offset known at compile time a step is one addition. `next_block`: bytes to the next
// 64 values of N (columns-major B only); 8 rows of a tile are 1024 bytes.
__device__ __forceinline__ uint64_t tile_descriptor_at(uint32_t tile, uint32_t offset, uint32_t next_block = 16) {
    constexpr uint32_t kHigh = (1024 >> 4) | 1u << 30;  // bytes of 8 rows; 128-byte swizzle
    uint64_t r;
    // In a cluster an address has the block's rank above its 18 bits.
    asm("mov.b64 %0, {%1, %2};" : "=l"(r) : "r"(((tile & 0x3FFFF) >> 4) + ((offset >> 4) + (next_block >> 4 << 16))), "r"(kHigh));
    return r;
}
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t next_block = 16) { return tile_descriptor_at(address, 0, next_block); }

__device__ __forceinline__ void mma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void mma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int Pending>
__device__ __forceinline__ void mma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

#define FQLA_R8(d, o) "+f"(d[o]), "+f"(d[o + 1]), "+f"(d[o + 2]), "+f"(d[o + 3]), "+f"(d[o + 4]), "+f"(d[o + 5]), "+f"(d[o + 6]), "+f"(d[o + 7])
#define FQLA_W8(d, o) "=f"(d[o]), "=f"(d[o + 1]), "=f"(d[o + 2]), "=f"(d[o + 3]), "=f"(d[o + 4]), "=f"(d[o + 5]), "=f"(d[o + 6]), "=f"(d[o + 7])
#define FQLA_D32 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define FQLA_D64                                                                                                                          \
    "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34," \
    "%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}"

#define FQLA_DEFINE_WGMMA(T, NAME)                                                                                                                  \
    /* D (+)= A B^T; A [64, 16] and B [64, 16] in shared memory, both with rows contiguous. */                                                      \
    __device__ __forceinline__ void mma_shared_n64(T, float(&d)[32], uint64_t a, uint64_t b, bool add) {                                            \
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32                \
                     ", %32, %33, p, 1, 1, 0, 0;}"                                                                                                  \
                     : FQLA_R8(d, 0), FQLA_R8(d, 8), FQLA_R8(d, 16), FQLA_R8(d, 24)                                                                 \
                     : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                                                 \
    }                                                                                                                                               \
    /* D = A B^T, the same: what D held before is not kept alive. */                                                                                \
    __device__ __forceinline__ void mma_shared_n64_fresh(T, float(&d)[32], uint64_t a, uint64_t b) {                                                \
        asm volatile("{.reg .pred p; setp.ne.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32                  \
                     ", %32, %33, p, 1, 1, 0, 0;}"                                                                                                  \
                     : FQLA_W8(d, 0), FQLA_W8(d, 8), FQLA_W8(d, 16), FQLA_W8(d, 24)                                                                 \
                     : "l"(a), "l"(b));                                                                                                             \
    }                                                                                                                                               \
    /* D (+)= A B^T; A [64, 16] in registers, B [64, 16] with rows contiguous. */                                                                   \
    __device__ __forceinline__ void mma_n64(T, float(&d)[32], const uint32_t* a, uint64_t b, bool add) {                                            \
        asm volatile("{.reg .pred p; setp.ne.b32 p, %37, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32                \
                     ", {%32,%33,%34,%35}, %36, p, 1, 1, 0;}"                                                                                       \
                     : FQLA_R8(d, 0), FQLA_R8(d, 8), FQLA_R8(d, 16), FQLA_R8(d, 24)                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));                                             \
    }                                                                                                                                               \
    /* D = A B^T, the same: what D held before is not kept alive. */                                                                                \
    __device__ __forceinline__ void mma_n64_fresh(T, float(&d)[32], const uint32_t* a, uint64_t b) {                                                \
        asm volatile("{.reg .pred p; setp.ne.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32                  \
                     ", {%32,%33,%34,%35}, %36, p, 1, 1, 0;}"                                                                                       \
                     : FQLA_W8(d, 0), FQLA_W8(d, 8), FQLA_W8(d, 16), FQLA_W8(d, 24)                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                         \
    }                                                                                                                                               \
    /* D += A B; A [64, 16] in registers, B [16, 64] with rows contiguous. */                                                                       \
    __device__ __forceinline__ void mma_n64_columns(T, float(&d)[32], const uint32_t* a, uint64_t b) {                                              \
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32 ", {%32,%33,%34,%35}, %36, 1, 1, 1, 1;"               \
                     : FQLA_R8(d, 0), FQLA_R8(d, 8), FQLA_R8(d, 16), FQLA_R8(d, 24)                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                         \
    }                                                                                                                                               \
    /* D = A B, the same. */                                                                                                                        \
    __device__ __forceinline__ void mma_n64_columns_fresh(T, float(&d)[32], const uint32_t* a, uint64_t b) {                                        \
        asm volatile("{.reg .pred p; setp.ne.b32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32                  \
                     ", {%32,%33,%34,%35}, %36, p, 1, 1, 1;}"                                                                                       \
                     : FQLA_W8(d, 0), FQLA_W8(d, 8), FQLA_W8(d, 16), FQLA_W8(d, 24)                                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                         \
    }                                                                                                                                               \
    /* D (+)= A B; A [64, 16] in shared memory, B [16, 64] with rows contiguous. */                                                                 \
    __device__ __forceinline__ void mma_shared_n64_columns(T, float(&d)[32], uint64_t a, uint64_t b, bool add) {                                    \
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0;\nwgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32                \
                     ", %32, %33, p, 1, 1, 0, 1;}"                                                                                                  \
                     : FQLA_R8(d, 0), FQLA_R8(d, 8), FQLA_R8(d, 16), FQLA_R8(d, 24)                                                                 \
                     : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                                                 \
    }                                                                                                                                               \
    /* D += A^T B; A [16, 64] and B [16, 64] in shared memory, both with rows contiguous. */                                                        \
    __device__ __forceinline__ void mma_shared_n64_transposed(T, float(&d)[32], uint64_t a, uint64_t b) {                                           \
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." NAME "." NAME " " FQLA_D32 ", %32, %33, 1, 1, 1, 1, 1;"                          \
                     : FQLA_R8(d, 0), FQLA_R8(d, 8), FQLA_R8(d, 16), FQLA_R8(d, 24)                                                                 \
                     : "l"(a), "l"(b));                                                                                                             \
    }                                                                                                                                               \
    /* D += A B; A [64, 16] in registers, B [16, 128] with rows contiguous (two tiles side by side). */                                             \
    __device__ __forceinline__ void mma_n128_columns(T, float(&d)[64], const uint32_t* a, uint64_t b) {                                             \
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " " FQLA_D64 ", {%64,%65,%66,%67}, %68, 1, 1, 1, 1;"              \
                     : FQLA_R8(d, 0), FQLA_R8(d, 8), FQLA_R8(d, 16), FQLA_R8(d, 24), FQLA_R8(d, 32), FQLA_R8(d, 40), FQLA_R8(d, 48), FQLA_R8(d, 56) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                                         \
    }
FQLA_DEFINE_WGMMA(Bf16, "bf16")
FQLA_DEFINE_WGMMA(F16, "f16")

}  // namespace fqla::sm90
