#include "numbers.h"

#include <cmath>
#include <cstring>

#include "flashqla.h"

namespace job {
namespace {

uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

uint16_t to_bf16(float x) {
    const uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40u);  // NaN stays NaN
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float from_bf16(uint16_t h) { return float_of(static_cast<uint32_t>(h) << 16); }

uint16_t to_f16(float x) {
    const uint16_t sign = static_cast<uint16_t>(bits_of(x) >> 16 & 0x8000u);
    const float size = std::fabs(x);
    if (!(size < 65520.0f)) return static_cast<uint16_t>(sign | (size != size ? 0x7e00u : 0x7c00u));
    // Counted in units of the result's last place: 2^-24 under the smallest normal number, else 2^(exponent - 10).
    const int exponent = size < 6.103515625e-5f ? -14 : static_cast<int>(bits_of(size) >> 23) - 127;
    const auto units = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));
    return static_cast<uint16_t>(sign | (static_cast<uint32_t>(exponent + 14) * 1024u + units));
}

float from_f16(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24) : std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
    if (exponent == 31) size = fraction ? NAN : INFINITY;
    return h & 0x8000 ? -size : size;
}

template <class T, class Convert>
std::vector<uint8_t> encode_as(const Values& values, Convert convert) {
    std::vector<uint8_t> bytes(values.size() * sizeof(T));
    for (size_t i = 0; i < values.size(); i++) {
        const T x = convert(values[i]);
        memcpy(&bytes[i * sizeof(T)], &x, sizeof(T));
    }
    return bytes;
}

template <class T, class Convert>
Values decode_as(const std::vector<uint8_t>& bytes, Convert convert) {
    Values values(bytes.size() / sizeof(T));
    for (size_t i = 0; i < values.size(); i++) {
        T x;
        memcpy(&x, &bytes[i * sizeof(T)], sizeof(T));
        values[i] = static_cast<double>(convert(x));
    }
    return values;
}

}  // namespace

int64_t element_bytes(int32_t dtype) { return dtype == FLASHQLA_DTYPE_F64 ? 8 : dtype == FLASHQLA_DTYPE_F32 ? 4 : 2; }

const char* dtype_name(int32_t dtype) {
    return dtype == FLASHQLA_DTYPE_F64 ? "f64" : dtype == FLASHQLA_DTYPE_F32 ? "f32" : dtype == FLASHQLA_DTYPE_BF16 ? "bf16" : "f16";
}

double rounded(double x, int32_t dtype) {
    const auto f = static_cast<float>(x);
    if (dtype == FLASHQLA_DTYPE_F64) return x;
    if (dtype == FLASHQLA_DTYPE_BF16) return static_cast<double>(from_bf16(to_bf16(f)));
    if (dtype == FLASHQLA_DTYPE_F16) return static_cast<double>(from_f16(to_f16(f)));
    return static_cast<double>(f);
}

void round_all(Values& values, int32_t dtype) {
    for (double& x : values) x = rounded(x, dtype);
}

std::vector<uint8_t> encode(const Values& values, int32_t dtype) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            return encode_as<double>(values, [](double x) { return x; });
        case FLASHQLA_DTYPE_F32:
            return encode_as<float>(values, [](double x) { return static_cast<float>(x); });
        case FLASHQLA_DTYPE_BF16:
            return encode_as<uint16_t>(values, [](double x) { return to_bf16(static_cast<float>(x)); });
        default:
            return encode_as<uint16_t>(values, [](double x) { return to_f16(static_cast<float>(x)); });
    }
}

Values decode(const std::vector<uint8_t>& bytes, int32_t dtype) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            return decode_as<double>(bytes, [](double x) { return x; });
        case FLASHQLA_DTYPE_F32:
            return decode_as<float>(bytes, [](float x) { return x; });
        case FLASHQLA_DTYPE_BF16:
            return decode_as<uint16_t>(bytes, from_bf16);
        default:
            return decode_as<uint16_t>(bytes, from_f16);
    }
}

double relative_error(const Values& x, const Values& truth) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < truth.size(); i++) {
        difference += (x[i] - truth[i]) * (x[i] - truth[i]);
        size += truth[i] * truth[i];
    }
    const double floor = 1e-6 * std::sqrt(static_cast<double>(truth.size()));
    return std::sqrt(difference) / std::fmax(std::sqrt(size), floor);
}

}  // namespace job
