// How the CPU backend's backward cuts rows, and what memory that takes: booked by plan_cpu, walked by src/cpu.
//
// States at the start of each chunk are recomputed, not saved. A row is cut into segments and a segment into chunks: one forward pass
// keeps the state at each segment's start; then, last segment first, another keeps the state at each chunk's start. With about sqrt(chunks)
// chunks in a segment the states kept are about 2 sqrt(chunks), whatever the length of the row.
#pragma once
#include <cstdint>

#include "params.h"

namespace fqla {

struct CpuBackward {
    int64_t chunk_tokens;
    int64_t segment_chunks, segments;  // of the longest row
    int64_t group;                     // value heads of a key head; a task is one row and key head
    int64_t state_stride;              // elements from row to row of a K x V state
    int64_t state_elements;
    int64_t worker_states;  // group * (segments + segment_chunks + 1), and for F64 one of each token of a chunk
    uint64_t worker_bytes;
    int64_t workers;  // threads that have memory

    int64_t segment_tokens() const { return segment_chunks * chunk_tokens; }
};

// State rows are a multiple of this many floats and one cache line more, so that a column block of all rows spreads over L1's sets.
constexpr int64_t kCpuColumnStep = 32, kCpuStateSkew = 16;
constexpr int64_t kCpuChunkTokens = 32, kCpuOracleChunkTokens = 16;
// Up to this many chunks a row is one segment.
constexpr int64_t kCpuShortRowChunks = 64;

CpuBackward cpu_backward(const Form& form, int64_t rows, int64_t max_tokens, int64_t threads);

}  // namespace fqla
