// Four floats: NEON of aarch64.
#pragma once
#include <arm_neon.h>
#include <math.h>

#include "float16.h"

namespace fqla::cpu {
namespace {

struct Vec {
    static constexpr int width = 4;
    float32x4_t r;
};

constexpr int kBlockVecs = 2;

inline Vec load(const float* p) { return {vld1q_f32(p)}; }
inline void store(float* p, Vec x) { vst1q_f32(p, x.r); }
inline Vec broadcast(float x) { return {vdupq_n_f32(x)}; }
inline Vec add(Vec a, Vec b) { return {vaddq_f32(a.r, b.r)}; }
inline Vec sub(Vec a, Vec b) { return {vsubq_f32(a.r, b.r)}; }
inline Vec mul(Vec a, Vec b) { return {vmulq_f32(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.r, a.r, b.r)}; }
inline float sum(Vec a) { return vaddvq_f32(a.r); }

inline Vec load_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
inline Vec load_f16(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
inline void store_f16(uint16_t* p, Vec x) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(x.r))); }
inline void store_bf16(uint16_t* p, Vec x) {
    float lanes[4];
    store(lanes, x);
    for (int i = 0; i < 4; i++) p[i] = bf16_of_float(lanes[i]);
}

inline void transpose_square(Vec (&x)[4]) {
    const float32x4_t a = vtrn1q_f32(x[0].r, x[1].r), b = vtrn2q_f32(x[0].r, x[1].r), c = vtrn1q_f32(x[2].r, x[3].r), d = vtrn2q_f32(x[2].r, x[3].r);
    x[0].r = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
    x[1].r = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
    x[2].r = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
    x[3].r = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

}  // namespace
}  // namespace fqla::cpu
