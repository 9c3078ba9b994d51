// Parameters of the Hopper kernels (kernels/sm90). Tensor maps are the driver's 128 opaque bytes: rank 4 = [dim, head, token, row], 16-bit,
// box {64, 1, 64, 1}, 128-byte swizzle; with offsets the row extent is 1.
#pragma once
#include "params.h"

namespace fqla {

struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

// gdn_solve_<dtype>: one block of 128 threads per (chunk slot, key head, `heads_per_block` of its value heads).
struct Sm90SolveParams {
    TensorMap q, k;
    Rows rows;
    View gate, beta, a_log, dt_bias;
    void* records;  // ChunkRecord [slots, value heads]
    int32_t key_heads, value_heads;
    int32_t heads_per_block;  // divides value_heads / key_heads; at most SolveLayout::kMaxHeads
    int32_t head_map, gate_form, beta_form, qk_norm;
    float beta_scale, scale, eps;
};

// gdn_forward_<dtype>_v<64|128>, gdn_summary_<dtype>: one block per (row, segment, value head, part).
struct Sm90ForwardParams {
    TensorMap q, k, v;
    Rows rows;
    StateIo state;
    View out;
    const void* records;
    float* segment_states;  // f32 [row, head, segment, V, K]: starts of the segments behind the first (forward), the state part (summary)
    float* segment_maps;    // f32 [row, head, segment, K, K]: the transition of each segment, transposed (summary)
    int32_t key_heads, value_heads, head_map;
    int32_t state_layout, state_dtype;
    int32_t segments;        // of a row
    int32_t segment_chunks;  // chunks of each segment but a row's last
    int32_t first_segment_chunks;
};

static_assert(sizeof(TensorMap) == 128, "as the driver has it");

}  // namespace fqla
