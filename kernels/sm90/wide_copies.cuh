// How the copy warps of fused_wide.cu and fused_trio.cu walk through the chunks of their units.
#pragma once
#include "stretches.cuh"
#include "wide_tokens.cuh"

namespace fqla::sm90 {

// The next chunk of a walk through the units.
template <class List>
struct Cursor {
    int unit;
    int chunks;       // of this unit that are left, this one with them
    int token, left;  // coordinate of the chunk's first token; tokens of the row from it on
    int row, head;    // row: coordinate
    int quiet;        // chunks of a stretch, from this one on, that give nothing

    __device__ __forceinline__ void enter(const Sm90ForwardParams& p, const List& units) {
        while (next_unit(p, units, unit)) {
            const Work w = find_work(p, units, unit);
            chunks = w.skip ? 0 : w.chunks;
            token = static_cast<int>(w.tokens.begin + w.first * kChunk), left = tokens_from(w);
            if (kOfStretches<List>) quiet = w.quiet;
            row = p.rows.offsets ? 0 : static_cast<int>(w.row), head = w.head;
            if (chunks > 0) return;
        }
        chunks = 0;
    }
    __device__ __forceinline__ bool more() const { return chunks > 0; }
    __device__ __forceinline__ void advance(const Sm90ForwardParams& p, const List& units) {
        token += kChunk, left -= kChunk;
        if (kOfStretches<List>) --quiet;
        if (--chunks == 0) enter(p, units);
    }
    // Behind the end of a row cut by offsets a box holds other rows' tokens.
    __device__ __forceinline__ bool is_ragged(const Sm90ForwardParams& p) const { return p.rows.offsets && left < kChunk; }
};

// Waits for a ragged chunk's boxes on a barrier of their own, zeroes two tiles behind the row's end and says that the chunk is there.
__device__ __forceinline__ void finish_ragged(uint32_t tail, uint32_t& phase, uint32_t tiles, uint32_t stride, int left, uint32_t filled) {
    barrier_wait(tail, phase), phase ^= 1;
    for (int piece = left * 8 + static_cast<int>(threadIdx.x % 32); piece < kChunk * 8; piece += 32)
        store_shared_zero16(tiles + 16 * piece), store_shared_zero16(tiles + stride + 16 * piece);
    fence_to_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(filled);
}

}  // namespace fqla::sm90
