#include "fast_states.h"

#include <algorithm>

namespace fqla::cpu {

void load_columns(const Kernels& k, const Form& form, const StateView& from, const Columns& columns, float* to, int64_t stride, float* staging) {
    const int K = form.key_dim;
    if (!from.data) {
        for (int i = 0; i < K; i++) std::fill_n(to + i * stride, columns.padded(), 0.0f);
        return;
    }
    const void* first = element_at(from.data, from.dtype, from.offset + columns.begin * from.value);
    if (form.state_layout == FLASHQLA_STATE_KV) {
        k.load_rows(first, from.dtype, from.key, K, columns.count, to, stride);
        return;
    }
    if (columns.count < columns.padded())
        for (int i = 0; i < K; i++) std::fill_n(to + i * stride + columns.count, columns.padded() - columns.count, 0.0f);
    for (int j = 0; j < columns.count; j += kPad) {
        const int strip = std::min(kPad, columns.count - j);
        const void* rows = element_at(const_cast<void*>(first), from.dtype, j * from.value);
        if (from.dtype == FLASHQLA_DTYPE_F32) {
            k.transpose(static_cast<const float*>(rows), from.value, strip, K, to + j, stride);
        } else {
            k.load_rows(rows, from.dtype, from.value, strip, K, staging, kRowStride);
            k.transpose(staging, kRowStride, strip, K, to + j, stride);
        }
    }
}

void store_columns(const Kernels& k, const Form& form, const float* from, int64_t stride, const Columns& columns, const StateView& to, float* staging) {
    if (!to.data) return;
    const int K = form.key_dim;
    void* first = element_at(to.data, to.dtype, to.offset + columns.begin * to.value);
    if (form.state_layout == FLASHQLA_STATE_KV) {
        k.store_rows(from, stride, K, columns.count, first, to.dtype, to.key);
        return;
    }
    for (int j = 0; j < columns.count; j += kPad) {
        const int strip = std::min(kPad, columns.count - j);
        void* rows = element_at(first, to.dtype, j * to.value);
        if (to.dtype == FLASHQLA_DTYPE_F32) {
            k.transpose(from + j, stride, K, strip, static_cast<float*>(rows), to.value);
        } else {
            k.transpose(from + j, stride, K, strip, staging, kRowStride);
            k.store_rows(staging, kRowStride, strip, K, rows, to.dtype, to.value);
        }
    }
}

}  // namespace fqla::cpu
