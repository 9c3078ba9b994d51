// The roles of backward_gradients.cu that work token by token: gates before the products, their gradients behind them, and small betas.
#pragma once
#include "backward_items.cuh"

namespace fqla::sm90 {

// ----------------------------------------------------------------------------------------------------------------------------- gates role

// Two tokens of a lane, 2 lane and the next: what the caller holds, and what that means. All loads are on their way before the first is looked at.
struct TokenPair {
    float gate[2], raw_beta[2], g[2], beta[2];
};

__device__ __forceinline__ TokenPair tokens_of_lane(const Backward& call, const Item& item, int head) {
    const HeadGate of_head = head_gate(call.form, call.in, head);
    const View &gate = call.in.gate, &beta = call.in.beta;
    const int t = 2 * (threadIdx.x % 32), next = t + 1 < item.valid;
    const int64_t gate_at = token_offset(gate, item, t < item.valid ? t : 0, head), beta_at = token_offset(beta, item, t < item.valid ? t : 0, head);
    const uint32_t bits[4] = {load_bits(gate.data, gate.dtype, gate_at), load_bits(gate.data, gate.dtype, gate_at + next * gate.token),
                              load_bits(beta.data, beta.dtype, beta_at), load_bits(beta.data, beta.dtype, beta_at + next * beta.token)};
    TokenPair x;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const bool inside = t + i < item.valid;
        x.gate[i] = bits_to_f32(bits[i], gate.dtype), x.raw_beta[i] = bits_to_f32(bits[2 + i], beta.dtype);
        const float g = log_gate(call.form, call.in, of_head, x.gate[i]), b = beta_value(call.form, x.raw_beta[i]);
        x.g[i] = inside ? g : 0.f, x.beta[i] = inside ? b : 0.f;
    }
    return x;
}

__device__ __forceinline__ uint32_t factor_at(uint32_t factors, GradientLayout::Factor which, int token) { return factors + (which * kChunk + token) * 4; }
__device__ __forceinline__ uint32_t sum_at(uint32_t sums, int which, int token) { return sums + (which * kChunk + token) * 4; }

__device__ __forceinline__ void make_factors(const Backward& call, const Item& item, int head, uint32_t factors) {
    const int lane = threadIdx.x % 32;
    const TokenPair x = tokens_of_lane(call, item, head);
    constexpr float kLog2e = 1.4426950408889634f;
    const float2 sums = sum_pairs({x.g[0] * kLog2e, x.g[1] * kLog2e}, lane);
    const float G0 = sums.x, G1 = sums.y, last = __shfl_sync(~0u, G1, 31);
    store_shared_f2(factor_at(factors, GradientLayout::log_decay, 2 * lane), G0, G1);
    store_shared_f2(factor_at(factors, GradientLayout::decay, 2 * lane), exp2_fast(G0), exp2_fast(G1));
    store_shared_f2(factor_at(factors, GradientLayout::rest, 2 * lane), exp2_fast(last - G0), exp2_fast(last - G1));
    store_shared_f2(factor_at(factors, GradientLayout::beta, 2 * lane), x.beta[0], x.beta[1]);
}

__device__ __forceinline__ float sum_over_warp(float x) {
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
    return x;
}

// dL/dgate, dL/dbeta as the caller holds them, and the chunk's share of dA_log and ddt_bias.
__device__ __forceinline__ void store_token_gradients(const Sm90GradientParams& p, const Item& item, int head, const TokenPair& x, const float (&dg)[2],
                                                      const float (&dbeta)[2]) {
    const Backward& call = p.call;
    const Form& form = call.form;
    float rate = 0.f, bias = 0.f;
    const HeadGate gate = head_gate(form, call.in, head);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const int t = 2 * (threadIdx.x % 32) + i;
        if (t >= item.valid) continue;
        float d_gate = dg[i], d_beta = static_cast<float>(form.beta_scale) * dbeta[i];
        if (form.gate == FLASHQLA_GATE_LINEAR) d_gate *= expf(-x.g[i]);  // dg / alpha, alpha as clamped
        if (form.gate == FLASHQLA_GATE_RAW) {
            d_gate *= -gate_rate(call.in, gate) * sigmoid(x.gate[i] + gate_bias(call.in, gate));
            rate += dg[i] * x.g[i];
            bias += d_gate;
        }
        if (form.beta == FLASHQLA_BETA_LOGIT) {
            const float z = sigmoid(x.raw_beta[i]);
            d_beta *= z * (1.f - z);
        }
        if (item.skip) d_gate = d_beta = rate = bias = 0.f;  // whatever its inputs hold
        const View &to_gate = call.grad.gate, &to_beta = call.grad.beta;
        if (to_gate.data) store_scalar(to_gate.data, to_gate.dtype, token_offset(to_gate, item, t, head), d_gate);
        if (to_beta.data) store_scalar(to_beta.data, to_beta.dtype, token_offset(to_beta, item, t, head), d_beta);
    }
    if (!p.partial_sums) return;
    rate = sum_over_warp(rate), bias = sum_over_warp(bias);
    if (threadIdx.x % 32 == 0) *reinterpret_cast<float2*>(p.partial_sums + (item.slot * form.value_heads + head) * 2) = {rate, bias};
}

__device__ __forceinline__ void finish_head(const Sm90GradientParams& p, const Item& item, int head, const TokenPair& x, float first_carry, uint32_t factors,
                                            uint32_t sums) {
    const int lane = threadIdx.x % 32;
    float2 q = load_shared_f2(sum_at(sums, GradientLayout::plus, 2 * lane)), k = load_shared_f2(sum_at(sums, GradientLayout::plus + 1, 2 * lane));
    const float plus[2] = {q.x + k.x, q.y + k.y};
    q = load_shared_f2(sum_at(sums, GradientLayout::minus, 2 * lane)), k = load_shared_f2(sum_at(sums, GradientLayout::minus + 1, 2 * lane));
    const float2 m{q.x + k.x, q.y + k.y};
    // plus of this and later tokens, minus of earlier ones: sums of what is wanted, never a difference
    float later = plus[0] + plus[1], earlier = m.x + m.y;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float a = __shfl_down_sync(~0u, later, d), b = __shfl_up_sync(~0u, earlier, d);
        if (lane + d < 32) later += a;
        if (lane >= d) earlier += b;
    }
    later = __shfl_down_sync(~0u, later, 1), earlier = __shfl_up_sync(~0u, earlier, 1);
    if (lane == 31) later = 0.f;
    if (lane == 0) earlier = 0.f;
    const float4 c = load_shared_f4(sum_at(sums, GradientLayout::sums, 0)), d = load_shared_f4(sum_at(sums, GradientLayout::sums, 4));
    const float states = item.carried ? first_carry : ((c.x + c.y) + (c.z + c.w)) + ((d.x + d.y) + (d.z + d.w));  // <S, D>
    const float carry = load_shared_f(factor_at(factors, GradientLayout::decay, kChunk - 1)) * states;
    float dg[2] = {plus[0] + plus[1] + later + earlier + carry, plus[1] + later + earlier + m.x + carry};
#pragma unroll
    for (int w = 0; w < 4; ++w) {
        const float2 z = load_shared_f2(sum_at(sums, GradientLayout::z + w, 2 * lane));
        dg[0] += p.down * z.x, dg[1] += p.down * z.y;
    }
    const float2 own = load_shared_f2(sum_at(sums, GradientLayout::dv_u, 2 * lane)), small = load_shared_f2(sum_at(sums, GradientLayout::small, 2 * lane));
    const float dbeta[2] = {fabsf(x.beta[0]) < p.small_beta ? small.x : own.x / x.beta[0] / x.beta[0],
                            fabsf(x.beta[1]) < p.small_beta ? small.y : own.y / x.beta[1] / x.beta[1]};
    store_token_gradients(p, item, head, x, dg, dbeta);
}

__device__ __forceinline__ void gates_role(const Sm90GradientParams& p, uint32_t smem, const Item* items, Events on) {
    const Form& form = p.call.form;
#pragma unroll 1
    for (;; on.items().give_back(on.item++)) {
        on.items().wait_filled(on.item);
        const Item& item = items[on.item % GradientLayout::kPhases];
        if (item.valid == kNoMoreItems) break;
        if (item.skip) continue;
#pragma unroll 1
        for (int h = 0; h < p.heads; ++h, ++on.head) {
            on.factors().wait_free(on.head);
            make_factors(p.call, item, head_of(form, item.key_head, h), factors_of(smem, on.head));
            __syncwarp();
            if (threadIdx.x % 32 == 0) barrier_arrive(on.factors().filled(on.head));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------------- finish role

__device__ __forceinline__ void finish_role(const Sm90GradientParams& p, uint32_t smem, const Item* items, Events on) {
    const Form& form = p.call.form;
#pragma unroll 1
    for (;; on.items().give_back(on.item++)) {
        on.items().wait_filled(on.item);
        const Item& item = items[on.item % GradientLayout::kPhases];
        if (item.valid == kNoMoreItems) break;
#pragma unroll 1
        for (int h = 0; h < p.heads; ++h) {
            const int head = head_of(form, item.key_head, h);
            const TokenPair x = tokens_of_lane(p.call, item, head);
            if (item.skip) {
                const float none[2] = {};
                store_token_gradients(p, item, head, x, none, none);
                continue;
            }
            float carry = 0.f;  // of a lane, then of all eight
            if (item.carried) carry = p.first_carries[(item.row * form.value_heads + head) * kCarryParts + threadIdx.x % kCarryParts];
            on.sums().wait_filled(on.head);
#pragma unroll
            for (int mask = kCarryParts / 2; mask >= 1; mask /= 2) carry += __shfl_xor_sync(~0u, carry, mask);
            finish_head(p, item, head, x, carry, factors_of(smem, on.head), sums_of(smem, on.head));
            on.factors().give_back(on.head), on.sums().give_back(on.head);
            ++on.head;
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------------- small betas role

template <class T>
__device__ __forceinline__ float4 unpack4(uint2 r) {
    const float2 a = unpack(T{}, r.x), b = unpack(T{}, r.y);
    return {a.x, a.y, b.x, b.y};
}
// Four values a lane of a row in memory.
template <class T>
__device__ __forceinline__ float4 load_row4(const void* row) {
    return unpack4<T>(static_cast<const uint2*>(row)[threadIdx.x % 32]);
}
__device__ __forceinline__ float dot4(float4 a, float4 b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

// dbeta_i = dX_i·e_i,  e_i = v_i - E_i S^T k_i - sum_{j<i} Gamma_ij (k_i·k_j) U_j, for a token of small beta: rare, so plain; a lane has v from 4 lane on.
template <class T>
__device__ __forceinline__ float small_beta_gradient(const Sm90GradientParams& p, const Item& item, int head, int i, uint32_t state, uint32_t u,
                                                     uint32_t factors) {
    const Form& form = p.call.form;
    const int lane = threadIdx.x % 32, v = 4 * lane;
    const auto key = [&](int t) { return static_cast<const uint16_t*>(p.call.in.k.data) + token_offset(p.call.in.k, item, t, item.key_head); };
    const float4 k = load_row4<T>(key(i));
    const float k_norm = inverse_norm(form, sum_over_warp(dot4(k, k))), G = load_shared_f(factor_at(factors, GradientLayout::log_decay, i));
    float y[4] = {};
#pragma unroll 1
    for (int c = 0; c < kHeadDim; ++c) {
        const float x = unpack(T{}, key(i)[c]).x;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const uint32_t at = state + (v >> 6) * 2 * kTileBytes + (c >> 6) * kTileBytes + swizzled((v & 63) + e, (c & 63) >> 3) + (c & 7) * 2;
            y[e] += x * unpack(T{}, load_shared_u16(at)).x;
        }
    }
    const float decay = exp2_fast(G) * k_norm;
    const float4 value = load_row4<T>(static_cast<const uint16_t*>(p.call.in.v.data) + token_offset(p.call.in.v, item, i, head));
    float4 e{value.x - decay * y[0], value.y - decay * y[1], value.z - decay * y[2], value.w - decay * y[3]};
#pragma unroll 1
    for (int j = 0; j < i; ++j) {
        const float4 other = load_row4<T>(key(j));
        const float norms = k_norm * inverse_norm(form, sum_over_warp(dot4(other, other)));
        const float f = sum_over_warp(dot4(k, other)) * norms * exp2_fast(G - load_shared_f(factor_at(factors, GradientLayout::log_decay, j)));
        const float4 row = unpack4<T>(load_shared_u2(u + (v >> 6) * kTileBytes + swizzled(j, (v & 63) >> 3) + (v & 7) * 2));
        e.x -= f * row.x, e.y -= f * row.y, e.z -= f * row.z, e.w -= f * row.w;
    }
    const int64_t place = item.slot * form.value_heads + head;
    return sum_over_warp(dot4(load_row4<T>(static_cast<const uint16_t*>(p.small_rows) + (place * kChunk + i) * kHeadDim), e));
}

template <class T>
__device__ __forceinline__ void small_betas_role(const Sm90GradientParams& p, uint32_t smem, const Item* items, Events on) {
    const Form& form = p.call.form;
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (;; on.items().give_back(on.item++)) {
        on.items().wait_filled(on.item);
        const Item& item = items[on.item % GradientLayout::kPhases];
        if (item.valid == kNoMoreItems) break;
        if (item.skip) continue;
#pragma unroll 1
        for (int h = 0; h < p.heads; ++h, ++on.head) {
            const uint32_t factors = factors_of(smem, on.head), sums = sums_of(smem, on.head);
            on.factors().wait_filled(on.head), on.tokens().wait_filled(on.head), on.state().wait_filled(on.head), on.sums().wait_free(on.head);
#pragma unroll 1
            for (int odd = 0; odd < 2; ++odd) {
                const float beta = load_shared_f(factor_at(factors, GradientLayout::beta, 2 * lane + odd));
                for (uint32_t rows = __ballot_sync(~0u, fabsf(beta) < p.small_beta && 2 * lane + odd < item.valid); rows; rows &= rows - 1) {
                    const int i = 2 * (__ffs(rows) - 1) + odd;
                    const float x = small_beta_gradient<T>(p, item, head_of(form, item.key_head, h), i, smem + GradientLayout::kState,
                                                           tokens_of(smem, on.head) + GradientLayout::kU, factors);
                    if (lane == 0) store_shared_f(sum_at(sums, GradientLayout::small, i), x);
                }
            }
            on.factors().give_back(on.head), on.tokens().give_back(on.head), on.state().give_back(on.head);
            if (lane == 0) barrier_arrive(on.sums().filled(on.head));
        }
    }
}

}  // namespace fqla::sm90
