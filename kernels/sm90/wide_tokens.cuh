// Gates and betas of fused_wide.cu and fused_trio.cu, on their way from memory to what the token role makes of them.
#pragma once
#include "gate_steps.cuh"
#include "recurrence.cuh"

namespace fqla::sm90 {

// Tokens of the row from a unit's first one on.
__device__ __forceinline__ int tokens_from(const Work& w) { return static_cast<int>(w.tokens.length - w.first * kChunk); }

// A lane's two tokens of a scalar tensor, as they stand in memory: 2 lane and the next of the chunk, which has `left` tokens.
struct ScalarPair {
    const char* at;
    uint32_t x, y;

    __device__ __forceinline__ void start(const View& v, const Work& w) {
        const int64_t first = element_offset(v, w.row, w.tokens, w.first * kChunk + 2 * (threadIdx.x % 32), w.head);
        at = static_cast<const char*>(v.data) + first * (v.dtype == FLASHQLA_DTYPE_F32 ? 4 : 2);
    }
    __device__ __forceinline__ void load(const View& v, int left) {
        const int lane = threadIdx.x % 32;
        x = y = 0;
        if (v.dtype == FLASHQLA_DTYPE_F32) {
            if (2 * lane < left) x = *reinterpret_cast<const uint32_t*>(at);
            if (2 * lane + 1 < left) y = *reinterpret_cast<const uint32_t*>(at + 4 * v.token);
            at += 4 * kChunk * v.token;
        } else {
            if (2 * lane < left) x = *reinterpret_cast<const uint16_t*>(at);
            if (2 * lane + 1 < left) y = *reinterpret_cast<const uint16_t*>(at + 2 * v.token);
            at += 2 * kChunk * v.token;
        }
    }
    // Over a chunk that is another warp's.
    __device__ __forceinline__ void pass(const View& v) { at += (v.dtype == FLASHQLA_DTYPE_F32 ? 4 : 2) * kChunk * v.token; }
    __device__ __forceinline__ static float value(int dtype, uint32_t bits) {
        if (dtype == FLASHQLA_DTYPE_F32) return __uint_as_float(bits);
        return dtype == FLASHQLA_DTYPE_BF16 ? __uint_as_float(bits << 16) : __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    }
};

// What they mean; tokens behind the row's end are nothing. A loop of two: half the code.
__device__ __forceinline__ TokenPair resolve(const SolveForms& f, const ScalarPair& gate, const ScalarPair& beta, int left, int head) {
    TokenPair r;
#pragma unroll 1
    for (int i = 0; i < 2; ++i) {
        const bool inside = 2 * static_cast<int>(threadIdx.x % 32) + i < left;
        const float g = log2_gate(f, ScalarPair::value(f.gate.dtype, i ? gate.y : gate.x), head),
                    b = beta_of(f, ScalarPair::value(f.beta.dtype, i ? beta.y : beta.x));
        (i ? r.gate.y : r.gate.x) = inside ? g : 0.f, (i ? r.beta.y : r.beta.x) = inside ? b : 0.f;
    }
    return r;
}

}  // namespace fqla::sm90
