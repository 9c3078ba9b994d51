// Sixteen floats: AVX-512 F, BW, DQ, VL.
#pragma once
// g++ 12 takes the undefined operands inside its own intrinsics for mistakes of ours.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#include <math.h>

#include "float16.h"

namespace fqla::cpu {
namespace {

struct Vec {
    static constexpr int width = 16;
    __m512 r;
};

constexpr int kBlockVecs = 2;  // 4 tokens' a, r and u of two vectors: 24 of 32 registers

inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.r); }
inline Vec broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.r, b.r)}; }
inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.r, b.r)}; }
inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.r, b.r)}; }
inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.r, b.r, c.r)}; }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a.r); }

inline __m256i load_halves(const uint16_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Vec load_bf16(const uint16_t* p) { return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(p)), 16))}; }
inline Vec load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(load_halves(p))}; }
inline void store_f16(uint16_t* p, Vec x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x.r, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// To nearest, ties to even; NaN stays NaN.
inline void store_bf16(uint16_t* p, Vec x) {
    const __m512i bits = _mm512_castps_si512(x.r), high = _mm512_srli_epi32(bits, 16);
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff), _mm512_and_si512(high, _mm512_set1_epi32(1))));
    const __mmask16 nan = _mm512_cmp_ps_mask(x.r, x.r, _CMP_UNORD_Q);
    const __m512i out = _mm512_mask_or_epi32(_mm512_srli_epi32(rounded, 16), nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(out));
}

inline void transpose_square(Vec (&x)[16]) {
    __m512 pairs[16], quads[16];
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(x[i].r, x[i + 1].r);
        pairs[i + 1] = _mm512_unpackhi_ps(x[i].r, x[i + 1].r);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            quads[i + 2 * j] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            quads[i + 2 * j + 1] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
    // quads[4b + c], 128-bit lane l: rows 4b..4b+3 of column 4l + c
    for (int c = 0; c < 4; c++) {
        const __m512 low01 = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0x88), odd01 = _mm512_shuffle_f32x4(quads[c], quads[c + 4], 0xdd);
        const __m512 low23 = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0x88), odd23 = _mm512_shuffle_f32x4(quads[c + 8], quads[c + 12], 0xdd);
        x[c].r = _mm512_shuffle_f32x4(low01, low23, 0x88);
        x[c + 8].r = _mm512_shuffle_f32x4(low01, low23, 0xdd);
        x[c + 4].r = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
        x[c + 12].r = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
    }
}

}  // namespace
}  // namespace fqla::cpu
