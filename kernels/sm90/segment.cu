// Stitch: from the segments' own summaries to the states between them, S_j <- M_j S_{j-1} + S_j, in f32.
//
// Rows of V are independent, a block has 8. Each warp has a share of the sum's terms, so that it reads that share of a transition (16 bytes a lane) once for
// all rows; the parts are added behind a barrier. Transitions of 64 KB pass through a ring of two.
#include "layouts.h"
#include "ring.cuh"
#include "tile.cuh"
#include "tma.cuh"

namespace fqla::sm90 {
namespace {

using Layout = StitchLayout;

// Rows v0 .. v0 + kRows - 1 of V.
template <int kRows>
__device__ __forceinline__ void stitch(const Sm90StitchParams& p, const StitchChain& chain, int v0, uint32_t smem) {
    Ring<Layout::kStages> loads(smem + Layout::kBarriers), hops = loads;  // what is asked for, what is used
    constexpr int kMatrix = kHeadDim * kHeadDim, kStateBytes = kRows * kHeadDim * 4;
    const int warp = threadIdx.x / 32, k = 4 * (threadIdx.x % 32);
    const bool adds = warp < kRows;  // a warp a row
    const float* maps = p.segment_maps + static_cast<int64_t>(chain.first) * kMatrix;
    // Of this warp's row of V, once parts are added: columns k .. k + 3.
    float4* state = reinterpret_cast<float4*>(p.segment_states + static_cast<int64_t>(chain.first) * kMatrix + (v0 + warp % kRows) * kHeadDim + k);
    constexpr int kNext = kMatrix / 4;
    const uint32_t before = smem + Layout::kState, own = before + (warp * kHeadDim + k) * 4;
    auto load_map = [&](int j) {
        if (j >= chain.count) return;
        barrier_expect(loads.filled(), Layout::kMapBytes);
        load_bytes(smem + loads.stage() * Layout::kMapBytes, maps + static_cast<int64_t>(j) * kMatrix, Layout::kMapBytes, loads.filled());
        loads.advance();
    };
    if (threadIdx.x == 0)
        for (int j = 1; j <= Layout::kStages; ++j) load_map(j);
    float4 first = state[0], next = chain.count > 1 ? state[kNext] : first;
    if (adds) store_shared_f4(own, first.x, first.y, first.z, first.w);
    __syncthreads();
#pragma unroll 1
    for (int j = 1; j < chain.count; ++j, hops.advance()) {
        float4 ahead = j + 1 < chain.count ? state[(j + 1) * kNext] : next;
        constexpr int kShare = kHeadDim / (Layout::kThreads / 32);
        const uint32_t map = smem + hops.stage() * Layout::kMapBytes + (warp * kShare * kHeadDim + k) * 4;
        float4 part[kRows] = {};
        hops.wait_filled();
#pragma unroll 1
        for (int c = 0; c < kShare; c += 4) {
            float4 m[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) m[i] = load_shared_f4(map + (c + i) * kHeadDim * 4);
#pragma unroll
            for (int v = 0; v < kRows; ++v) {
                const float4 s = load_shared_f4(before + (v * kHeadDim + warp * kShare + c) * 4);
                const float x[4] = {s.x, s.y, s.z, s.w};
#pragma unroll
                for (int i = 0; i < 4; ++i) part[v].x += x[i] * m[i].x, part[v].y += x[i] * m[i].y, part[v].z += x[i] * m[i].z, part[v].w += x[i] * m[i].w;
            }
        }
#pragma unroll
        for (int v = 0; v < kRows; ++v)
            store_shared_f4(smem + Layout::kParts + warp * kStateBytes + (v * kHeadDim + k) * 4, part[v].x, part[v].y, part[v].z, part[v].w);
        __syncthreads();
        if (threadIdx.x == 0) load_map(j + Layout::kStages);  // this one has been read
        if (adds) {
#pragma unroll
            for (int w = 0; w < Layout::kThreads / 32; ++w) {
                const float4 x = load_shared_f4(smem + Layout::kParts + w * kStateBytes + (warp * kHeadDim + k) * 4);
                next.x += x.x, next.y += x.y, next.z += x.z, next.w += x.w;
            }
            store_shared_f4(own, next.x, next.y, next.z, next.w);
            state[j * kNext] = next;
            next = ahead;
        }
        __syncthreads();
    }
}

// Few chains take more blocks, of half as many rows.
__device__ __forceinline__ void stitch_chain(const Sm90StitchParams& p) {
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory);
    if (threadIdx.x == 0) {
        Ring<Layout::kStages>(smem + Layout::kBarriers).init(1, 1);
        barrier_init_fence();
    }
    let_successor_start();
    __syncthreads();
    wait_for_predecessor();
    const bool few = p.cut && p.cut->chains <= p.few_chains;
    const int rows = few ? Layout::kFewRows : Layout::kRows, slices = kHeadDim / rows, head = blockIdx.x / slices, v0 = blockIdx.x % slices * rows;
    if (p.cut && head >= p.cut->chains) return;
    const StitchChain chain = p.cut ? p.cut->chain[head] : StitchChain{head * p.segments, p.segments - 1};
    if (few)
        stitch<Layout::kFewRows>(p, chain, v0, smem);
    else
        stitch<Layout::kRows>(p, chain, v0, smem);
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::StitchLayout::kThreads, 1) gdn_stitch(const __grid_constant__ fqla::Sm90StitchParams p) {
    fqla::sm90::stitch_chain(p);
}
