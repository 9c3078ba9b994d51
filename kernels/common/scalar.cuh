// Elements in memory and in f32, and the per-token scalars (decay, beta) of every form. One place for every dtype switch.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "rows.h"

namespace fqla {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ float to_f32(float x) { return x; }
__device__ __forceinline__ float to_f32(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(__half x) { return __half2float(x); }

template <class T>
__device__ __forceinline__ T from_f32(float x) {
    if constexpr (sizeof(T) == sizeof(float))
        return x;
    else if constexpr (std::is_same_v<T, __nv_bfloat16>)
        return __float2bfloat16_rn(x);
    else
        return __float2half_rn(x);
}

template <class T>
struct Type {
    using type = T;
};

// Calls f(Type<T>{}) with the element type of `dtype`. Once outside a loop, so that its body has one type.
template <class F>
__device__ __forceinline__ void with_dtype(int32_t dtype, F&& f) {
    if (dtype == FLASHQLA_DTYPE_F32)
        f(Type<float>{});
    else if (dtype == FLASHQLA_DTYPE_BF16)
        f(Type<__nv_bfloat16>{});
    else
        f(Type<__half>{});
}

__device__ __forceinline__ float load_scalar(const void* data, int32_t dtype, int64_t i) {
    if (dtype == FLASHQLA_DTYPE_F32) return static_cast<const float*>(data)[i];
    if (dtype == FLASHQLA_DTYPE_BF16) return to_f32(static_cast<const __nv_bfloat16*>(data)[i]);
    return to_f32(static_cast<const __half*>(data)[i]);
}

// The same in two steps: a load whose bits nobody looks at until they are needed, so that it can stay in flight.
__device__ __forceinline__ uint32_t load_bits(const void* data, int32_t dtype, int64_t i) {
    if (dtype == FLASHQLA_DTYPE_F32) return static_cast<const uint32_t*>(data)[i];
    return static_cast<const uint16_t*>(data)[i];
}
__device__ __forceinline__ float bits_to_f32(uint32_t bits, int32_t dtype) {
    if (dtype == FLASHQLA_DTYPE_F32) return __uint_as_float(bits);
    if (dtype == FLASHQLA_DTYPE_BF16) return __uint_as_float(bits << 16);
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}

__device__ __forceinline__ void store_scalar(void* data, int32_t dtype, int64_t i, float x) {
    if (dtype == FLASHQLA_DTYPE_F32)
        static_cast<float*>(data)[i] = x;
    else if (dtype == FLASHQLA_DTYPE_BF16)
        static_cast<__nv_bfloat16*>(data)[i] = from_f32<__nv_bfloat16>(x);
    else
        static_cast<__half*>(data)[i] = from_f32<__half>(x);
}

__device__ __forceinline__ float sigmoid(float x) { return 1.f / (1.f + expf(-x)); }

// log(1 + exp(x)) without overflow, and right to the last bits where exp(x) is small.
__device__ __forceinline__ float softplus(float x) { return fmaxf(x, 0.f) + log1pf(expf(-fabsf(x))); }

// Per value head: what the raw gate needs besides a_t, still as loaded.
struct HeadGate {
    uint32_t a_log, bias;
};

__device__ __forceinline__ HeadGate head_gate(const Form& form, const Inputs& in, int64_t h) {
    if (form.gate != FLASHQLA_GATE_RAW || !in.a_log.data) return {0, 0};  // null where a call has no tokens
    return {load_bits(in.a_log.data, in.a_log.dtype, h * in.a_log.head), load_bits(in.dt_bias.data, in.dt_bias.dtype, h * in.dt_bias.head)};
}
__device__ __forceinline__ float gate_rate(const Inputs& in, const HeadGate& head) { return expf(bits_to_f32(head.a_log, in.a_log.dtype)); }
__device__ __forceinline__ float gate_bias(const Inputs& in, const HeadGate& head) { return bits_to_f32(head.bias, in.dt_bias.dtype); }

// g_t from what `gate` holds, not yet clamped.
__device__ __forceinline__ float unclamped_log_gate(const Form& form, float rate, float bias, float x) {
    if (form.gate == FLASHQLA_GATE_LINEAR) return logf(x);
    if (form.gate == FLASHQLA_GATE_RAW) return -rate * softplus(x + bias);
    return x;
}

// g = max(g, GMIN). Written so that NaN stays NaN (fmaxf would drop it).
__device__ __forceinline__ float clamp_log_gate(float g) { return g < static_cast<float>(kMinLogGate) ? static_cast<float>(kMinLogGate) : g; }

__device__ __forceinline__ float log_gate(const Form& form, float rate, float bias, float x) { return clamp_log_gate(unclamped_log_gate(form, rate, bias, x)); }
__device__ __forceinline__ float log_gate(const Form& form, const Inputs& in, const HeadGate& head, float x) {
    const bool raw = form.gate == FLASHQLA_GATE_RAW;
    return log_gate(form, raw ? gate_rate(in, head) : 0.f, raw ? gate_bias(in, head) : 0.f, x);
}

__device__ __forceinline__ float beta_value(const Form& form, float x) {
    return static_cast<float>(form.beta_scale) * (form.beta == FLASHQLA_BETA_LOGIT ? sigmoid(x) : x);
}

// 1 / sqrt(sum x^2 + eps) under the L2 norm, else 1.
__device__ __forceinline__ float inverse_norm(const Form& form, float sum_of_squares) {
    return form.qk_norm == FLASHQLA_NORM_L2 ? rsqrtf(sum_of_squares + static_cast<float>(form.eps)) : 1.f;
}

// The same of numbers that the host has made f32.
__device__ __forceinline__ float beta_value(const Form& form, float beta_scale, float x) {
    return beta_scale * (form.beta == FLASHQLA_BETA_LOGIT ? sigmoid(x) : x);
}
__device__ __forceinline__ float inverse_norm(const Form& form, float eps, float sum_of_squares) {
    return form.qk_norm == FLASHQLA_NORM_L2 ? rsqrtf(sum_of_squares + eps) : 1.f;
}

}  // namespace fqla
