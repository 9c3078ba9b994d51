// Where chunks lie: slots of the solve, and which tokens they cover.
#pragma once
#include <cuda_fp16.h>

#include "layouts.h"
#include "rows.h"

namespace fqla::sm90 {

__device__ __forceinline__ int64_t chunks_of(int64_t length) { return (length + kChunk - 1) / kChunk; }

__device__ __forceinline__ int64_t first_slot(const Rows& rows, int64_t n, const RowTokens& row) {
    return rows.offsets ? row.begin / kChunk + n : n * chunks_of(rows.max_tokens);
}

struct ChunkPlace {
    int64_t row;  // -1: this slot is of no row
    RowTokens tokens;
    int64_t chunk;  // within the row
};

// The last row whose first slot is not behind this one, found by a whole warp, 32 rows a step.
__device__ __forceinline__ int64_t row_at(const Rows& rows, int64_t slot) {
    if (!rows.offsets) return slot / chunks_of(rows.max_tokens);
    const int lane = threadIdx.x % 32;
    int64_t low = 0, count = rows.count;  // the row is in [low, low + count)
    while (count > 1) {
        const int64_t step = (count + 31) / 32, probe = low + lane * step;
        const bool before = lane * step < count && first_slot(rows, probe, row_tokens(rows, probe)) <= slot;
        const int last = 31 - __clz(__ballot_sync(~0u, before) | 1u);
        low += last * step;
        count = count - last * step < step ? count - last * step : step;
    }
    return low;
}

// By a whole warp.
__device__ __forceinline__ ChunkPlace place_of(const Rows& rows, int64_t slot) {
    ChunkPlace p{-1, {}, 0};
    const int64_t row = row_at(rows, slot);
    p.tokens = row_tokens(rows, row);
    p.chunk = slot - first_slot(rows, row, p.tokens);
    if (p.chunk >= 0 && p.chunk < chunks_of(p.tokens.length)) p.row = row;
    return p;
}

// The row behind `count` others, from row n on, of those that this launch serves: found by a whole warp, 32 rows a step. rows.count if there is none.
__device__ __forceinline__ int served_row(const Rows& rows, int n, int count) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (; n < rows.count; n += 32) {
        const bool served = n + lane < rows.count && serves(rows, row_tokens(rows, n + lane).length);
        uint32_t found = __ballot_sync(~0u, served);
        const int here = __popc(found);
        if (count < here) {
            for (; count > 0; --count) found &= found - 1;
            return n + __ffs(found) - 1;
        }
        count -= here;
    }
    return rows.count;
}

// Scalars of any floating dtype.
__device__ __forceinline__ float load_scalar(const View& x, int64_t at) {
    if (x.dtype == FLASHQLA_DTYPE_F32) return static_cast<const float*>(x.data)[at];
    const uint32_t bits = static_cast<const uint16_t*>(x.data)[at];
    return x.dtype == FLASHQLA_DTYPE_BF16 ? __uint_as_float(bits << 16) : __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

// Sums of 64 numbers up to each of a lane's two, 2 lane and the next.
__device__ __forceinline__ float2 sum_pairs(float2 x, int lane) {
    float sum = x.x + x.y;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float before = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += before;
    }
    // The first's is the sum up to the pair before, plus its own: never a difference.
    float earlier = __shfl_up_sync(~0u, sum, 1);
    if (lane == 0) earlier = 0.f;
    return {earlier + x.x, sum};
}

}  // namespace fqla::sm90
