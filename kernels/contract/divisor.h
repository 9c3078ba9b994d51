// Division by a number that the host knows: one multiplication on the way to a kernel's first load, where a division is twenty instructions.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define FQLA_HD __host__ __device__ __forceinline__
#else
#define FQLA_HD inline
#endif

namespace fqla {

struct Divisor {
    uint32_t value, reciprocal;  // the whole number above 2^32 / value; 0 where that does not serve
};

// Of numbers x below `end`. With value * reciprocal = 2^32 + e, 0 < e <= value, the product is too large by x e / (2^32 value): less than a step of
// 1 / value while x e < 2^32.
constexpr Divisor divisor_of(int64_t value, int64_t end) {
    const bool exact = value > 1 && end * value <= int64_t{1} << 32;
    return {static_cast<uint32_t>(value), exact ? static_cast<uint32_t>((int64_t{1} << 32) / value + 1) : 0};
}

FQLA_HD uint32_t divide(uint32_t x, const Divisor& by) {
    if (by.reciprocal) return static_cast<uint32_t>(uint64_t{x} * by.reciprocal >> 32);
    return by.value == 1 ? x : x / by.value;
}
// The same where `by` has a reciprocal or is 1: with numbers below 2^16 on either side.
FQLA_HD uint32_t divide_small(uint32_t x, const Divisor& by) { return by.reciprocal ? static_cast<uint32_t>(uint64_t{x} * by.reciprocal >> 32) : x; }

}  // namespace fqla
