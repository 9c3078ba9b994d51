// Stitch: from the segments' own summaries to the states between them, S_j <- M_j S_{j-1} + S_j, in f32.
//
// Rows of V are independent: S_j^T[v, :] += S_{j-1}^T[v, :] M_j^T. A thread owns a column of K, a block 8 rows of V; transitions of 64 KB pass
// through a ring of two, so that only the arithmetic of a hop is on the chain (1024 multiply-adds a thread).
#include "layouts.h"
#include "ring.cuh"
#include "tile.cuh"
#include "tma.cuh"

namespace fqla::sm90 {
namespace {

using Layout = StitchLayout;

__device__ __forceinline__ void stitch(const Sm90StitchParams& p) {
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory);
    Ring<Layout::kStages> loads(smem + Layout::kBarriers), hops = loads;  // what is asked for, what is used
    constexpr int kSlices = kHeadDim / Layout::kRows, kMatrix = kHeadDim * kHeadDim;
    const int64_t head = blockIdx.x / kSlices;
    const int k = threadIdx.x, v0 = blockIdx.x % kSlices * Layout::kRows;
    float* states = p.segment_states + head * p.segments * kMatrix;
    const float* maps = p.segment_maps + head * p.segments * kMatrix;
    if (k == 0) {
        loads.init(1, 1);
        barrier_init_fence();
    }
    let_successor_start();
    __syncthreads();
    wait_for_predecessor();
    auto load_map = [&](int j) {
        if (j >= p.segments - 1) return;
        barrier_expect(loads.filled(), Layout::kMapBytes);
        load_bytes(smem + loads.stage() * Layout::kMapBytes, maps + static_cast<int64_t>(j) * kMatrix, Layout::kMapBytes, loads.filled());
        loads.advance();
    };
    if (k == 0)
        for (int j = 1; j <= Layout::kStages; ++j) load_map(j);
    float s[Layout::kRows];
#pragma unroll
    for (int v = 0; v < Layout::kRows; ++v) s[v] = states[(v0 + v) * kHeadDim + k];
    for (int j = 1; j < p.segments - 1; ++j, hops.advance()) {
        float* to = states + static_cast<int64_t>(j) * kMatrix;
        const uint32_t before = smem + Layout::kState + (j & 1) * Layout::kRows * kHeadDim * 4, map = smem + hops.stage() * Layout::kMapBytes + 4 * k;
        float next[Layout::kRows];
#pragma unroll
        for (int v = 0; v < Layout::kRows; ++v) {
            next[v] = to[(v0 + v) * kHeadDim + k];
            store_shared_f(before + (v * kHeadDim + k) * 4, s[v]);
        }
        __syncthreads();
        hops.wait_filled();
#pragma unroll 4
        for (int c = 0; c < kHeadDim; c += 4) {
            float m[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) m[i] = load_shared_f(map + (c + i) * kHeadDim * 4);
#pragma unroll
            for (int v = 0; v < Layout::kRows; ++v) {
                const float4 x = load_shared_f4(before + (v * kHeadDim + c) * 4);
                next[v] += x.x * m[0] + x.y * m[1] + x.z * m[2] + x.w * m[3];
            }
        }
#pragma unroll
        for (int v = 0; v < Layout::kRows; ++v) to[(v0 + v) * kHeadDim + k] = s[v] = next[v];
        __syncthreads();  // the map of this hop has been read
        if (k == 0) load_map(j + Layout::kStages);
    }
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::StitchLayout::kThreads, 1) gdn_stitch(const __grid_constant__ fqla::Sm90StitchParams p) {
    fqla::sm90::stitch(p);
}
