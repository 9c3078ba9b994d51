// The numbers that stand for a model's: activations of tokens, as its projections leave them, and the gates' weights of each layer.
#pragma once
#include <vector>

#include "numbers.h"
#include "options.h"

namespace serving {

class Bank {
public:
    Bank(const Options& options, int64_t rows);

    // A token's q | k | v is one packed row, its b | a (beta's logit, the raw gate's input) another.
    int64_t qkv_width() const { return (2 * options_.key_heads + options_.value_heads) * options_.dim; }
    int64_t ba_width() const { return 2 * options_.value_heads; }
    const std::vector<uint8_t>& qkv() const { return qkv_; }
    const std::vector<uint8_t>& ba() const { return ba_; }
    // [layers, value heads]: layers differ in their gates.
    const std::vector<float>& a_log() const { return a_log_; }
    const std::vector<float>& dt_bias() const { return dt_bias_; }

    // Columns [first, first + count) of a row, appended.
    void append_qkv(numeric::Numbers& to, int64_t row, int64_t first, int64_t count) const { append(to, qkv_, row * qkv_width() + first, count); }
    void append_ba(numeric::Numbers& to, int64_t row, int64_t first, int64_t count) const { append(to, ba_, row * ba_width() + first, count); }

private:
    void append(numeric::Numbers& to, const std::vector<uint8_t>& from, int64_t first, int64_t count) const;

    const Options& options_;
    std::vector<uint8_t> qkv_, ba_;
    std::vector<float> a_log_, dt_bias_;
};

}  // namespace serving
