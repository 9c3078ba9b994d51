#include "bank.h"

#include <cmath>
#include <cstring>

#include "random.h"

namespace serving {
namespace {

// Normal numbers, already in their type. They repeat after a period that is no multiple of a row's width, so that rows differ: millions of
// fresh ones would take longer than a short run.
std::vector<uint8_t> noise(int64_t count, int32_t dtype, numeric::Random& random) {
    constexpr size_t kPeriod = (1 << 18) + 3;
    const auto size = static_cast<size_t>(numeric::dtype_bytes(dtype));
    std::vector<uint8_t> period(kPeriod * size), all(static_cast<size_t>(count) * size);
    for (size_t i = 0; i < kPeriod; i++) numeric::encode(dtype, random.normal(), &period[i * size]);
    for (size_t at = 0; at < all.size(); at += period.size()) std::memcpy(&all[at], period.data(), std::min(period.size(), all.size() - at));
    return all;
}

}  // namespace

Bank::Bank(const Options& options, int64_t rows) : options_(options) {
    numeric::Random random(static_cast<uint64_t>(options.seed) + 1);
    qkv_ = noise(rows * qkv_width(), options.dtype, random);
    ba_ = noise(rows * ba_width(), options.dtype, random);
    for (int64_t i = 0; i < options.layers * options.value_heads; i++) {  // as Qwen3-Next begins: A in 1..16, dt in 1e-3..0.1
        a_log_.push_back(static_cast<float>(std::log(random.uniform(1, 16))));
        const double dt = std::exp(random.uniform(std::log(1e-3), std::log(0.1)));
        dt_bias_.push_back(static_cast<float>(dt + std::log(-std::expm1(-dt))));
    }
}

void Bank::append(numeric::Numbers& to, const std::vector<uint8_t>& from, int64_t first, int64_t count) const {
    const int64_t size = numeric::dtype_bytes(options_.dtype);
    for (int64_t i = first; i < first + count; i++) to.push_back(numeric::decode(options_.dtype, &from[static_cast<size_t>(i * size)]));
}

}  // namespace serving
