// kernels/ptx/numbers.cuh on the CPU.
#pragma once
#include "cuda_words.h"

namespace fqla::sm90 {

struct Bf16 {};
struct F16 {};

inline uint32_t pack(Bf16, float low, float high) { return emulated::narrow(low, true) | static_cast<uint32_t>(emulated::narrow(high, true)) << 16; }
inline uint32_t pack(F16, float low, float high) { return emulated::narrow(low, false) | static_cast<uint32_t>(emulated::narrow(high, false)) << 16; }
inline float exp2_fast(float x) {
    const float y = std::exp2(x);
    return y < 0x1p-126f ? 0.f : y;
}

}  // namespace fqla::sm90
