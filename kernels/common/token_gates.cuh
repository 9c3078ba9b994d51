// exp(g_t) and beta_t of one row and head, token after token. Lane j holds those of token 32 b + j, a batch ahead as raw bits; each token's
// are handed round by shuffles.
#pragma once
#include "registers.cuh"
#include "scalar.cuh"

namespace fqla {

class TokenGates {
public:
    // reverse: token t of the verbs is the row's token length - 1 - t.
    __device__ __forceinline__ TokenGates(const Form& form, const Inputs& in, const RowTokens& row, int64_t n, int32_t head, int lane, bool reverse = false)
        : form_(form), in_(in), head_(head_gate(form, in, of_lane(head))), length_(row.length), lane_(lane), step_(reverse ? -kWarp : kWarp) {
        const int64_t first = reverse ? row.length - 1 - lane : lane;
        gate_at_ = element_offset(in.gate, n, row, first, head);
        beta_at_ = element_offset(in.beta, n, row, first, head);
        request(0);
    }
    // The first batch, before the first advance: some hundred instructions that other loads can be waited for behind.
    __device__ __forceinline__ void begin() {
        rate_ = gate_rate(in_, head_), bias_ = gate_bias(in_, head_);
        evaluate();
    }
    __device__ __forceinline__ void advance(int64_t t) {
        const int j = static_cast<int>(static_cast<uint32_t>(t) % kWarp);
        if (j == 0) {
            if (t > 0) evaluate();
            request(t + kWarp);
        }
        decay = __shfl_sync(kAllLanes, decay_, j);
        beta = __shfl_sync(kAllLanes, beta_, j);
    }
    float decay, beta;  // exp(g_t), beta_t

private:
    __device__ __forceinline__ void evaluate() {
        decay_ = expf(log_gate(form_, rate_, bias_, bits_to_f32(gate_bits_, in_.gate.dtype)));
        beta_ = beta_value(form_, bits_to_f32(beta_bits_, in_.beta.dtype));
    }
    // Asks for this lane's token of the 32 from `first` on.
    __device__ __forceinline__ void request(int64_t first) {
        if (first + lane_ < length_) {
            gate_bits_ = load_bits(in_.gate.data, in_.gate.dtype, gate_at_);
            beta_bits_ = load_bits(in_.beta.data, in_.beta.dtype, beta_at_);
        }
        gate_at_ += step_ * in_.gate.token;
        beta_at_ += step_ * in_.beta.token;
    }
    const Form& form_;
    const Inputs& in_;
    const HeadGate head_;
    const int64_t length_;
    const int lane_, step_;
    int64_t gate_at_, beta_at_;
    uint32_t gate_bits_ = 0, beta_bits_ = 0;
    float rate_ = 0.f, bias_ = 0.f;  // of the head's raw gate
    float decay_ = 0.f, beta_ = 0.f;
};

}  // namespace fqla
