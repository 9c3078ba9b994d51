// Parameters and shared memory of the Hopper backward (kernels/sm90/backward_chains.cu, backward_gradients.cu).
#pragma once
#include "layouts.h"
#include "sm90_params.h"

namespace fqla {

constexpr int kCarryParts = 8;  // of <S, D>: a sum of each warp of both halves of V

// gdn_chains_<dtype>: clusters of two blocks (the halves of V) per (chain, row, value head, segment); first all reverse chains, then the forward ones, which
// are not launched where a forward has saved S and U. gdn_chain_summary_<dtype>: the same without the first segment of the reverse chains and the last one of
// the forward ones, and transitions between them.
// In windows both work on what rows have in this one, gdn_chains on `grid_rows` rows from the first of them on; gdn_chain_summary, one cluster a value head,
// finds S at the window's end for the row that goes on behind it.
struct Sm90ChainParams {
    Sm90ForwardParams forward;  // q, k, v, records, read states, segments, states, updates; o and out are dv, if the caller wants it
    TensorMap d_out;
    View d_final, d_initial;
    void* gradients;   // [slots, HV] matrices: D = dL/dS at a chunk's end
    void* small_rows;  // [slots, HV, 64, V] 16-bit: dX of tokens whose |beta| is below small_beta, nothing elsewhere
    void* dv_tiles;    // [slots, HV] token tiles, where the caller does not want dv
    // f32 [row, head, segment, V, K]: S at the end of each but the last, D at the start of each but the first; [window, head, V, K] and [2, head, V, K].
    float *segment_states, *segment_gradients;
    float* segment_maps;   // f32 [row, head, segment, K, K]: transitions, [from][to]; those of the first and the last segment are not used
    float* first_carries;  // f32 [rows, HV, kCarryParts]: <S, D> of a row's first chunk, where it reads a state; null: not made
    SlotWindow window;
    int32_t windows, number;  // of the call: 1, or how many; this one's number
    int32_t grid_rows;
    float small_beta;
};

// gdn_chain_stitch: one block of 128 threads per (chain, row, value head, 8 rows of V), reverse chains first; with three segments and more.
struct Sm90ChainStitchParams {
    float *segment_states, *segment_gradients;
    const float* segment_maps;
    int32_t segments, units;  // units: (row, value head) pairs
};

// gdn_gradients_<dtype>: blocks walk over items (chunk slot, key head; heads fastest).
struct Sm90GradientParams {
    TensorMap q, k, d_out, dv;
    Backward call;
    const void *states, *gradients, *updates, *small_rows;
    const void* dv_tiles;  // null: dv is the caller's
    const float* first_carries;
    float* partial_sums;  // [all slots, HV, 2]: da and dg g, summed over a chunk; null where not wanted
    SlotWindow window;
    float small_beta;
    float up, down;  // F and B, and with them dQ and dK, are made `up` times too large: see kernel_args.cpp
    float scale_up;
    int32_t heads;  // value heads of a key head
    int32_t never;  // 0
};

struct ChainLayout {
    static constexpr bool kCluster = true;
    static constexpr int kThreads = 192, kStages = 3, kStagings = 2;
    static constexpr int kK = 0, kSolve = 2 * kTileBytes, kV = kSolve + kTileBytes;  // kV: v, or d_out in the reverse chain
    static constexpr int kForwardBytes = kV + kTileBytes;
    static constexpr int kQ = kForwardBytes, kScores = kQ + 2 * kTileBytes, kStageBytes = kScores + kTileBytes;
    static constexpr int kOut = kStages * kStageBytes;  // stagings: half a matrix, then a tile of U or dv
    static constexpr int kStagedTile = 2 * kTileBytes, kStagingBytes = 3 * kTileBytes;
    static constexpr int kFactors = kOut + kStagings * kStagingBytes;
    static constexpr int kBarriers = kFactors + kStages * 1152;  // ring, staging, tail
    static constexpr int kBytes = kBarriers + 16 * kStages + 16 * kStagings + 8;
};
static_assert(ChainLayout::kBytes <= 227 * 1024, "shared memory of a block");

struct ChainStitchLayout {
    static constexpr int kThreads = 128, kRows = 8, kStages = 2;
    static constexpr int kMapStride = kHeadDim + 4;  // floats a row: 16-byte pieces of eight rows on different banks
    static constexpr int kMapBytes = kHeadDim * kMapStride * 4;
    static constexpr int kState = kStages * kMapBytes;  // [2][kRows][kHeadDim]: before and after
    static constexpr int kBarriers = kState + 2 * kRows * kHeadDim * 4;
    static constexpr int kBytes = kBarriers + 16 * kStages;
};

struct GradientLayout {
    static constexpr int kThreads = 512, kTokenStages = 2, kPhases = 2;
    static constexpr int kQ = 0, kK = 2 * kTileBytes;
    static constexpr int kTokens = 4 * kTileBytes;  // stages of d_out, U, dv
    static constexpr int kDOut = 0, kU = BackwardTiles::kTokensBytes, kDv = 2 * BackwardTiles::kTokensBytes, kTokenBytes = 3 * BackwardTiles::kTokensBytes;
    static constexpr int kState = kTokens + kTokenStages * kTokenBytes;
    static constexpr int kGradient = kState + BackwardTiles::kMatrixBytes;
    static constexpr int kScores = kGradient + BackwardTiles::kMatrixBytes;  // F, then B
    static constexpr int kOnes = kScores + 2 * kTileBytes;                   // bf16 ones below the diagonal, [t][j] with j < t
    static constexpr int kNorms = kOnes + kTileBytes;                        // of k, of q
    static constexpr int kDots = kNorms + 2 * kChunk * 4;                    // rows of dQ·y and dK·y, by each half of K
    // Of a head, twice: per-token arrays that the gates' warp makes ...
    enum Factor { log_decay, decay, rest, beta, factors };  // G in powers of two, E, R, beta
    static constexpr int kFactors = kDots + 4 * kChunk * 4, kFactorBytes = factors * kChunk * 4;
    // ... and those that it sums up: plus and minus by each half of K, dv·U, dbeta of small betas, Z of each warp, <S, D> of eight warps.
    enum Sum { plus, minus = plus + 2, dv_u = minus + 2, small, z, sums = z + 4 };
    static constexpr int kSums = kFactors + kPhases * kFactorBytes, kSumBytes = sums * kChunk * 4 + 32;
    static constexpr int kItems = kSums + kPhases * kSumBytes, kItemBytes = 48;
    static constexpr int kBarriers = kItems + kPhases * kItemBytes;  // rings: items, q and k, tokens, S, D, factors, sums, scores; tails of q and k, tokens
    static constexpr int kBytes = kBarriers + 3 * 16 * kPhases + 16 * kTokenStages + 4 * 16 + 16;
};
static_assert(GradientLayout::kBytes <= 227 * 1024, "shared memory of a block");
static_assert(sizeof(Sm90ChainParams) <= 4096 && sizeof(Sm90GradientParams) <= 4096, "the most that a kernel takes");

}  // namespace fqla
