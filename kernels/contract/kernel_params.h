// One parameter struct per kernel family, passed by value (`const __grid_constant__ Params p`). Compiled by g++ and nvcc.
#pragma once
#include "rows.h"

namespace fqla {

// Launch numbers that the portable kernels share with their planners.
struct RecurrentLayout {
    static constexpr int kFixedDim = 128;                      // K and V of the fixed-size symbols
    static constexpr int kFixedColumns = 16, kAnyColumns = 8;  // value columns of a warp there, and in gdn_recurrent_any_*
    static constexpr int kShortColumns = 8, kShortTokens = 8;  // value columns of a warp in gdn_short_*, and tokens of a row there, at most
    static constexpr int kMaxWarps = 4;                        // of a block; a plan may take fewer
    static constexpr int kSmallKeyDim = 128;                   // gdn_recurrent_any_128 serves up to here
};
struct BackwardLayout {
    static constexpr int kSmallKeyDim = 128;                         // gdn_backward_scan_128 serves up to here
    static constexpr int kScanColumns = 8, kScanWarps = 4;           // value columns of a warp of the scans; warps of a block, at most
    static constexpr int kChunkThreads = 256, kFinishThreads = 256;  // of gdn_backward_chunks; of _heads and _sums
};

// gdn_recurrent_*: grid (value_heads * tiles, rows low, rows high); a block has value columns [tile, tile + 1) * V / tiles of one row and head.
struct RecurrentParams {
    Forward call;
    Divisor tiles;             // of V
    Divisor heads;             // value heads of a key head; with tiled heads key heads
    int32_t streaming_stores;  // states leave the L2 first
    int32_t reserved;
};

static_assert(sizeof(RecurrentParams) == 576, "layout");

// gdn_decode_*: grid (tiles of V, value heads, rows). Strides are bytes in 32 bits, which shortens the way to the first loads (decode.h in the planner says
// what fits).
struct DecodeView {
    char* data;
    uint32_t row, head;
    int32_t dtype;
    int32_t reserved;
};
struct DecodePool {
    char* data;
    const int32_t* table;  // [rows] or null: slot n for row n
    int64_t slot_bytes;
    uint32_t slots;
    uint32_t reserved;
};
struct DecodeParams {
    Form form;
    DecodeView q, k, v, gate, beta;
    DecodeView a_log, dt_bias;  // the gate's memory where the form has none, so that each load may be made
    DecodeView out;
    DecodePool read, write;
    Divisor heads;  // as in RecurrentParams; by its reciprocal or 1
    float scale, beta_scale, eps;
    int32_t streaming_stores;
    uint32_t zero;  // which the compiler does not know for one
    int32_t reserved;
};

static_assert(sizeof(DecodeParams) == 72 + 8 * 24 + 2 * 32 + 8 + 6 * 4, "layout");

// gdn_short_*: the same, with several tokens a row.
struct ShortParams {
    DecodeParams row;
    const int32_t* token_slots;  // [rows, token_width] into `write`, or null
    int64_t token_width;
    uint32_t q_token, k_token, v_token, gate_token, beta_token, out_token;  // bytes
    int32_t tokens;
    int32_t store_final;
};

static_assert(sizeof(ShortParams) == sizeof(DecodeParams) + 2 * 8 + 8 * 4, "layout");

// Tokens of a chunk of the portable backward. A row's chunks count from its start. They are numbered through all rows without any of the
// device's offsets being known to the host: chunk c of row n has slot  begin(n) / kBackwardChunk + n + c,  begin(n) the tokens in front of it.
constexpr int32_t kBackwardChunk = 32;

constexpr int64_t backward_slots(int64_t tokens, int64_t rows) { return tokens / kBackwardChunk + rows; }

// gdn_backward_*. Arrays are f32 in the workspace; those with [slots] or [tokens] hold one segment: slots first_slot to first_slot + slots - 1,
// and tokens (slot - first_slot) * kBackwardChunk + token of the chunk.
struct BackwardParams {
    Backward call;
    float* chunk_states;      // [slots, HV, K, V]    S at a chunk's start
    float* chunk_gradients;   // [slots, HV, K, V]    D = dL/dS at a chunk's end
    float* residuals;         // [tokens, HV, V]      e = v - S'^T k
    float* delta_gradients;   // [tokens, HV, V]      dL/du
    float* head_dq;           // [tokens, HV, K]      before the sum over value heads and the norm
    float* head_dk;           // [tokens, HV, K]
    float* segment_states;    // [segments, HV, K, V] S at a segment's start; null with one segment
    float* carried_gradient;  // [2, HV, K, V]        D at a segment's start, for the segment before; by parity of the segment
    float* partial_sums;      // [all slots, HV, 2]   da and dg g, summed over a chunk; null where not wanted
    int64_t first_slot, slots, all_slots;
    int32_t segment, segments;
    int32_t tiles;          // of V (gdn_backward_scan_*)
    int32_t find_segments;  // gdn_backward_scan_*: only segment_states are made
};

static_assert(sizeof(BackwardParams) == 912 + 9 * 8 + 3 * 8 + 4 * 4, "layout");

}  // namespace fqla
