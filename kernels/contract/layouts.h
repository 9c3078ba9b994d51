// Sizes that kernels and planner share for the Hopper pipeline: chunk records in the workspace, shared memory, threads.
#pragma once
#include <stdint.h>

namespace fqla {

constexpr int kChunk = 64;        // tokens of a chunk
constexpr int kHeadDim = 128;     // K and V of the tensor-core engines
constexpr int kTileBytes = 8192;  // 64 x 64 16-bit values

// What the solve leaves for each (chunk, value head): two 64 x 64 tiles as wgmma wants them (swizzled), then per-token factors in f32.
struct ChunkRecord {
    static constexpr int kSolve = 0;            // strict(A) o Gamma
    static constexpr int kScores = kTileBytes;  // scale Gamma o (Q K^T), lower
    static constexpr int kFactors = 2 * kTileBytes;
    // Arrays of kChunk floats, in this order, then the chunk's decay.
    enum Factor { beta, read_k, write_k, read_q, decay };
    static constexpr int kFactorBytes = 4 * kChunk * 4 + 16, kUsedBytes = kFactors + kFactorBytes;
    static constexpr int kBytes = 2 * kTileBytes + 1152;
};

// What the backward takes of each (chunk, value head) beside the record, or keeps: 16-bit, made of 64 x 64 tiles (swizzled).
struct BackwardTiles {
    static constexpr int kMatrixBytes = 4 * kTileBytes;  // [V, K]: tiles [half of V][half of K]
    static constexpr int kTokensBytes = 2 * kTileBytes;  // [64 tokens, V]: tiles [half of V]
};

// Records are numbered by slots that need no prefix sum: row n starts at floor(begin / 64) + n, which leaves room for its last, ragged chunk.
constexpr int64_t chunk_slots(int64_t rows, int64_t tokens, int64_t max_tokens, bool offsets) {
    return offsets ? tokens / kChunk + rows : rows * ((max_tokens + kChunk - 1) / kChunk);
}

// kernels/sm90/solve.cu
struct SolveLayout {
    static constexpr int kThreads = 128;
    static constexpr int kLowerStride = 72;  // floats a row: eight banks apart, so that fragments load without conflicts
    // q and k, until their products are in registers; then the lower matrix and the two tiles.
    static constexpr int kQ = 0, kK = 2 * kTileBytes;
    static constexpr int kLower = 0, kScores = kChunk * kLowerStride * 4, kSolve = kScores + kTileBytes;
    static constexpr int kFactors = kSolve + kTileBytes;
    static constexpr int kMaxHeads = 8;                                 // of a block
    static constexpr int kTokens = kFactors + 1152;                     // gates, then betas of the block's heads
    static constexpr int kWarp = kTokens + 2 * kMaxHeads * kChunk * 4;  // gate sums and column factors of each warp
    static constexpr int kNorms = kWarp + 4 * 2 * kChunk * 4;           // of k, of q
    static constexpr int kBarrier = kNorms + 2 * kChunk * 4;
    static constexpr int kBytes = kBarrier + 16;
};
static_assert(SolveLayout::kSolve + kTileBytes >= 4 * kTileBytes, "q and k fit below the factors");

// kernels/sm90/forward.cu: `math` warpgroups of 64 V rows each, one loading warp, one storing warp a math warpgroup. One that saves leaves S and U too.
template <int Math, bool Output, bool Saves = false>
struct ForwardLayout {
    static constexpr bool kPair = false, kOutput = Output, kSaves = Saves;
    static constexpr bool kMutes = Saves || !Output;        // goes through rows whose state is not to be stored (PAD for writing) all the same
    static constexpr bool kCluster = Math == 1 || !Output;  // the two blocks of a head load k, q and the record once for both
    static constexpr int kMath = Math, kRecords = 0, kRecordStride = 0, kRecordSlots = 1;
    static constexpr int kThreads = Math == 1 ? 192 : 384;  // a warpgroup loads where setmaxnreg has to share out registers
    static constexpr int kStages = Output ? 3 : 5;
    static constexpr int kValueTiles = Output ? Math : 1;  // a summary's second warpgroup has no values
    static constexpr int kHalf = kTileBytes;               // from k's (and q's) first half of K to the other
    static constexpr int kK = 0, kSolve = 2 * kTileBytes, kV = kSolve + kTileBytes;
    static constexpr int kQ = kV + kValueTiles * kTileBytes, kScores = kQ + 2 * kTileBytes;
    static constexpr int kStageBytes = Output ? kScores + kTileBytes : kQ;
    static constexpr int kOut = kStages * kStageBytes;                                // a tile a math warpgroup
    static constexpr int kSavedState = kOut + (Output ? Math * kTileBytes : 0);       // half a matrix: S before a chunk
    static constexpr int kSavedUpdates = kSavedState + (Saves ? 2 * kTileBytes : 0);  // U of even chunks, of odd ones
    static constexpr int kFactors = kSavedUpdates + (Saves ? 2 * kTileBytes : 0);
    static constexpr int kBarriers = kFactors + kStages * 1152;
    static constexpr int kBytes = kBarriers + (16 + 8) * kStages + 16 * Math;  // ring, tails, staging
};
static_assert(ForwardLayout<2, true>::kBytes <= 227 * 1024 && ForwardLayout<2, false>::kBytes <= 227 * 1024, "shared memory of a block");
static_assert(ForwardLayout<1, true, true>::kBytes <= 227 * 1024, "shared memory of a block");

// kernels/sm90/fused.cu: a cluster of two blocks a head, 64 rows of V each. Warpgroups: math, solve, then a loading and a storing warp.
struct PairLayout {
    static constexpr bool kPair = true, kOutput = true, kCluster = true, kSaves = false, kMutes = false;
    static constexpr int kThreads = 384, kMath = 1, kValueTiles = 1, kStages = 4;
    static constexpr int kHalf = kTileBytes;
    static constexpr int kK = 0, kV = 2 * kTileBytes, kQ = kV + kTileBytes, kStageBytes = kQ + 2 * kTileBytes;
    static constexpr int kOut = kStages * kStageBytes;
    static constexpr int kSolve = 0, kScores = 0, kFactors = 0;  // in the records
    static constexpr int kRecords = kOut + kTileBytes;           // of even chunks (solved by the first block), of odd ones
    static constexpr int kRecordStride = 2 * kTileBytes + 2048, kRecordSlots = 2;
    static constexpr int kLower = kRecords + kRecordSlots * kRecordStride;
    static constexpr int kTokens = kLower + kChunk * SolveLayout::kLowerStride * 4;  // gates, betas
    static constexpr int kWarp = kTokens + 2 * kChunk * 4;
    static constexpr int kNorms = kWarp + 4 * 2 * kChunk * 4;
    static constexpr int kBarriers = kNorms + 2 * kChunk * 4;  // ring, tails, staging, solved[2], record free
    static constexpr int kBytes = kBarriers + (16 + 8) * kStages + 16 + 24;
};
static_assert(PairLayout::kBytes <= 227 * 1024, "shared memory of a block");

// kernels/sm90/fused_wide.cu: one block a head. Warpgroups: two math (64 rows of V each), gates, then two
// inverting warps, one for tokens, one for copies.
struct WideLayout {
    static constexpr int kThreads = 512, kStages = 4;
    // A stage: k and q of the same half of K stand one below the other.
    static constexpr int kK = 0, kQ = kTileBytes, kHalf = 2 * kTileBytes, kStageBytes = 4 * kTileBytes;
    // All below have two slots, of even and of odd chunks, but for the tables.
    static constexpr int kValues = kStages * kStageBytes;          // v, then the output in its place
    static constexpr int kRecords = kValues + 2 * 2 * kTileBytes;  // tiles as in ChunkRecord, factors as below
    static constexpr int kRecordStride = 2 * kTileBytes + 2048;
    static constexpr int kLower = kRecords + 2 * kRecordStride;  // -N off the diagonal blocks in f16, these blocks' inverses, transposed, on it
    // -N of the diagonal blocks: of their 8 x 8 blocks those on the diagonal in f32 (four are read at once, four banks apart), then the one below in f16.
    static constexpr int kDiagonalBlock = 256 + 16, kCorners = 8 * kDiagonalBlock, kCorner = 128;
    static constexpr int kDiagonalBytes = kCorners + 4 * kCorner;
    static constexpr int kDiagonal = kLower + 2 * kTileBytes;
    // A record's factors: of each token beta and read_k, then of each write_k and read_q, then the decay.
    static constexpr int kBetaRead = 0, kWriteRead = kChunk * 8, kDecay = 2 * kChunk * 8;
    // Arrays of kChunk floats: gate sums, -beta rk, that times exp(G - G of the block's first), rk exp(G of the block's last - G), rk, scale rq, and
    // each gate warp's column factors.
    enum Table { sums, minus_beta, row_n, row_p, norm_k, norm_q, columns };
    static constexpr int kTableBytes = (columns + 4) * kChunk * 4;
    static constexpr int kTableSlots = 3;  // -N is made a chunk ahead of the scores
    static constexpr int kTables = kDiagonal + 2 * kDiagonalBytes;
    static constexpr int kNorms = kTables + kTableSlots * kTableBytes, kNormBytes = 2 * kChunk * 4;  // of k, of q
    static constexpr int kBarriers = kNorms + 2 * kNormBytes;                                        // ring, the tail's, then the events
    static constexpr int kTail = kBarriers + 16 * kStages, kEventBarriers = kTail + 16, kEvents = 10;
    static constexpr int kBytes = kEventBarriers + kEvents * 16;
    // A summary has no q: records of four chunks stand there, one in each stage, the factors where the second half would be. Their two events so have two
    // slots more.
    static constexpr int kSummaryRecords = kQ, kSummaryRecordStride = kStageBytes, kSummarySlots = kStages;
    static constexpr int kSummaryBytes = kBytes + 2 * 16;
};
static_assert(WideLayout::kSummaryBytes <= 227 * 1024, "shared memory of a block");
static_assert(WideLayout::kHalf == ChunkRecord::kFactors && WideLayout::kSummarySlots == 4, "a record fits where q was");

// kernels/sm90/fused_trio.cu: a cluster of three blocks a head. Two recur, 64 rows of V each, as fused.cu's do (warpgroups: math, then a loading, a storing and
// a receiving warp); one solves, as fused_wide.cu's block does (warpgroups: gates, three inverting warps and one that pushes, then one that copies and two for
// tokens).
struct TrioLayout {
    static constexpr int kThreads = 384, kBlocks = 3;
    static constexpr int kRecordStride = 2 * kTileBytes + 2048, kRecordSlots = 4;
    // A recurring block.
    static constexpr bool kPair = true, kOutput = true, kCluster = true, kSaves = false, kMutes = false;
    static constexpr int kMath = 1, kValueTiles = 1, kStages = 3;
    static constexpr int kHalf = kTileBytes;
    static constexpr int kK = 0, kV = 2 * kTileBytes, kQ = kV + kTileBytes, kStageBytes = kQ + 2 * kTileBytes;
    static constexpr int kOut = kStages * kStageBytes;
    static constexpr int kSolve = 0, kScores = 0, kFactors = 0;  // in the records
    static constexpr int kRecords = kOut + kTileBytes;
    static constexpr int kBarriers = kRecords + kRecordSlots * kRecordStride;  // ring, tails, staging, solved[slots]
    static constexpr int kSolved = kBarriers + (16 + 8) * kStages + 16;
    static constexpr int kRecurringBytes = kSolved + 8 * kRecordSlots;
    // The solving block: stages and tables are WideLayout's. All but the stages have three slots.
    static constexpr int kKeyStages = 4, kSlots = 3, kEventSlots = 4;
    static constexpr int kOwnRecords = kKeyStages * WideLayout::kStageBytes;  // until they have been pushed
    static constexpr int kLower = kOwnRecords + kSlots * kRecordStride;
    static constexpr int kDiagonal = kLower + kSlots * kTileBytes;
    static constexpr int kTables = kDiagonal + kSlots * WideLayout::kDiagonalBytes;
    static constexpr int kNorms = kTables + kSlots * WideLayout::kTableBytes;
    static constexpr int kKeyBarriers = kNorms + kSlots * WideLayout::kNormBytes;  // ring, the tail's, then the events
    static constexpr int kTail = kKeyBarriers + 16 * kKeyStages, kEventBarriers = kTail + 16, kEvents = 8;
    static_assert(kEventSlots >= kSlots && kEventSlots >= kRecordSlots, "a barrier for each slot");
    static_assert((kRecordSlots & (kRecordSlots - 1)) == 0, "the math role masks");
    static constexpr int kSolvingBytes = kEventBarriers + 8 * kEventSlots * kEvents;
    static constexpr int kBytes = kRecurringBytes > kSolvingBytes ? kRecurringBytes : kSolvingBytes;
};
static_assert(TrioLayout::kBytes <= 227 * 1024, "shared memory of a block");
static_assert(TrioLayout::kRecords % 1024 == 0 && TrioLayout::kOwnRecords % 1024 == 0 && TrioLayout::kRecordStride % 1024 == 0, "tiles are swizzled");
static_assert(TrioLayout::kBarriers % 16 == 0 && TrioLayout::kKeyBarriers % 16 == 0 && TrioLayout::kDiagonal % 16 == 0, "barriers, vectors");

// kernels/sm90/segment.cu: a block carries kRows or kFewRows rows of V through the segments of a row.
struct StitchLayout {
    static constexpr int kThreads = 256, kRows = 8, kFewRows = 4, kStages = 2;
    // Chains that find room on a card with kFewRows rows a block.
    static constexpr int few_chains(int multiprocessors) { return multiprocessors * kFewRows / kHeadDim; }
    static constexpr int kMapBytes = kHeadDim * kHeadDim * 4, kStateBytes = kRows * kHeadDim * 4;
    static constexpr int kState = kStages * kMapBytes, kParts = kState + kStateBytes;  // a part of the next state from each warp
    static constexpr int kBarriers = kParts + kThreads / 32 * kStateBytes;
    static constexpr int kBytes = kBarriers + 16 * kStages;
};

}  // namespace fqla
