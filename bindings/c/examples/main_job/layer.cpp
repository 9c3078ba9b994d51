#include "layer.h"

#include <cmath>

#include "flashqla.h"

namespace job {

uint64_t Random::next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double Random::uniform(double low, double high) { return low + (high - low) * std::ldexp(static_cast<double>(next() >> 11), -53); }

double Random::normal() {  // Box-Muller, one of the pair
    const double radius = std::sqrt(-2 * std::log(uniform(1e-300, 1)));
    return radius * std::cos(uniform(0, 6.283185307179586));
}

Values normal_values(int64_t count, double deviation, uint64_t seed, int32_t dtype) {
    Random random(seed);
    Values values(static_cast<size_t>(count));
    for (double& x : values) x = rounded(deviation * random.normal(), dtype);
    return values;
}

namespace {

// [256, outputs] = rms_norm(embedding) W with W ~ N(0, 1/hidden), so that projections have unit size.
std::vector<float> project(const std::vector<float>& x, int64_t hidden, int64_t outputs, Random& random) {
    std::vector<float> weights(static_cast<size_t>(hidden * outputs)), y(static_cast<size_t>(256 * outputs));
    for (float& w : weights) w = static_cast<float>(random.normal() / std::sqrt(static_cast<double>(hidden)));
    for (int64_t byte = 0; byte < 256; byte++)
        for (int64_t h = 0; h < hidden; h++)
            for (int64_t i = 0; i < outputs; i++)
                y[static_cast<size_t>(byte * outputs + i)] += x[static_cast<size_t>(byte * hidden + h)] * weights[static_cast<size_t>(h * outputs + i)];
    return y;
}

std::vector<float> normed_embedding(int64_t hidden, Random& random) {
    std::vector<float> x(static_cast<size_t>(256 * hidden));
    for (size_t byte = 0; byte < 256; byte++) {
        float* row = &x[byte * static_cast<size_t>(hidden)];
        float squares = 0;
        for (int64_t h = 0; h < hidden; h++) {
            row[h] = static_cast<float>(random.normal());
            squares += row[h] * row[h];
        }
        const float scale = 1 / std::sqrt(squares / static_cast<float>(hidden) + 1e-6f);
        for (int64_t h = 0; h < hidden; h++) row[h] *= scale;
    }
    return x;
}

float silu(float x) { return x / (1 + std::exp(-x)); }

}  // namespace

Layer::Layer(const Shape& shape, int32_t dtype) : shape_(shape), dtype_(dtype) {
    Random random(20260101);
    const std::vector<float> x = normed_embedding(kHidden, random);
    projected_qkv_ = project(x, kHidden, shape.channels(), random);
    projected_ba_ = project(x, kHidden, 2 * shape.value_heads, random);
    taps_.resize(static_cast<size_t>(shape.channels() * kTaps));
    for (float& tap : taps_) tap = static_cast<float>(random.uniform(-0.5, 0.5));  // as a depthwise Conv1d of width 4 begins
    for (int32_t h = 0; h < shape.value_heads; h++) {
        a_log_.push_back(rounded(std::log(random.uniform(1, 16)), FLASHQLA_DTYPE_F32));
        const double dt = std::exp(random.uniform(std::log(1e-3), std::log(0.1)));
        dt_bias_.push_back(rounded(dt + std::log(-std::expm1(-dt)), FLASHQLA_DTYPE_F32));  // softplus(dt_bias) = dt
    }
}

Tokens Layer::front(const std::string& text, int64_t begin, int64_t count) const {
    const int64_t channels = shape_.channels(), scalars = 2 * shape_.value_heads;
    Tokens tokens;
    tokens.count = count;
    tokens.qkv.reserve(static_cast<size_t>(count * channels));
    tokens.ba.reserve(static_cast<size_t>(count * scalars));
    const auto byte_at = [&](int64_t t) { return static_cast<int64_t>(static_cast<unsigned char>(text[static_cast<size_t>(t)])); };
    for (int64_t t = begin; t < begin + count; t++) {
        for (int64_t c = 0; c < channels; c++) {
            float sum = 0;
            for (int64_t tap = 0; tap < kTaps; tap++) {
                const int64_t source = t - (kTaps - 1) + tap;
                if (source >= 0) sum += taps_[static_cast<size_t>(c * kTaps + tap)] * projected_qkv_[static_cast<size_t>(byte_at(source) * channels + c)];
            }
            tokens.qkv.push_back(rounded(static_cast<double>(silu(sum)), dtype_));
        }
        for (int64_t i = 0; i < scalars; i++)
            tokens.ba.push_back(rounded(static_cast<double>(projected_ba_[static_cast<size_t>(byte_at(t) * scalars + i)]), dtype_));
    }
    return tokens;
}

}  // namespace job
