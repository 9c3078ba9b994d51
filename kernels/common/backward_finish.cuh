// The last sums of the backward, in a fixed order: dq and dk over the value heads of a key head and through the norm; dA_log and ddt_bias over
// all chunks.
#pragma once
#include "backward_rows.cuh"

namespace fqla {

constexpr int kFinishThreads = BackwardLayout::kFinishThreads;
constexpr int kMostKeysPerLane = 256 / kWarp;

// One of dq and dk, at one token and key head: a warp.
__device__ __forceinline__ void finish_key_gradient(const BackwardParams& p, const Chunk& c, int t, int32_t key_head, const View& input, const View& out,
                                                    const float* partial) {
    if (!out.data) return;
    const Form& form = p.call.form;
    const int lane = threadIdx.x % kWarp, shared_by = form.value_heads / form.key_heads;
    const int64_t token = c.slot * kBackwardChunk + t;
    float d[kMostKeysPerLane] = {}, x[kMostKeysPerLane] = {}, squares = 0.f;
#pragma unroll
    for (int j = 0; j < kMostKeysPerLane; ++j) {
        const int key = lane + j * kWarp;
        if (key >= form.key_dim || c.skip) continue;
        for (int r = 0; r < shared_by; ++r) {
            const int64_t head =
                form.head_map == FLASHQLA_HEADS_TILED ? key_head + static_cast<int64_t>(r) * form.key_heads : static_cast<int64_t>(key_head) * shared_by + r;
            d[j] += partial[(token * form.value_heads + head) * form.key_dim + key];
        }
        x[j] = load_scalar(input.data, input.dtype, element_offset(input, c.n, c.row, c.begin + t, key_head) + key);
        squares = fmaf(x[j], x[j], squares);
    }
    if (form.qk_norm == FLASHQLA_NORM_L2) {  // dx = rs (dy - y (y·dy)),  y = rs x
        float dot = 0.f;
#pragma unroll
        for (int mask = 16; mask >= 1; mask /= 2) squares += __shfl_xor_sync(kAllLanes, squares, mask);
        const float norm = inverse_norm(form, squares);
#pragma unroll
        for (int j = 0; j < kMostKeysPerLane; ++j) dot = fmaf(norm * x[j], d[j], dot);
#pragma unroll
        for (int mask = 16; mask >= 1; mask /= 2) dot += __shfl_xor_sync(kAllLanes, dot, mask);
#pragma unroll
        for (int j = 0; j < kMostKeysPerLane; ++j) d[j] = norm * (d[j] - norm * x[j] * dot);
    }
    const int64_t at = element_offset(out, c.n, c.row, c.begin + t, key_head);
#pragma unroll
    for (int j = 0; j < kMostKeysPerLane; ++j)
        if (lane + j * kWarp < form.key_dim) store_scalar(out.data, out.dtype, at + lane + j * kWarp, d[j]);
}

// Grid (slots * HK).
__device__ __forceinline__ void heads_kernel(const BackwardParams& p) {
    const uint32_t heads = p.call.form.key_heads;
    const int32_t key_head = blockIdx.x % heads;
    const int64_t slot = blockIdx.x / heads;
    if (p.first_slot + slot >= p.all_slots) return;
    const Chunk c = chunk_at(p, slot);
    for (int t = threadIdx.x / kWarp; t < c.length; t += kFinishThreads / kWarp) {
        finish_key_gradient(p, c, t, key_head, p.call.in.q, p.call.grad.q, p.head_dq);
        finish_key_gradient(p, c, t, key_head, p.call.in.k, p.call.grad.k, p.head_dk);
    }
}

// Grid (HV). dA_log = sum of dg g, ddt_bias = sum of da.
__device__ __forceinline__ void sums_kernel(const BackwardParams& p, float (&shared)[2][kFinishThreads]) {
    const int32_t head = blockIdx.x;
    float rate = 0.f, bias = 0.f;
    for (int64_t slot = threadIdx.x; slot < p.all_slots; slot += kFinishThreads) {
        const float* from = p.partial_sums + (slot * p.call.form.value_heads + head) * 2;
        rate += from[0];
        bias += from[1];
    }
    shared[0][threadIdx.x] = rate;
    shared[1][threadIdx.x] = bias;
    for (int half = kFinishThreads / 2; half >= 1; half /= 2) {
        __syncthreads();
        if (static_cast<int>(threadIdx.x) < half) {
            shared[0][threadIdx.x] += shared[0][threadIdx.x + half];
            shared[1][threadIdx.x] += shared[1][threadIdx.x + half];
        }
    }
    if (threadIdx.x != 0) return;
    const View &a_log = p.call.grad.a_log, &dt_bias = p.call.grad.dt_bias;
    if (a_log.data) store_scalar(a_log.data, a_log.dtype, head * a_log.head, shared[0][0]);
    if (dt_bias.data) store_scalar(dt_bias.data, dt_bias.dtype, head * dt_bias.head, shared[1][0]);
}

}  // namespace fqla
