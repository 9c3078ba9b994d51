// kernels/ptx/mma.cuh on the CPU.
#pragma once
#include "numbers.cuh"

namespace fqla::sm90 {

// D += A B of one warp: A [16, K], B [K, 8]; each lane brings its fragments as floats.
template <int K>
void multiply_fragments(float (&d)[4], const float (&a)[K / 2], const float (&b)[K / 4]) {
    struct Fragments {
        const float *a, *b;
    } mine{a, b};
    const uint64_t* all = emulated::machine().meet_warp(reinterpret_cast<uintptr_t>(&mine));
    const int lane = emulated::lane();
    const auto at = [&](int from) { return reinterpret_cast<const Fragments*>(static_cast<uintptr_t>(all[from])); };
    constexpr int kHalf = K / 2;            // values of K before the fragment's next register
    constexpr int kWide = K == 16 ? 2 : 1;  // of them in one lane, side by side
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + 8 * (i >> 1), column = 2 * (lane % 4) + (i & 1);
        for (int k = 0; k < K; k++) {
            const int quad = k % kHalf / kWide, half = k / kHalf, e = k % kWide;
            d[i] += at(row % 8 * 4 + quad)->a[(half * 2 + row / 8) * kWide + e] * at(column * 4 + quad)->b[half * kWide + e];
        }
    }
    __syncwarp();  // what the others read of this lane stays until they have
}

template <class T>
void mma_m16n8(T, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    constexpr bool kBf16 = std::is_same<T, Bf16>::value;
    float fa[8], fb[4];
    for (int i = 0; i < 8; i++) fa[i] = emulated::widen(static_cast<uint16_t>(a[i / 2] >> (16 * (i & 1))), kBf16);
    for (int i = 0; i < 4; i++) fb[i] = emulated::widen(static_cast<uint16_t>((i < 2 ? b0 : b1) >> (16 * (i & 1))), kBf16);
    multiply_fragments<16>(d, fa, fb);
}

inline uint32_t round_tf32(float x) { return (__float_as_uint(x) + 0x1000u) & ~0x1FFFu; }  // half away from zero

inline void mma_tf32(float (&d)[4], const uint32_t* a, float2 b) {
    float fa[4], fb[2] = {__uint_as_float(__float_as_uint(b.x) & ~0x1FFFu), __uint_as_float(__float_as_uint(b.y) & ~0x1FFFu)};
    for (int i = 0; i < 4; i++) fa[i] = __uint_as_float(a[i] & ~0x1FFFu);
    multiply_fragments<8>(d, fa, fb);
}

}  // namespace fqla::sm90
