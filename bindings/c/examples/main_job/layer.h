// The front of one Qwen3-Next linear-attention layer, from a text's bytes to what flashqla takes, with weights of a fixed seed:
//
//   x      = rms_norm(embedding[byte])                              [hidden]
//   qkv    = silu(causal_conv4(W_qkv x))                            [HK*K + HK*K + HV*V], depthwise convolution over 4 tokens
//   b, a   = W_ba x                                                 [HV] each: beta's logit, and the raw gate's input
//   A_log  = log A, A uniform in 1..16;  dt_bias = softplus^-1(dt), dt log-uniform in 1e-3..0.1
//
// The rest (L2 norm of q and k, sigmoid of b, the gate -exp(A_log) softplus(a + dt_bias), the delta rule) is flashqla's.
#pragma once
#include <string>

#include "numbers.h"

namespace job {

struct Shape {
    int32_t key_heads = 4, value_heads = 8, dim = 128;
    int64_t key_channels() const { return int64_t{key_heads} * dim; }
    int64_t channels() const { return 2 * key_channels() + int64_t{value_heads} * dim; }  // of a packed q, k, v row
    int64_t state() const { return int64_t{value_heads} * dim * dim; }                    // elements of one slot
};

// Activations of some tokens, packed as a model's projections leave them, rounded to the type that the run computes in.
struct Tokens {
    int64_t count = 0;
    Values qkv;  // [count, q | k | v]
    Values ba;   // [count, b | a]
};

class Layer {
public:
    Layer(const Shape& shape, int32_t dtype);

    // Tokens [begin, begin + count) of a text; the convolution looks back at what stands before `begin`.
    Tokens front(const std::string& text, int64_t begin, int64_t count) const;

    const Shape& shape() const { return shape_; }
    int32_t dtype() const { return dtype_; }
    const Values& a_log() const { return a_log_; }
    const Values& dt_bias() const { return dt_bias_; }

private:
    static constexpr int64_t kHidden = 64, kTaps = 4;
    Shape shape_;
    int32_t dtype_;
    std::vector<float> projected_qkv_, projected_ba_;  // a row for each of the 256 bytes: both projections depend on the byte alone
    std::vector<float> taps_;                          // [channels, 4]
    Values a_log_, dt_bias_;
};

// Normal and uniform numbers, the same on every machine.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed) {}
    double uniform(double low, double high);  // [low, high)
    double normal();

private:
    uint64_t next();
    uint64_t state_;
};

Values normal_values(int64_t count, double deviation, uint64_t seed, int32_t dtype);

}  // namespace job
