// Between the segments of the chains: S_j <- M_j S_{j-1} + S_j forwards, D_j <- M_j^T D_{j+1} + D_j backwards, in f32. One summary of transitions serves
// both ways, since the gradient's transition is the transpose of the state's.
//
// Rows of V are independent; a block carries 8 of them, a thread has a column of K. Transitions pass through a ring of two, their rows padded so that
// a thread may go along a row as well as down a column.
#include "ring.cuh"
#include "sm90_backward_params.h"
#include "tile.cuh"
#include "tma.cuh"

namespace fqla::sm90 {
namespace {

using L = ChainStitchLayout;
constexpr int kMatrix = kHeadDim * kHeadDim;

// next[v] += before[v] . column k (forwards) or row k (backwards) of the transition
template <bool Reverse>
__device__ __forceinline__ void multiply(float (&next)[L::kRows], uint32_t before, uint32_t map) {
    const int k = threadIdx.x;
#pragma unroll 4
    for (int c = 0; c < kHeadDim; c += 4) {
        float4 m;
        if constexpr (Reverse) {
            m = load_shared_f4(map + (k * L::kMapStride + c) * 4);
        } else {
            const uint32_t at = map + (c * L::kMapStride + k) * 4;
            m = {load_shared_f(at), load_shared_f(at + L::kMapStride * 4), load_shared_f(at + 2 * L::kMapStride * 4),
                 load_shared_f(at + 3 * L::kMapStride * 4)};
        }
#pragma unroll
        for (int v = 0; v < L::kRows; ++v) {
            const float4 x = load_shared_f4(before + (v * kHeadDim + c) * 4);
            next[v] += x.x * m.x + x.y * m.y + x.z * m.z + x.w * m.w;
        }
    }
}

template <bool Reverse>
__device__ __forceinline__ void stitch(const Sm90ChainStitchParams& p, int64_t head, int v0, uint32_t smem) {
    Ring<L::kStages> loads(smem + L::kBarriers), hops = loads;  // what is asked for, what is used
    const int k = threadIdx.x, last = p.segments - 2;           // hops lead to segments 1 .. last, or last .. 1
    float* states = (Reverse ? p.segment_gradients : p.segment_states) + head * p.segments * kMatrix + v0 * kHeadDim + k;
    const float* maps = p.segment_maps + head * p.segments * kMatrix;
    const auto segment_of = [&](int hop) { return Reverse ? last + 1 - hop : hop; };
    const auto load_map = [&](int hop) {
        if (hop > last) return;
        loads.wait_free();
        if (k == 0) barrier_expect(loads.filled(), kMatrix * 4);
        __syncwarp();
        const float* from = maps + static_cast<int64_t>(segment_of(hop)) * kMatrix;
        for (int row = k; row < kHeadDim; row += 32)
            load_bytes(smem + loads.stage() * L::kMapBytes + row * L::kMapStride * 4, from + row * kHeadDim, kHeadDim * 4, loads.filled());
        loads.advance();
    };
    if (k < 32)
        for (int hop = 1; hop <= L::kStages; ++hop) load_map(hop);
    float s[L::kRows];
#pragma unroll
    for (int v = 0; v < L::kRows; ++v) s[v] = states[static_cast<int64_t>(segment_of(0)) * kMatrix + v * kHeadDim];
    for (int hop = 1; hop <= last; ++hop, hops.advance()) {
        float* to = states + static_cast<int64_t>(segment_of(hop)) * kMatrix;
        const uint32_t before = smem + L::kState + (hop & 1) * L::kRows * kHeadDim * 4;
        float next[L::kRows];
#pragma unroll
        for (int v = 0; v < L::kRows; ++v) {
            next[v] = to[v * kHeadDim];
            store_shared_f(before + (v * kHeadDim + k) * 4, s[v]);
        }
        __syncthreads();
        hops.wait_filled();
        multiply<Reverse>(next, before, smem + hops.stage() * L::kMapBytes);
#pragma unroll
        for (int v = 0; v < L::kRows; ++v) to[v * kHeadDim] = s[v] = next[v];
        __syncthreads();  // the map of this hop has been read
        if (k == 0) hops.release();
        if (k < 32) load_map(hop + L::kStages);
    }
}

__device__ __forceinline__ void stitch_chains(const Sm90ChainStitchParams& p) {
    FQLA_DYNAMIC_SHARED(memory);
    constexpr int kSlices = kHeadDim / L::kRows;
    const uint32_t smem = shared_address(memory);
    if (threadIdx.x == 0) {
        Ring<L::kStages>(smem + L::kBarriers).init(1, 1);
        barrier_init_fence();
    }
    let_successor_start();
    __syncthreads();
    wait_for_predecessor();
    const int head = blockIdx.x / kSlices, v0 = blockIdx.x % kSlices * L::kRows;
    if (head < p.units)
        stitch<true>(p, head, v0, smem);
    else
        stitch<false>(p, head - p.units, v0, smem);
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::ChainStitchLayout::kThreads, 1) gdn_chain_stitch(const __grid_constant__ fqla::Sm90ChainStitchParams p) {
    fqla::sm90::stitch_chains(p);
}
