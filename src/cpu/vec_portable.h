// Four floats in the compiler's vector extension: SSE2 on any x86-64, whatever there is elsewhere.
#pragma once
#include <math.h>

#include "float16.h"

namespace fqla::cpu {
namespace {

typedef float Lanes __attribute__((vector_size(16), aligned(4), may_alias));

struct Vec {
    static constexpr int width = 4;
    Lanes r;
};

constexpr int kBlockVecs = 1;  // columns of a state block, in vectors

inline Vec load(const float* p) { return {*reinterpret_cast<const Lanes*>(p)}; }
inline void store(float* p, Vec x) { *reinterpret_cast<Lanes*>(p) = x.r; }
inline Vec broadcast(float x) { return {Lanes{x, x, x, x}}; }
inline Vec add(Vec a, Vec b) { return {a.r + b.r}; }
inline Vec sub(Vec a, Vec b) { return {a.r - b.r}; }
inline Vec mul(Vec a, Vec b) { return {a.r * b.r}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {a.r * b.r + c.r}; }
inline float sum(Vec a) { return (a.r[0] + a.r[1]) + (a.r[2] + a.r[3]); }

inline Vec load_bf16(const uint16_t* p) { return {Lanes{float_of_bf16(p[0]), float_of_bf16(p[1]), float_of_bf16(p[2]), float_of_bf16(p[3])}}; }
inline Vec load_f16(const uint16_t* p) { return {Lanes{float_of_f16(p[0]), float_of_f16(p[1]), float_of_f16(p[2]), float_of_f16(p[3])}}; }
inline void store_bf16(uint16_t* p, Vec x) {
    for (int i = 0; i < 4; i++) p[i] = bf16_of_float(x.r[i]);
}
inline void store_f16(uint16_t* p, Vec x) {
    for (int i = 0; i < 4; i++) p[i] = f16_of_float(x.r[i]);
}

inline void transpose_square(Vec (&x)[4]) {
    const Lanes a = x[0].r, b = x[1].r, c = x[2].r, d = x[3].r;
    for (int i = 0; i < 4; i++) x[i].r = Lanes{a[i], b[i], c[i], d[i]};
}

}  // namespace
}  // namespace fqla::cpu
