// Which heads and tokens a task works on: shared by the oracle and the fast path.
#pragma once
#include "convert.h"
#include "rows.h"

namespace fqla::cpu {

// A row as every task of it sees it.
struct RowPlace {
    int64_t n;
    RowTokens tokens;
    RowSlots slots;
};

inline RowPlace row_place(const Rows& rows, const StateIo& state, int64_t n) { return {n, row_tokens(rows, n), row_slots(state, n)}; }

inline int64_t offset_of(const View& x, const RowPlace& row, int64_t t, int64_t h) { return element_offset(x, row.n, row.tokens, t, h); }

// The i-th value head that reads key head hk.
inline int64_t value_head_of(const Form& form, int64_t hk, int64_t i) {
    return form.head_map == FLASHQLA_HEADS_TILED ? hk + i * form.key_heads : hk * (form.value_heads / form.key_heads) + i;
}

// Gradients nobody asked for have null data and are dropped here.
template <class Real>
void put(const View& x, const RowPlace& row, int64_t t, int64_t h, int count, const Real* values) {
    if (x.data) store_elements(x, offset_of(x, row, t, h), count, values);
}

inline void put_zeros(const View& x, const RowPlace& row, int64_t h, int count) {
    if (!x.data) return;
    for (int64_t t = 0; t < row.tokens.length; t++) zero_elements(x, offset_of(x, row, t, h), count);
}

}  // namespace fqla::cpu
