// Loads and prefetches of global memory that say what the L2 is to fetch (sm_80 and newer).
#pragma once
#include <cstdint>

namespace fqla {

// The line of 128 bytes that holds `at`.
__device__ __forceinline__ void prefetch_to_l2(const void* at) { asm volatile("prefetch.global.L2 [%0];" ::"l"(at)); }

// Loads without a branch, which stand where they are written: one word where it is wanted, else `otherwise`; an element of 4 bytes or of 2.
__device__ __forceinline__ uint32_t load_word_if(bool wanted, const void* at, uint32_t otherwise) {
    uint32_t x = otherwise;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %2, 0; @p ld.global.b32 %0, [%1]; }" : "+r"(x) : "l"(at), "r"(static_cast<uint32_t>(wanted)));
    return x;
}
__device__ __forceinline__ uint32_t load_element(bool wide, const void* at) {
    uint32_t x;
    asm volatile("{ .reg .pred w; setp.ne.u32 w, %2, 0; @w ld.global.b32 %0, [%1]; @!w ld.global.u16 %0, [%1]; }"
                 : "=r"(x)
                 : "l"(at), "r"(static_cast<uint32_t>(wide)));
    return x;
}

// 16 or 8 bytes; where the L2 lacks them, it fetches the whole line of 128 bytes at once.
__device__ __forceinline__ void load_with_line(uint32_t (&word)[4], const void* from) {
    asm volatile("ld.global.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3]) : "l"(from));
}
__device__ __forceinline__ void load_with_line(uint32_t (&word)[2], const void* from) {
    asm volatile("ld.global.L2::128B.v2.u32 {%0, %1}, [%2];" : "=r"(word[0]), "=r"(word[1]) : "l"(from));
}

}  // namespace fqla
