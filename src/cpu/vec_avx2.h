// Eight floats: AVX2, FMA, F16C.
#pragma once
#include <immintrin.h>
#include <math.h>

#include "float16.h"

namespace fqla::cpu {
namespace {

struct Vec {
    static constexpr int width = 8;
    __m256 r;
};

constexpr int kBlockVecs = 1;  // 4 tokens' a, r and u fill the 16 registers

inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm256_storeu_ps(p, x.r); }
inline Vec broadcast(float x) { return {_mm256_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.r, b.r)}; }
inline Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.r, b.r)}; }
inline Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.r, b.r, c.r)}; }
inline float sum(Vec a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a.r), _mm256_extractf128_ps(a.r, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

inline __m128i load_halves(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline Vec load_bf16(const uint16_t* p) { return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_halves(p)), 16))}; }
inline Vec load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(load_halves(p))}; }
inline void store_f16(uint16_t* p, Vec x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_bf16(uint16_t* p, Vec x) {
    float lanes[8];
    store(lanes, x);
    for (int i = 0; i < 8; i++) p[i] = bf16_of_float(lanes[i]);
}

inline void transpose_square(Vec (&x)[8]) {
    __m256 pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(x[i].r, x[i + 1].r);
        pairs[i + 1] = _mm256_unpackhi_ps(x[i].r, x[i + 1].r);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            quads[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            quads[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        x[i].r = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
        x[i + 4].r = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
    }
}

}  // namespace
}  // namespace fqla::cpu
