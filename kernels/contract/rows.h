// Which tokens and which slots a row has: the one reading of offsets, slot tables and accepted counts, for the CPU and every kernel.
// Contents come from the caller's device memory, so all are bounded here and nowhere else.
#pragma once
#include "params.h"

#ifdef __CUDACC__
#define FQLA_HD __host__ __device__ __forceinline__
#else
#define FQLA_HD inline
#endif

namespace fqla {

struct RowTokens {
    int64_t begin;   // first token in the tensors; 0 without offsets, where the row stride leads to the row
    int64_t length;  // 0 and up
};

FQLA_HD int64_t clamp_to(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

FQLA_HD RowTokens row_tokens(const Rows& rows, int64_t n) {
    if (!rows.offsets) return {0, rows.max_tokens};
    const int64_t first = rows.offsets_are_64bit ? static_cast<const int64_t*>(rows.offsets)[n] : static_cast<const int32_t*>(rows.offsets)[n];
    const int64_t last = rows.offsets_are_64bit ? static_cast<const int64_t*>(rows.offsets)[n + 1] : static_cast<const int32_t*>(rows.offsets)[n + 1];
    const int64_t begin = clamp_to(first, 0, rows.tokens), end = clamp_to(last, begin, rows.tokens);
    return {begin, end - begin < rows.max_tokens ? end - begin : rows.max_tokens};
}

// Whether a row of this length is this launch's: what it does not serve it neither reads nor writes.
FQLA_HD bool serves(const Rows& rows, int64_t length) { return length >= rows.least && (!rows.most || length <= rows.most); }
FQLA_HD bool serves_all(const Rows& rows) { return !rows.least && !rows.most; }

// Element offset of (row n, token t of the row, head h) in a view.
FQLA_HD int64_t element_offset(const View& x, int64_t n, const RowTokens& row, int64_t t, int64_t h) {
    return n * x.row + (row.begin + t) * x.token + h * x.head;
}

constexpr int64_t kNoSlot = -1;

struct RowSlots {
    int64_t read, write;  // slot or kNoSlot
    bool skip;            // PAD: outputs zeroed, nothing stored
};

FQLA_HD bool in_pool(const Pool& pool, int64_t slot) { return slot >= 0 && slot < pool.slots; }

FQLA_HD RowSlots row_slots(const StateIo& state, int64_t n) {
    RowSlots r{kNoSlot, kNoSlot, false};
    if (state.read.data) {
        int64_t slot = state.read.table ? state.read.table[n] : n;
        if (state.accepted && state.accepted[n] != 0) {
            const int64_t a = state.accepted[n];
            slot = a < 0 || a > state.token_width ? FLASHQLA_SLOT_PAD : state.token_slots[n * state.token_width + a - 1];
        }
        if (in_pool(state.read, slot))
            r.read = slot;
        else if (slot != FLASHQLA_SLOT_NONE)
            r.skip = true;
    }
    if (state.write.data) {
        const int64_t slot = state.write.table ? state.write.table[n] : n;
        if (in_pool(state.write, slot))
            r.write = state.store_final ? slot : kNoSlot;
        else if (slot != FLASHQLA_SLOT_NONE)
            r.skip = true;
    }
    return r;
}

// Write-pool slot for the state after the row's first `count` tokens, from the checkpoint table; kNoSlot where none is wanted.
FQLA_HD int64_t checkpoint_slot(const StateIo& state, int64_t n, int64_t count) {
    if (!state.checkpoint_interval || count % state.checkpoint_interval) return kNoSlot;
    const int64_t j = count / state.checkpoint_interval - 1;
    if (j < 0 || j >= state.checkpoint_width) return kNoSlot;
    const int64_t slot = state.checkpoint_slots[n * state.checkpoint_width + j];
    return in_pool(state.write, slot) ? slot : kNoSlot;
}

// Write-pool slot for the state after token t of the row, from the per-token table; kNoSlot where none is wanted.
FQLA_HD int64_t token_slot(const StateIo& state, int64_t n, int64_t t) {
    if (t >= state.token_width) return kNoSlot;
    const int64_t slot = state.token_slots[n * state.token_width + t];
    return in_pool(state.write, slot) ? slot : kNoSlot;
}

// In 32 unsigned bits: a 64-bit division is about a hundred instructions before a kernel's first load.
FQLA_HD int32_t key_head_of(const Form& form, int32_t value_head) {
    const uint32_t h = static_cast<uint32_t>(value_head), key_heads = static_cast<uint32_t>(form.key_heads),
                   value_heads = static_cast<uint32_t>(form.value_heads);
    return static_cast<int32_t>(form.head_map == FLASHQLA_HEADS_TILED ? h % key_heads : h / (value_heads / key_heads));
}

}  // namespace fqla
