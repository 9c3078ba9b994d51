#include "numbers.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace numeric {
namespace {

// f16 and bf16 as (bits of significand with the hidden one, least exponent of frexp, largest value).
struct Small {
    int significand, least_exponent;
    double largest;
};
constexpr Small kF16{11, -13, 65504.0};
constexpr Small kBf16{8, -125, 3.3895313892515355e38};

double round_small(const Small& type, double x) {
    if (!std::isfinite(x) || x == 0) return x;
    int exponent = 0;
    std::frexp(x, &exponent);
    const double ulp = std::ldexp(1.0, (exponent > type.least_exponent ? exponent : type.least_exponent) - type.significand);
    const double rounded = std::nearbyint(x / ulp) * ulp;
    return std::fabs(rounded) > type.largest ? std::copysign(std::numeric_limits<double>::infinity(), x) : rounded;
}

uint16_t f16_bits(double x) {
    const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return 0x7e00;
    const double magnitude = std::fabs(round_small(kF16, x));
    if (std::isinf(magnitude)) return static_cast<uint16_t>(sign | 0x7c00);
    if (magnitude < std::ldexp(1.0, -14)) return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::ldexp(magnitude, 24)));
    int exponent = 0;
    const double fraction = std::frexp(magnitude, &exponent);  // [0.5, 1)
    const auto mantissa = static_cast<uint16_t>(std::ldexp(fraction, 11) - 1024);
    return static_cast<uint16_t>(sign | ((exponent + 14) << 10) | mantissa);
}

double f16_value(uint16_t bits) {
    const int exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const double magnitude = exponent == 31 ? (mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity())
                             : exponent     ? std::ldexp(1024.0 + mantissa, exponent - 25)
                                            : std::ldexp(static_cast<double>(mantissa), -24);
    return bits & 0x8000 ? -magnitude : magnitude;
}

uint16_t bf16_bits(double x) {
    const auto single = static_cast<float>(round_small(kBf16, x));  // exact: bf16 is a prefix of f32
    uint32_t bits = 0;
    std::memcpy(&bits, &single, 4);
    return static_cast<uint16_t>(bits >> 16);
}

double bf16_value(uint16_t bits) {
    const uint32_t wide = uint32_t{bits} << 16;
    float single = 0;
    std::memcpy(&single, &wide, 4);
    return static_cast<double>(single);
}

template <class T>
T load(const void* from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

template <class T>
void store(T x, void* to) {
    std::memcpy(to, &x, sizeof x);
}

}  // namespace

int64_t dtype_bytes(int32_t dtype) { return dtype == FLASHQLA_DTYPE_F64 ? 8 : dtype == FLASHQLA_DTYPE_F32 ? 4 : 2; }

const char* dtype_name(int32_t dtype) {
    constexpr const char* names[] = {"default", "f32", "bf16", "f16", "f64"};
    return names[dtype];
}

double round_to(int32_t dtype, double x) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            return x;
        case FLASHQLA_DTYPE_F16:
            return round_small(kF16, x);
        case FLASHQLA_DTYPE_BF16:
            return round_small(kBf16, x);
        default:
            return static_cast<double>(static_cast<float>(x));
    }
}

void encode(int32_t dtype, double x, void* to) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            return store(x, to);
        case FLASHQLA_DTYPE_F16:
            return store(f16_bits(x), to);
        case FLASHQLA_DTYPE_BF16:
            return store(bf16_bits(x), to);
        default:
            return store(static_cast<float>(x), to);
    }
}

double decode(int32_t dtype, const void* from) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            return load<double>(from);
        case FLASHQLA_DTYPE_F16:
            return f16_value(load<uint16_t>(from));
        case FLASHQLA_DTYPE_BF16:
            return bf16_value(load<uint16_t>(from));
        default:
            return static_cast<double>(load<float>(from));
    }
}

}  // namespace numeric
