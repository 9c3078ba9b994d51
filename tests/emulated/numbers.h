// 16-bit numbers and swizzled addresses, as the multiprocessor reads them.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

namespace emulated {

inline float bits_to_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// f16 by table: the conversion in software would be most of a product's time.
struct HalfTable {
    float value[1 << 16];
    HalfTable() {
        for (uint32_t i = 0; i < 1 << 16; i++) value[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(i)));
    }
};
inline const HalfTable g_halves;

inline float widen(uint16_t bits, bool is_bf16) { return is_bf16 ? bits_to_float(static_cast<uint32_t>(bits) << 16) : g_halves.value[bits]; }

inline uint16_t narrow(float x, bool is_bf16) {
    uint16_t bits;
    if (is_bf16) {
        const __nv_bfloat16 h = __float2bfloat16_rn(x);
        memcpy(&bits, &h, 2);
    } else {
        const __half h = __float2half_rn(x);
        memcpy(&bits, &h, 2);
    }
    return bits;
}

// Of a byte offset in shared memory: 16-byte pieces within each 1024 bytes.
inline uint32_t swizzle_128(uint32_t offset) { return offset ^ ((offset >> 7 & 7) << 4); }

}  // namespace emulated
