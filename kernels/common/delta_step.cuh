// What a token makes of the sums over keys, S^T k and S^T q of the state before it. Written with its roundings, so that every kernel that has these steps
// gives the same bits. rk, rq are the L2 norms' factors (1 without).
#pragma once
#include "scalar.cuh"

namespace fqla {

// u = beta (v - exp(g) rk S^T k)
__device__ __forceinline__ float delta_update(float beta, float v, float decay_rk, float state_k) { return beta * fmaf(decay_rk, -state_k, v); }

// o = s rq (exp(g) S^T q + rk (k.q) u)
__device__ __forceinline__ float delta_output(float scale_rq, float decay, float state_q, float rk_kq, float u) {
    return scale_rq * fmaf(decay, state_q, rk_kq * u);
}

// S = exp(g) S + k (rk u)^T
__device__ __forceinline__ float delta_state(float k, float rk_u, float decay, float s) { return fmaf(k, rk_u, decay * s); }

}  // namespace fqla
