// Where states lie: heads of pool slots and of the backward's row-indexed states, to and from a K x V working copy.
#pragma once
#include "convert.h"
#include "rows.h"

namespace fqla::cpu {

// One head's state in the caller's memory: element (i, j) of K x V lies at data[offset + i*key + j*value].
struct StateView {
    void* data;  // null: zero when read, dropped when written
    int32_t dtype;
    int64_t offset, key, value;  // strides in elements
};

inline StateView head_state(const Form& form, void* data, int32_t dtype, int64_t offset) {
    const bool kv = form.state_layout == FLASHQLA_STATE_KV;
    return {data, dtype, offset, kv ? form.value_dim : 1, kv ? 1 : form.key_dim};
}

inline StateView slot_state(const Form& form, const Pool& pool, int64_t slot, int64_t h) {
    const int64_t head_elements = int64_t{form.key_dim} * form.value_dim;
    if (slot == kNoSlot) return {};
    return head_state(form, pool.data, form.state_dtype, slot * pool.slot_stride + h * head_elements);
}

// d_final and d_initial.
inline StateView row_state(const Form& form, const View& x, int64_t n, int64_t h) {
    if (!x.data) return {};
    return head_state(form, x.data, x.dtype, n * x.row + h * x.head);
}

// Working copies are K rows of `stride` elements.
template <class Real>
void load_state(const Form& form, const StateView& from, Real* to, int64_t stride) {
    for (int64_t i = 0; i < form.key_dim; i++)
        for (int64_t j = 0; j < form.value_dim; j++)
            to[i * stride + j] = from.data ? load_element<Real>(from.data, from.dtype, from.offset + i * from.key + j * from.value) : Real(0);
}

template <class Real>
void store_state(const Form& form, const Real* from, int64_t stride, const StateView& to) {
    if (!to.data) return;
    for (int64_t i = 0; i < form.key_dim; i++)
        for (int64_t j = 0; j < form.value_dim; j++) store_element<Real>(to.data, to.dtype, to.offset + i * to.key + j * to.value, from[i * stride + j]);
}

}  // namespace fqla::cpu
