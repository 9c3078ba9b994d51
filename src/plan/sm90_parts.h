// What the Hopper engines of both operations are planned with.
#pragma once
#include "layouts.h"
#include "plan.h"

namespace fqla {

// Of what both operations need, what no bounds, alignment or state options of a call change.
inline const char* refuses_sm90_form(const Form& form, const Caps& caps) {
    if (caps.image != Image::sm_90a) return "needs the sm_90a image on a Hopper card";
    if (form.key_dim != kHeadDim || form.value_dim != kHeadDim) return "needs K = V = 128";
    if (form.dtype != FLASHQLA_DTYPE_BF16 && form.dtype != FLASHQLA_DTYPE_F16) return "needs bf16 or f16 tensors";
    return nullptr;
}

inline const char* refuses_sm90_bounds(const Bounds& b) {
    if (b.rows == 0 || b.max_tokens == 0) return "there are no tokens";
    if (b.tokens > INT32_MAX) return "copy engine coordinates are 32 bits: at most 2^31 - 1 tokens";
    return nullptr;
}

inline int64_t slots_of(const Bounds& b) { return chunk_slots(b.rows, b.tokens, b.max_tokens, b.offsets); }

// Also for calls of fewer tokens in as many rows, without or with offsets.
inline int64_t most_slots(const Bounds& b) { return b.tokens / kChunk + b.rows; }

inline KernelId by_dtype(const Form& form, KernelId bf16, KernelId f16) { return form.dtype == FLASHQLA_DTYPE_BF16 ? bf16 : f16; }

inline Step sm90_step(KernelId kernel, int64_t blocks, uint32_t threads, uint32_t shared_bytes, bool overlaps) {
    return {kernel, When::before, overlaps, {static_cast<uint32_t>(blocks), 1, 1}, threads, shared_bytes};
}

// At most so many segments of each row, of as many chunks each: fewer where whole chunks fill fewer.
inline void set_segments(const Bounds& b, int64_t segments, Plan& plan) {
    const int64_t chunks = (b.max_tokens + kChunk - 1) / kChunk, each = (chunks + segments - 1) / segments;
    plan.sm90.segments = static_cast<int32_t>((chunks + each - 1) / each);
    plan.sm90.segment_chunks = static_cast<int32_t>(each);
}

// What a forward leaves for its backward: records, S at each chunk's start, U. The backward books the same where nothing was saved.
inline void book_saved(const Form& form, int64_t slots, Workspace& ledger) {
    const uint64_t chunks = static_cast<uint64_t>(slots) * static_cast<uint64_t>(form.value_heads);
    ledger.book(Region::records, chunks * ChunkRecord::kBytes);
    ledger.book(Region::chunk_states, chunks * BackwardTiles::kMatrixBytes);
    ledger.book(Region::residuals, chunks * BackwardTiles::kTokensBytes);
}

// The solve's step; its records are booked by who needs them (sm90_plan.cpp).
void plan_solve(const Request&, const Caps&, int64_t slots, Plan&);

}  // namespace fqla
