// What the kernels of rows that the host knows the length of (decode.cu, short_rows.cu) load and work out alike: 32-bit addresses, loads without branches.
#pragma once
#include "global.cuh"
#include "kernel_params.h"
#include "registers.cuh"
#include "scalar.cuh"

namespace fqla {

// As in rows.h, with fewer than 2^16 heads.
__device__ __forceinline__ uint32_t key_head_of(const DecodeParams& p, uint32_t head) {
    const uint32_t share = divide_small(head, p.heads);
    return p.form.head_map == FLASHQLA_HEADS_TILED ? head - share * p.heads.value : share;
}

// `more` bytes into the head's vector.
__device__ __forceinline__ char* address(const DecodeView& x, uint32_t row, uint32_t head, uint32_t more = 0) {
    return x.data + (row * x.row + head * x.head + more);
}
__device__ __forceinline__ uint32_t load_scalar_bits(const DecodeView& x, uint32_t row, uint32_t head, uint32_t more = 0) {
    return load_element(x.dtype == FLASHQLA_DTYPE_F32, address(x, row, head, more));
}

// As bits_to_f32, without branches.
__device__ __forceinline__ float number(uint32_t bits, int32_t dtype) {
    const float wide = __uint_as_float(dtype == FLASHQLA_DTYPE_BF16 ? bits << 16 : bits);
    const float half = __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
    return dtype == FLASHQLA_DTYPE_F16 ? half : wide;
}

// The gate's inputs, as loaded.
struct GateBits {
    uint32_t gate, beta;
    HeadGate head;

    // Of the token at these bytes from the row's first.
    __device__ __forceinline__ GateBits(const DecodeParams& p, uint32_t row, uint32_t h, uint32_t gate_token = 0, uint32_t beta_token = 0)
        : gate(load_scalar_bits(p.gate, row, h, gate_token)),
          beta(load_scalar_bits(p.beta, row, h, beta_token)),
          head{load_scalar_bits(p.a_log, 0, h), load_scalar_bits(p.dt_bias, 0, h)} {}
};

// exp(g)
__device__ __forceinline__ float decay_of(const DecodeParams& p, const GateBits& bits) {
    const float rate = expf(number(bits.head.a_log, p.a_log.dtype)), bias = number(bits.head.bias, p.dt_bias.dtype);
    return expf(log_gate(p.form, rate, bias, number(bits.gate, p.gate.dtype)));
}
__device__ __forceinline__ float beta_of(const DecodeParams& p, const GateBits& bits) {
    return beta_value(p.form, p.beta_scale, number(bits.beta, p.beta.dtype));
}

// PAD on either side, or a slot that is none: zeros for output, and nothing stored.
__device__ __forceinline__ bool is_skipped(bool reads, uint32_t read_slot, bool writes, uint32_t write_slot) {
    const auto none = static_cast<uint32_t>(FLASHQLA_SLOT_NONE);
    return (!reads && read_slot != none) || (!writes && write_slot != none);
}

}  // namespace fqla
