// Elements of any dtype to and from the type that is computed in. Scalar and portable; the SIMD kernels have their own for whole rows.
#pragma once
#include <cstdint>
#include <cstring>

#include "float16.h"
#include "params.h"

namespace fqla::cpu {

inline void* element_at(void* data, int32_t dtype, int64_t i) { return static_cast<char*>(data) + i * static_cast<int64_t>(element_bytes(dtype)); }

template <class Real>
Real load_element(const void* data, int32_t dtype, int64_t i) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            return static_cast<Real>(static_cast<const double*>(data)[i]);
        case FLASHQLA_DTYPE_F32:
            return static_cast<Real>(static_cast<const float*>(data)[i]);
        case FLASHQLA_DTYPE_BF16:
            return static_cast<Real>(float_of_bf16(static_cast<const uint16_t*>(data)[i]));
        default:
            return static_cast<Real>(float_of_f16(static_cast<const uint16_t*>(data)[i]));
    }
}

template <class Real>
void store_element(void* data, int32_t dtype, int64_t i, Real x) {
    switch (dtype) {
        case FLASHQLA_DTYPE_F64:
            static_cast<double*>(data)[i] = static_cast<double>(x);
            break;
        case FLASHQLA_DTYPE_F32:
            static_cast<float*>(data)[i] = static_cast<float>(x);
            break;
        case FLASHQLA_DTYPE_BF16:
            static_cast<uint16_t*>(data)[i] = bf16_of_float(static_cast<float>(x));
            break;
        default:
            static_cast<uint16_t*>(data)[i] = f16_of_float(static_cast<float>(x));
            break;
    }
}

template <class Real>
void load_elements(const View& x, int64_t offset, int count, Real* out) {
    for (int i = 0; i < count; i++) out[i] = load_element<Real>(x.data, x.dtype, offset + i);
}

template <class Real>
void store_elements(const View& x, int64_t offset, int count, const Real* values) {
    for (int i = 0; i < count; i++) store_element<Real>(x.data, x.dtype, offset + i, values[i]);
}

// Zero is all bits zero in every dtype.
inline void zero_elements(const View& x, int64_t offset, int count) {
    std::memset(element_at(x.data, x.dtype, offset), 0, static_cast<size_t>(count) * element_bytes(x.dtype));
}

}  // namespace fqla::cpu
