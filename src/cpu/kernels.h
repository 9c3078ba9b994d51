// The hot loops of the f32 CPU path, compiled once per instruction set from kernels_impl.h and chosen at run time.
//
// Forward. Tokens are staged in tiles of f32 rows and worked on in mini-chunks of 4. With S the state before a mini-chunk, E_t the decay from
// its start to token t, R_t from t to its end and D_tj from j to t (all products of exp(g) <= 1), for t, j inside it:
//
//     a_t = S^T k_t,  r_t = S^T q_t
//     u_t = beta_t (v_t - E_t a_t - sum_{j<t} D_tj (k_t.k_j) u_j)
//     o_t = scale (E_t r_t + sum_{j<=t} D_tj (q_t.k_j) u_j)
//     S  <- E_last S + sum_t k_t (R_t u_t)^T
//
// The last line waits for the next mini-chunk, so that one pass over S updates it and takes a and r: 3.25 operations for each element and
// token, and one load and store for 4 tokens. A block of columns of S stays in L1 over a tile, and columns never meet: splitting them among
// threads changes no bit.
#pragma once
#include <stdint.h>

namespace fqla::cpu {

constexpr int kMiniTokens = 4;
constexpr int kTileTokens = 32;
constexpr int kMaxDim = 256;
// Floats from row to row of staged tiles: an odd number of cache lines, so that rows spread over L1's sets. Rows are zero to the next multiple
// of kPad.
constexpr int kPad = 32;
constexpr int kRowStride = kMaxDim + 16;

// Coefficients of a mini-chunk: of 4 tokens, or of one (then only index 0 counts). Tokens past the row's end have beta 0 and decay 1.
struct MiniChunk {
    float beta[kMiniTokens];
    float decay[kMiniTokens];               // E_t
    float out_decay[kMiniTokens];           // scale E_t
    float tail[kMiniTokens];                // R_t
    float solve[kMiniTokens][kMiniTokens];  // D_tj k_t.k_j, j < t
    float out[kMiniTokens][kMiniTokens];    // scale D_tj q_t.k_j, j <= t
};

struct MiniDots {
    float kk[kMiniTokens][kMiniTokens], qk[kMiniTokens][kMiniTokens];  // [t][j], j <= t
};

// The last mini-chunk's update of S, not yet done: S <- decay S + sum_j keys_j u_j^T.
struct Pending {
    const float* keys;  // its rows, kRowStride apart
    float* u;           // R_t u_t, rows kRowStride apart
    float decay;
};

struct Tile {
    int key_dim, columns;  // columns: a multiple of kPad
    int minis;
    const float *keys, *queries;  // rows kRowStride apart; the mini-chunk before lies right before keys
    float* values;                // v in, o out
    const MiniChunk* mini;
    float* state;
    int64_t state_stride;
    Pending pending;  // keys not read: they are the rows before `keys`
};

// One token with the state read once from the caller's memory and written once, no working copy.
struct Decode {
    int key_dim, columns;  // multiples of kDecodeStep
    const float *key, *query;
    float* value;  // v in, o out
    const MiniChunk* token;
    const void* from;
    void* to;        // may be from; null: not stored
    int32_t dtype;   // of both
    int64_t stride;  // KV: from row k to row k + 1; VK: from row v to row v + 1
};
constexpr int kDecodeStep = 16;

struct ChunkMemory;  // backward_chunk.h
struct ChunkHead;

struct Kernels {
    const char* name;
    // `rows` rows of `count` elements, `from_stride` elements apart, to f32 rows that are zero up to a multiple of kPad; and back.
    void (*load_rows)(const void* from, int32_t dtype, int64_t from_stride, int rows, int count, float* to, int64_t to_stride);
    void (*store_rows)(const float* from, int64_t from_stride, int rows, int count, void* to, int32_t dtype, int64_t to_stride);
    void (*transpose)(const float* from, int64_t from_stride, int rows, int columns, float* to, int64_t to_stride);
    // Each row x / sqrt(sum x^2 + eps); factors may be null.
    void (*normalise)(float* rows, int count, int dim, float eps, float* factors);
    void (*dots)(const float* keys, const float* queries, int dim, int minis, MiniDots* out);
    // A tile in mini-chunks of 4 tokens or of one; without outputs (and queries) it only advances the state.
    void (*run_tile)(const Tile& tile);
    void (*run_tile_single)(const Tile& tile);
    void (*advance_tile)(const Tile& tile);
    void (*flush)(const Pending& pending, int tokens, int key_dim, int columns, float* state, int64_t state_stride);
    void (*decode_kv)(const Decode& decode);
    void (*decode_vk)(const Decode& decode);
    // The backward of a chunk: once for its key head, then for each of its value heads; through the L2 norm in place of dy.
    void (*prepare_chunk)(ChunkMemory& memory, int count, int key_dim);
    void (*backward_chunk)(ChunkMemory& memory, const ChunkHead& head);
    void (*normalise_back)(const float* y, const float* factors, int count, int dim, float* dy);
};

extern const Kernels kPortableKernels;
#if defined(__x86_64__) || defined(_M_X64)
extern const Kernels kAvx2Kernels, kAvx512Kernels;
#elif defined(__aarch64__)
extern const Kernels kNeonKernels;
#endif

// The best that the running CPU has.
const Kernels& kernels();

}  // namespace fqla::cpu
