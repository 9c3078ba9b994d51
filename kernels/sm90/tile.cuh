// 16-bit tiles of 128-byte rows in shared memory and their fragments in registers, for two operand types.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#include "numbers.cuh"
#include "shared.cuh"

namespace fqla::sm90 {

// Byte offset of 16-byte piece `piece` (0..7) of row `row` in a 128-byte-swizzled tile.
__device__ __forceinline__ uint32_t swizzled(uint32_t row, uint32_t piece) { return row * 128 + ((piece ^ (row & 7)) << 4); }

__device__ __forceinline__ float2 unpack(Bf16, uint32_t r) { return {__uint_as_float(r << 16), __uint_as_float(r & 0xffff0000u)}; }
__device__ __forceinline__ float2 unpack(F16, uint32_t r) {
    __half2 h;
    memcpy(&h, &r, 4);
    return __half22float2(h);
}

}  // namespace fqla::sm90
