// bf16 and f16 as bits. In an anonymous namespace on purpose: kernels_*.cpp are compiled for other instruction sets than the rest, and
// the linker must not take one file's copy for all.
#pragma once
#include <stdint.h>
#include <string.h>

namespace fqla::cpu {
namespace {

inline uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

inline float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

inline float float_of_bf16(uint16_t h) { return bits_float(static_cast<uint32_t>(h) << 16); }

// To nearest, ties to even; NaN stays NaN.
inline uint16_t bf16_of_float(float x) {
    const uint32_t u = float_bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40u);
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

inline float float_of_f16(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16, magnitude = h & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);  // inf, NaN
    const float x = magnitude < 0x400u ? static_cast<float>(magnitude) * 0x1p-24f : bits_float((magnitude << 13) + 0x38000000u);
    return bits_float(sign | float_bits(x));
}

// To nearest, ties to even; beyond 65504 inf.
inline uint16_t f16_of_float(float x) {
    const uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000u, magnitude = u & 0x7fffffffu;
    uint32_t h;
    if (magnitude > 0x7f800000u)
        h = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    else if (magnitude >= 0x477ff000u)
        h = 0x7c00u;
    else if (magnitude < 0x38800000u)
        h = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;  // subnormal: the adder rounds
    else
        h = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    return static_cast<uint16_t>(sign | h);
}

}  // namespace
}  // namespace fqla::cpu
