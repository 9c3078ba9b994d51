// Which chunks of which rows a segment of the backward has (numbering: BackwardParams).
#pragma once
#include "kernel_params.h"
#include "scalar.cuh"

namespace fqla {

// Slot of a row's first chunk.
__device__ __forceinline__ int64_t first_slot_of(const Rows& rows, int64_t n) {
    const int64_t begin = rows.offsets ? row_tokens(rows, n).begin : n * rows.max_tokens;
    return begin / kBackwardChunk + n;
}

// The row whose chunks a slot may belong to: the last one that starts at or before it.
__device__ __forceinline__ int64_t row_of_slot(const Rows& rows, int64_t slot) {
    int64_t low = 0, high = rows.count;  // first_slot_of(low) <= slot < first_slot_of(high)
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (first_slot_of(rows, middle) <= slot)
            low = middle;
        else
            high = middle;
    }
    return low;
}

// A row's part in the segment.
struct SegmentRow {
    RowTokens row;
    int64_t slot;        // of the row's first chunk
    int64_t begin, end;  // tokens of the row that this segment has
    bool here;           // any; an empty row counts where its first chunk would be
    bool crosses;        // the row has chunks in several segments
};

__device__ __forceinline__ SegmentRow segment_row(const BackwardParams& p, int64_t n) {
    SegmentRow r;
    r.row = row_tokens(p.call.rows, n);
    r.slot = first_slot_of(p.call.rows, n);
    const int64_t chunks = (r.row.length + kBackwardChunk - 1) / kBackwardChunk;
    const int64_t first = clamp_to(p.first_slot - r.slot, 0, chunks), last = clamp_to(p.first_slot + p.slots - r.slot, 0, chunks);
    r.begin = first * kBackwardChunk;
    r.end = last * kBackwardChunk < r.row.length ? last * kBackwardChunk : r.row.length;
    r.crosses = chunks > 1 && r.slot / p.slots != (r.slot + chunks - 1) / p.slots;
    r.here = r.row.length ? first < last : r.slot >= p.first_slot && r.slot < p.first_slot + p.slots;
    return r;
}

// One chunk, from its slot.
struct Chunk {
    int64_t n, slot;  // row; slot within the segment
    RowTokens row;
    int64_t begin;   // first token of the row
    int32_t length;  // tokens, 0: nobody's slot
    bool skip;       // of a PAD row
};

__device__ __forceinline__ Chunk chunk_at(const BackwardParams& p, int64_t slot_in_segment) {
    Chunk c;
    const int64_t slot = p.first_slot + slot_in_segment;
    c.slot = slot_in_segment;
    c.n = row_of_slot(p.call.rows, slot);
    c.row = row_tokens(p.call.rows, c.n);
    c.begin = (slot - first_slot_of(p.call.rows, c.n)) * kBackwardChunk;
    // Slots before the first row's are nobody's.
    c.length = c.begin < 0 ? 0 : static_cast<int32_t>(clamp_to(c.row.length - c.begin, 0, kBackwardChunk));
    c.skip = row_slots(p.call.state, c.n).skip;
    return c;
}

}  // namespace fqla
