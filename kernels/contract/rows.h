// Which tokens and which slots a row has: the one reading of offsets, slot tables and accepted counts, for the CPU and every kernel.
// Contents come from the caller's device memory, so all are bounded here and nowhere else.
#pragma once
#include "divisor.h"
#include "params.h"

namespace fqla {

struct RowTokens {
    int64_t begin;   // first token in the tensors; 0 without offsets, where the row stride leads to the row
    int64_t length;  // 0 and up
};

FQLA_HD int64_t clamp_to(int64_t x, int64_t low, int64_t high) { return x < low ? low : x > high ? high : x; }

FQLA_HD int64_t row_offset(const Rows& rows, int64_t i) {
    return rows.offsets_are_64bit ? static_cast<const int64_t*>(rows.offsets)[i] : static_cast<const int32_t*>(rows.offsets)[i];
}
FQLA_HD RowTokens row_between(const Rows& rows, int64_t first, int64_t last) {
    const int64_t begin = clamp_to(first, 0, rows.tokens), end = clamp_to(last, begin, rows.tokens);
    return {begin, end - begin < rows.max_tokens ? end - begin : rows.max_tokens};
}
FQLA_HD RowTokens row_tokens(const Rows& rows, int64_t n) {
    if (!rows.offsets) return {0, rows.max_tokens};
    return row_between(rows, row_offset(rows, n), row_offset(rows, n + 1));
}
// The same in two steps, loads and what they mean, so that a kernel can have the loads of all tables under way at once: as they stand in memory, since
// a conversion would wait for its load. Not for kernels that have no registers to spare: fused_wide.cu spilled with row_tokens made of these.
struct RowOffsets {
    int64_t wide[2];
    int32_t narrow[2];
};
FQLA_HD RowOffsets row_offsets(const Rows& rows, int64_t n) {
    const auto* wide = rows.offsets_are_64bit ? static_cast<const int64_t*>(rows.offsets) : nullptr;
    const auto* narrow = rows.offsets_are_64bit ? nullptr : static_cast<const int32_t*>(rows.offsets);
    return {{wide ? wide[n] : 0, wide ? wide[n + 1] : 0}, {narrow ? narrow[n] : 0, narrow ? narrow[n + 1] : 0}};
}
FQLA_HD RowTokens row_tokens(const Rows& rows, const RowOffsets& offsets) {
    if (!rows.offsets) return {0, rows.max_tokens};
    if (rows.offsets_are_64bit) return row_between(rows, offsets.wide[0], offsets.wide[1]);
    return row_between(rows, offsets.narrow[0], offsets.narrow[1]);
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

// What the tables of slots hold for a row, its number where there is none: looked up when asked, or all at once.
struct SlotTables {
    const StateIo& state;
    int64_t n;
    FQLA_HD int64_t read() const { return state.read.table ? state.read.table[n] : n; }
    FQLA_HD int64_t write() const { return state.write.table ? state.write.table[n] : n; }
    FQLA_HD bool has_accepted() const { return state.accepted && state.accepted[n] != 0; }
    FQLA_HD int64_t accepted() const { return state.accepted[n]; }
};
struct SlotEntries {
    int32_t read_slot, write_slot, accepted_tokens;
    FQLA_HD int64_t read() const { return read_slot; }
    FQLA_HD int64_t write() const { return write_slot; }
    FQLA_HD bool has_accepted() const { return accepted_tokens != 0; }
    FQLA_HD int64_t accepted() const { return accepted_tokens; }
};
FQLA_HD SlotEntries slot_entries(const StateIo& state, int64_t n) {
    const int32_t* const read = state.read.data ? state.read.table : nullptr;
    const int32_t* const write = state.write.data ? state.write.table : nullptr;
    const int32_t* const accepted = state.read.data ? state.accepted : nullptr;
    const auto row = static_cast<int32_t>(n);
    return {read ? read[n] : row, write ? write[n] : row, accepted ? accepted[n] : 0};
}

template <class Entries>
FQLA_HD RowSlots row_slots(const StateIo& state, int64_t n, const Entries& entries) {
    RowSlots r{kNoSlot, kNoSlot, false};
    if (state.read.data) {
        int64_t slot = entries.read();
        if (entries.has_accepted()) {
            const int64_t a = entries.accepted();
            slot = a < 0 || a > state.token_width ? FLASHQLA_SLOT_PAD : state.token_slots[n * state.token_width + a - 1];
        }
        if (in_pool(state.read, slot))
            r.read = slot;
        else if (slot != FLASHQLA_SLOT_NONE)
            r.skip = true;
    }
    if (state.write.data) {
        const int64_t slot = entries.write();
        if (in_pool(state.write, slot))
            r.write = state.store_final ? slot : kNoSlot;
        else if (slot != FLASHQLA_SLOT_NONE)
            r.skip = true;
    }
    return r;
}
FQLA_HD RowSlots row_slots(const StateIo& state, int64_t n) { return row_slots(state, n, SlotTables{state, n}); }

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

// In 32 unsigned bits: a 64-bit division is about a hundred instructions.
FQLA_HD int32_t key_head_of(const Form& form, int32_t value_head) {
    const uint32_t h = static_cast<uint32_t>(value_head), key_heads = static_cast<uint32_t>(form.key_heads),
                   value_heads = static_cast<uint32_t>(form.value_heads);
    return static_cast<int32_t>(form.head_map == FLASHQLA_HEADS_TILED ? h % key_heads : h / (value_heads / key_heads));
}
// The same where the host has worked out `heads`: the value heads of a key head, with tiled heads the key heads.
FQLA_HD int32_t key_head_of(const Form& form, int32_t value_head, const Divisor& heads) {
    const uint32_t share = divide(static_cast<uint32_t>(value_head), heads);
    return static_cast<int32_t>(form.head_map == FLASHQLA_HEADS_TILED ? static_cast<uint32_t>(value_head) - share * heads.value : share);
}

}  // namespace fqla
