// Parameters of the Hopper kernels (kernels/sm90). Tensor maps are the driver's 128 opaque bytes: rank 4 = [dim, head, token, row], 16-bit,
// box {64, 1, 64, 1}, 128-byte swizzle; with offsets the row extent is 1.
#pragma once
#include "cut.h"
#include "params.h"

namespace fqla {

struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

// How gates, betas and norms are given.
struct SolveForms {
    View gate, beta, a_log, dt_bias;
    int32_t gate_form, beta_form, qk_norm;
    float beta_scale, scale, eps;
};

// The chunk slots that a launch works on: all, or a window of them where a call goes window after window.
struct SlotWindow {
    int64_t first, end;
};

// gdn_solve_<dtype>: one block of 128 threads per (chunk slot, key head, `heads_per_block` of its value heads).
struct Sm90SolveParams {
    TensorMap q, k;
    Rows rows;
    SolveForms forms;
    void* records;  // ChunkRecord [slots of the window, value heads]
    int32_t key_heads, value_heads;
    int32_t heads_per_block;  // divides value_heads / key_heads; at most SolveLayout::kMaxHeads
    int32_t head_map;
    SlotWindow window;
    bool crossing;  // only chunks of the row that goes on, or begins, at the window's end
};

// gdn_forward_<dtype>_v<64|128>, gdn_forward_<dtype>_saving (64 rows of V), gdn_summary_<dtype>: one block per (row, segment, value head, part);
// gdn_forward_<dtype>_v<64|128>_mixed: any number of them.
struct Sm90ForwardParams {
    TensorMap q, k, v, o;
    Rows rows;
    StateIo state;
    View out;
    const void* records;
    // Behind a cut: matrices, numbered by it. Else f32 [row, head, segment, V, K]. The summary leaves where each segment but the last ends from a zero start
    // (the first: from the row's state), the stitch turns that into where it ends in truth; the forward of segment j starts from entry j - 1, that of the first
    // from the last entry, where the summary has put a copy of the row's state.
    float* segment_states;
    float* segment_maps;  // f32 [row, head, segment, K, K]: transitions, [from][to]; without a cut entries 0 and the last are not read
    // What the backward takes (BackwardTiles), left by a forward that saves and by the backward's own chains.
    void* states;   // [slots, HV] matrices: S at a chunk's start
    void* updates;  // [slots, HV] token tiles: U
    int32_t key_heads, value_heads, head_map;
    int32_t state_layout, state_dtype;
    int32_t segments;        // of a row
    int32_t segment_chunks;  // chunks of each segment but a row's last
    int32_t reserved;
    const Cut* cut;  // null: rows are whole or in segments; behind a cut, gdn_fused_<dtype>_v64 and _trio serve what it has left uncut
};

// gdn_fused_<dtype>_v64, _trio: clusters of two or three blocks, one a (row, value head). _v128: blocks, one a (row, value head), _v128_cut one a stretch.
// gdn_fused_summary_<dtype>: clusters of two blocks, one a summary. Any number of clusters or blocks serves. None has records in memory.
struct Sm90FusedParams {
    Sm90ForwardParams forward;
    SolveForms forms;
};

// gdn_cut_gates: one block of 128 threads per chunk slot, then two per unit where there are states to read. gdn_cut: one cluster of eight blocks of 512. Units
// are (row, value head) pairs of the rows that are served, in order, heads fastest.
struct Sm90CutParams {
    Sm90ForwardParams forward;  // segment_states: copies of the states that rows start from, then where summaries end
    SolveForms forms;
    float* gate_sums;  // [HV, slots]
    Cut* result;
    int64_t slots;
    CutCosts costs;
    int32_t blocks;     // of a wave
    int32_t most_warm;  // chunks
    float forgotten;    // log2 of the decay from which on a state is
    int32_t units;      // that there is room for: where lengths make more, nothing is cut
};

// gdn_stitch: one block of 256 threads per (chain, StitchLayout::kRows rows of V); without a cut only with three segments and more.
struct Sm90StitchParams {
    float* segment_states;
    const float* segment_maps;
    const Cut* cut;  // null: every head has a chain of `segments` matrices, the last of which is no state
    int32_t segments;
    int32_t few_chains;  // so many of a cut, or fewer, take StitchLayout::kFewRows rows a block
};

static_assert(sizeof(TensorMap) == 128, "as the driver has it");

}  // namespace fqla
