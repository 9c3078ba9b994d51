// The chains of the backward: what goes along a row's chunks, S forwards and D = dL/dS backwards. Neither needs the other, so both run at once, each on
// blocks of its own; what sums over V follows for all chunks at once in backward_gradients.cu.
//
// Everything is transposed as in forward.cu: a math warpgroup has 64 rows of V, its matrix stays in registers as an f32 accumulator, and the 16-bit
// copy that is the next product's left operand is also what goes to memory. With the record's strict(A), scores P (scaled, gated, normalised) and factors:
//     forward (as there, without the output)          reverse
//     Y^T = S^T K^T                                   dU^T = write_k (D^T K^T) + dO^T P
//     X^T = beta V^T - read_k Y^T                     dX^T = dU^T + dU^T strict(A)
//     U^T = X^T + X^T strict(A)^T                     dV^T = beta dX^T
//     S^T = decay S^T + (write_k U^T) K               D^T = decay D^T + (read_q dO^T) Q - (read_k dX^T) K
//     leaves S before, U                              leaves D before, dV; after the last chunk D is dL/dS0
// dX itself is left only where beta is too small to find it again in dV. Of a row's first chunk the reverse chain leaves <S, D> too.
//
//   role               step (event it waits for -> event it announces)
//   load, one warp     k, v or q, k, d_out, and the record of a chunk      (stage free -> stage filled)
//   math, a warpgroup  the chain                                          (stage filled; staging free -> staging filled, stage free)
//   store, one warp    half a matrix and a tile of U or dV by the copy engine; the ragged end of dV by predicated stores (staging filled -> staging free)
#include "recurrence.cuh"
#include "sm90_backward_params.h"

namespace fqla::sm90 {
namespace {

using L = ChainLayout;
using Stages = Ring<L::kStages>;
using Stagings = Ring<L::kStagings>;

// What a block works on: a row or a part of it (a segment, or what it has in a window of slots), one head, 64 rows of V (or, for a transition, 64 of the K that
// a state of this segment may start from).
struct Chain {
    int64_t row;
    RowTokens tokens;
    int head, part;
    int first, chunks;  // within the row
    bool begins, ends;  // where the row does
    bool skip;          // its state is PAD: gradients are zero
    bool transition;
    int matrix;  // of a segment: its own of the segments' matrices
};
__device__ __forceinline__ Chain chain_of(const Sm90ForwardParams& p, int64_t row, int head) {
    Chain w{};
    w.row = row, w.head = head, w.part = blockIdx.x % 2;
    w.skip = row_slots(p.state, row).skip;
    w.tokens = row_tokens(p.rows, row);
    return w;
}
__device__ __forceinline__ void set_chunks(Chain& w, int first, int end) {
    w.first = first;
    w.chunks = __shfl_sync(~0u, end - first, 0);  // a trip count that ptxas sees to be uniform
}
__device__ __forceinline__ Chain find_chain(const Sm90ForwardParams& p, int unit, int segment, bool transition) {
    const int row = unit / p.value_heads;
    Chain w = chain_of(p, row, unit - row * p.value_heads);
    w.begins = segment == 0, w.ends = segment == p.segments - 1, w.transition = transition;
    w.matrix = unit * p.segments + segment;
    const int all = static_cast<int>(chunks_of(w.tokens.length));
    set_chunks(w, p.segments > 1 ? min(segment * p.segment_chunks, all) : 0, p.segments > 1 ? min((segment + 1) * p.segment_chunks, all) : all);
    return w;
}

// In a window: whether a row has anything there, an empty row where its slot is. One that crosses the window's end goes on behind it.
__device__ __forceinline__ bool find_in_window(const Sm90ChainParams& params, int64_t row, int head, bool crosses, Chain& w) {
    const Sm90ForwardParams& p = params.forward;
    if (row >= p.rows.count) return false;
    w = chain_of(p, row, head);
    const int64_t slot = first_slot(p.rows, row, w.tokens), chunks = chunks_of(w.tokens.length), last = slot + (chunks > 0 ? chunks - 1 : 0);
    w.begins = slot >= params.window.first, w.ends = last < params.window.end;
    set_chunks(w, static_cast<int>(clamp_to(params.window.first - slot, 0, chunks)), static_cast<int>(clamp_to(params.window.end - slot, 0, chunks)));
    return slot < params.window.end && last >= params.window.first && !(crosses && w.ends);
}

// Chunk of the row at step `i` of a chain.
template <bool Reverse>
__device__ __forceinline__ int chunk_at(const Chain& w, int i) {
    return w.first + (Reverse ? w.chunks - 1 - i : i);
}

__device__ __forceinline__ int64_t slot_and_head(const Sm90ForwardParams& p, const Chain& w, int chunk) {
    return (first_slot(p.rows, w.row, w.tokens) + chunk) * p.value_heads + w.head;
}

// f32 [V, K] (or [from, to]) of a part, this one or its neighbour before (-1) or behind (1). S has a matrix for each window, D has two by turns.
__device__ __forceinline__ float* matrix_at(float* base, int64_t number) { return base + number * (kHeadDim * kHeadDim); }
__device__ __forceinline__ float* state_of(const Sm90ChainParams& params, const Chain& w, int neighbour = 0) {
    const bool windows = params.windows > 1;
    return matrix_at(params.segment_states, windows ? (params.number + neighbour) * params.forward.value_heads + w.head : w.matrix + neighbour);
}
__device__ __forceinline__ float* gradient_of(const Sm90ChainParams& params, const Chain& w, int neighbour = 0) {
    const bool windows = params.windows > 1;
    return matrix_at(params.segment_gradients, windows ? ((params.number + neighbour) & 1) * params.forward.value_heads + w.head : w.matrix + neighbour);
}

// Load role. The two blocks of a head share all but v (d_out): each brings one half of k and q, the first strict(A) and the factors, the second the
// scores. Behind a row's end its box holds other rows' tokens: that chunk lands on a barrier of its own and is announced after they have been zeroed.
template <bool Reverse>
__device__ __forceinline__ void load_chain(const Sm90ChainParams& params, const Chain& w, uint32_t smem, Stages ring, uint32_t tail) {
    const Sm90ForwardParams& p = params.forward;
    const TensorMap& values = Reverse ? params.d_out : p.v;
    const int lane = threadIdx.x % 32;
    const int key_head = key_head_of(p, w.head);
    const int n = p.rows.offsets ? 0 : static_cast<int>(w.row), half = w.part * kTileBytes;
    const char* records = static_cast<const char*>(p.records) + slot_and_head(p, w, 0) * ChunkRecord::kBytes;
#pragma unroll 1
    for (int i = 0; i < w.chunks; ++i, ring.advance()) {
        ring.wait_free();
        const int chunk = chunk_at<Reverse>(w, i);
        const int64_t token = static_cast<int64_t>(chunk) * kChunk, left = w.tokens.length - token;
        const bool ragged = p.rows.offsets && left < kChunk;
        const uint32_t at = smem + ring.stage() * L::kStageBytes;
        if (lane == 0) {
            const char* record = records + chunk * static_cast<int64_t>(ChunkRecord::kBytes) * p.value_heads;
            const uint32_t bar = ragged ? tail : ring.filled();
            const int t = static_cast<int>(token + w.tokens.begin);
            barrier_expect(bar, (Reverse ? L::kStageBytes : L::kForwardBytes) + ChunkRecord::kFactorBytes);
            // A copy to both blocks completes on the barrier of the same place in each, which `bar` is: both walk the same chunks.
            load_box_pair(at + L::kK + half, p.k, 64 * w.part, key_head, t, n, bar);
            if (Reverse) load_box_pair(at + L::kQ + half, p.q, 64 * w.part, key_head, t, n, bar);
            load_box(at + L::kV, values, 64 * w.part, w.head, t, n, bar);
            if (w.part == 0) {
                load_bytes_pair(smem + L::kFactors + ring.stage() * 1152, record + ChunkRecord::kFactors, ChunkRecord::kFactorBytes, bar);
                load_bytes_pair(at + L::kSolve, record + ChunkRecord::kSolve, kTileBytes, bar);
            } else if (Reverse) {
                load_bytes_pair(at + L::kScores, record + ChunkRecord::kScores, kTileBytes, bar);
            }
        }
        if (ragged) {
            barrier_wait(tail, 0);  // a row has one such chunk
            for (int piece = static_cast<int>(left) * 8 + lane; piece < kChunk * 8; piece += 32) {
                store_shared_zero16(at + L::kK + 16 * piece), store_shared_zero16(at + L::kK + kTileBytes + 16 * piece);
                store_shared_zero16(at + L::kV + 16 * piece);
                if (Reverse) store_shared_zero16(at + L::kQ + 16 * piece), store_shared_zero16(at + L::kQ + kTileBytes + 16 * piece);
            }
            fence_to_async();
            __syncwarp();
            if (lane == 0) barrier_arrive(ring.filled());
        }
    }
}

// Store role.
template <bool Reverse>
__device__ __forceinline__ void store_chain(const Sm90ChainParams& params, const Chain& w, uint32_t smem, Stagings staging) {
    const Sm90ForwardParams& p = params.forward;
    const int lane = threadIdx.x % 32, n = p.rows.offsets ? 0 : static_cast<int>(w.row);
#pragma unroll 1
    for (int i = 0; i < w.chunks; ++i, staging.advance()) {
        const int chunk = chunk_at<Reverse>(w, i);
        const int64_t token = static_cast<int64_t>(chunk) * kChunk, left = w.tokens.length - token, place = slot_and_head(p, w, chunk);
        const uint32_t from = smem + L::kOut + staging.stage() * L::kStagingBytes, tile = from + L::kStagedTile;
        staging.wait_filled();
        if (lane == 0) {
            char* matrix = static_cast<char*>(Reverse ? params.gradients : p.states) + place * BackwardTiles::kMatrixBytes;
            store_bytes(matrix + w.part * 2 * kTileBytes, from, 2 * kTileBytes);
            char* tiles = static_cast<char*>(Reverse ? params.dv_tiles : p.updates);
            if (tiles)
                store_bytes(tiles + place * BackwardTiles::kTokensBytes + w.part * kTileBytes, tile, kTileBytes);
            else if (left >= kChunk)
                store_box(p.o, tile, 64 * w.part, w.head, static_cast<int>(token + w.tokens.begin), n);
            commit_stores();
        }
        if (Reverse && left < kChunk && !params.dv_tiles) {
            uint16_t* to = static_cast<uint16_t*>(p.out.data) + element_offset(p.out, w.row, w.tokens, token, w.head) + 64 * w.part;
            for (int piece = lane; piece < left * 8; piece += 32)
                *reinterpret_cast<uint4*>(to + piece / 8 * p.out.token + piece % 8 * 8) = load_shared_u4(tile + swizzled(piece / 8, piece % 8));
        }
        if (lane == 0) wait_stores_read();
        __syncwarp();
        if (lane == 0) staging.release();
    }
}

// Where a lane of a math warp finds and puts things.
struct Lane {
    uint32_t tokens;  // of a [64 tokens, 64 v] tile: its rows of the transposed fragment (ldmatrix, stmatrix), 16 tokens 2048 bytes apart
    uint32_t matrix;  // of [64 v, 128 k], two tiles: its rows of the fragment
    StateAt state;
};
__device__ __forceinline__ Lane lane_of(const Chain& w) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = lane & 7, matrix = lane >> 3;
    Lane me;
    me.tokens = ((lane >> 4) * 8 + row) * 128 + (((2 * warp + (matrix & 1)) ^ row) << 4);
    me.matrix = matrix_place(warp, lane);
    me.state = {64 * w.part + 16 * warp + lane / 4, 2 * (lane % 4)};
    return me;
}

// This warp's share of a chunk's results stands in staging.
__device__ __forceinline__ void announce_results(Stagings& staging) {
    fence_to_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(staging.filled());
    staging.advance();
}

// Step s of U^T = M^T K^T.
template <class T>
__device__ __forceinline__ void multiply_by_keys(int s, float (&u)[32], const uint32_t (&m)[32], uint32_t k) {
    if (s == 0)
        mma_n64_fresh(T{}, u, m, tile_descriptor(k));
    else
        mma_n64(T{}, u, m + 4 * s, tile_descriptor(k + (s >> 2) * kTileBytes + (s & 3) * 32), true);
}

template <class T>
__device__ __forceinline__ void pack_matrix(uint32_t (&to)[32], const float (&from)[64]) {
#pragma unroll
    for (int i = 0; i < 32; ++i) to[i] = pack(T{}, from[2 * i], from[2 * i + 1]);
}

// Math role, forward. A summary leaves nothing on its way, only where the segment ends; a transition starts from the identity, without values.
template <class T, bool kSummary>
__device__ __forceinline__ void state_chain(const Sm90ChainParams& params, const Chain& w, uint32_t smem, Stages ring, Stagings staging) {
    const Sm90ForwardParams& p = params.forward;
    const Lane me = lane_of(w);
    float S[64];
    uint32_t Sb[32];
#pragma unroll
    for (int i = 0; i < 64; ++i) S[i] = 0.f;
    const RowSlots slots = row_slots(p.state, w.row);
    if (kSummary && w.transition) {
#pragma unroll
        for (int i = 0; i < 64; ++i) S[i] = me.state.v0 + 8 * ((i >> 1) & 1) == me.state.k0 + 8 * (i >> 2) + (i & 1) ? 1.f : 0.f;
    } else if (w.begins) {
        if (slots.read != kNoSlot) load_state(S, p, slots.read, w.head, me.state);
    } else if (!kSummary || params.windows > 1) {
        load_matrix(S, state_of(params, w, -1), me.state);
    }
    pack_matrix<T>(Sb, S);
#pragma unroll 1
    for (int c = 0; c < w.chunks; ++c, ring.advance()) {
        ring.wait_filled();
        if (!kSummary) staging.wait_free();
        const uint32_t at = smem + ring.stage() * L::kStageBytes, factors = smem + L::kFactors + ring.stage() * 1152;
        const uint32_t out = smem + L::kOut + staging.stage() * L::kStagingBytes;
        // Y^T = S^T K^T; between: beta V^T, and S leaves
        float u[32], x[32];
        uint32_t xb[16], us[16];
        float2 read_k[8], write_k[8];
        pin(Sb), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            multiply_by_keys<T>(2 * s, u, Sb, at + L::kK);
            uint32_t v[4];
            load_matrices_across(v, at + L::kV + me.tokens + s * 2048);
            const float2 b0 = factor(factors, ChunkRecord::beta, 2 * s), b1 = factor(factors, ChunkRecord::beta, 2 * s + 1);
            if (!kSummary) stage_matrix(out + me.matrix, s, Sb);
            multiply_by_keys<T>(2 * s + 1, u, Sb, at + L::kK);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 y = unpack(T{}, kSummary && w.transition ? 0u : v[i]);
                x[8 * s + 2 * i] = (i < 2 ? b0.x : b1.x) * y.x, x[8 * s + 2 * i + 1] = (i < 2 ? b0.y : b1.y) * y.y;
            }
        }
        mma_commit();
        pin(x);
        const float decay = load_shared_f(factors + 4 * kChunk * 4);
#pragma unroll
        for (int j = 0; j < 8; ++j) read_k[j] = factor(factors, ChunkRecord::read_k, j);
        ring.wait_filled();  // known to be so: a block boundary, across which ptxas does not sink the products above
        mma_wait<0>(), pin(u);
        subtract_reads<T>(u, xb, x, read_k);
        // U^T = X^T + X^T strict(A)^T
        pin(u), pin(xb), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            mma_n64(T{}, u, xb + 4 * s, tile_descriptor(at + L::kSolve + s * 32), true);
#pragma unroll
            for (int i = 0; i < 16; ++i) S[16 * s + i] *= decay;
        }
        mma_commit();
#pragma unroll
        for (int j = 0; j < 8; ++j) write_k[j] = factor(factors, ChunkRecord::write_k, j);
        mma_wait<0>(), pin(u);
#pragma unroll
        for (int i = 0; i < 16; ++i) us[i] = pack(T{}, u[2 * i] * write_k[i / 2].x, u[2 * i + 1] * write_k[i / 2].y);
        // S^T = decay S^T + (write_k U^T) K; between: U leaves
        pin(S), pin(us), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            mma_n128_columns(T{}, S, us + 4 * s, tile_descriptor(at + L::kK + s * 2048, kTileBytes));
            if (kSummary) continue;
            const uint32_t ub[4] = {pack(T{}, u[8 * s], u[8 * s + 1]), pack(T{}, u[8 * s + 2], u[8 * s + 3]), pack(T{}, u[8 * s + 4], u[8 * s + 5]),
                                    pack(T{}, u[8 * s + 6], u[8 * s + 7])};
            store_matrices_across(out + L::kStagedTile + me.tokens + s * 2048, ub);
        }
        mma_commit();
        if (!kSummary) announce_results(staging);
        mma_wait<0>(), pin(S);
        pack_matrix<T>(Sb, S);
        if (threadIdx.x % 32 == 0) release_stage<L>(ring);
    }
    if (kSummary) store_matrix(S, w.transition ? matrix_at(params.segment_maps, w.matrix) : state_of(params, w), me.state);
}

// Where a row's matrix of a [rows, heads, K, V] (or V, K) tensor of the caller begins.
__device__ __forceinline__ int64_t matrix_begin(const View& x, const Chain& w) { return w.row * x.row + w.head * x.head; }

__device__ __forceinline__ void store_initial_gradient(const Sm90ChainParams& params, const Chain& w, const Lane& me, float (&D)[64], bool zero) {
    const View& to = params.d_initial;
    if (!to.data) return;
    if (zero)
#pragma unroll
        for (int i = 0; i < 64; ++i) D[i] = 0.f;
    store_matrix_of_caller(D, to.data, matrix_begin(to, w), to.dtype, params.forward.state_layout, me.state);
}

// <S, D> of a row's first chunk, by warps, of f32 values. S is the caller's and may be large beside all that the row adds to it: then this sum is most of
// dg, and of the 16-bit copies, which serve later chunks in backward_gradients.cu, it would bring most of dg's error.
__device__ __forceinline__ void store_first_carry(const Sm90ChainParams& params, const Chain& w, const Lane& me, const float (&D)[64]) {
    const Sm90ForwardParams& p = params.forward;
    float S[64], sums[4] = {};
    load_state(S, p, row_slots(p.state, w.row).read, w.head, me.state);
#pragma unroll
    for (int i = 0; i < 64; ++i) sums[i % 4] = fmaf(S[i], D[i], sums[i % 4]);
    float sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
    if (threadIdx.x % 32 == 0) params.first_carries[((w.row * p.value_heads + w.head) * 2 + w.part) * (kCarryParts / 2) + threadIdx.x / 32] = sum;
}

// dX of the tokens whose beta is too small to divide dV by it.
template <class T>
__device__ __forceinline__ void store_small_rows(const Sm90ChainParams& params, const Chain& w, int chunk, const Lane& me, uint32_t factors,
                                                 const float (&dx)[32]) {
    uint16_t* to = static_cast<uint16_t*>(params.small_rows) + slot_and_head(params.forward, w, chunk) * (kChunk * kHeadDim) + me.state.v0;
#pragma unroll 1
    for (int j = 0; j < 8; ++j) {
        const float2 beta = factor(factors, ChunkRecord::beta, j);
        const bool first = fabsf(beta.x) < params.small_beta, second = fabsf(beta.y) < params.small_beta;
        if (!first && !second) continue;
        float x[4] = {};  // rows v0 and v0 + 8 of both tokens
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (i == j)
#pragma unroll
                for (int e = 0; e < 4; ++e) x[e] = dx[4 * i + e];
        uint16_t* row = to + (8 * j + me.state.k0) * kHeadDim;
        if (first) row[0] = static_cast<uint16_t>(pack(T{}, x[0], 0.f)), row[8] = static_cast<uint16_t>(pack(T{}, x[2], 0.f));
        if (second) row[kHeadDim] = static_cast<uint16_t>(pack(T{}, x[1], 0.f)), row[kHeadDim + 8] = static_cast<uint16_t>(pack(T{}, x[3], 0.f));
    }
}

// The rounding of read_q dO^T to bf16 is most of the error of dL/dS0, which is f32; all else that takes D rounds it as much again. So where dL/dS0 is wanted
// what that rounding leaves is multiplied too. f16 has the digits.
template <class T>
constexpr bool kSplits = true;
template <>
constexpr bool kSplits<F16> = false;

template <class T>
__device__ __forceinline__ void subtract_rounded(uint32_t* rest, const uint32_t* d, float2 g0, float2 g1, const uint32_t* rounded) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 g = i < 2 ? g0 : g1, x = unpack(T{}, d[i]), r = unpack(T{}, rounded[i]);
        rest[i] = pack(T{}, x.x * g.x - r.x, x.y * g.y - r.y);
    }
}

// Math role, reverse.
template <class T, bool kSummary>
__device__ __forceinline__ void gradient_chain(const Sm90ChainParams& params, const Chain& w, uint32_t smem, Stages ring, Stagings staging) {
    const Sm90ForwardParams& p = params.forward;
    const Lane me = lane_of(w);
    const bool reads = row_slots(p.state, w.row).read != kNoSlot;
    const bool exact = kSplits<T> && __shfl_sync(~0u, params.d_initial.data && reads, 0);
    // The step at which <S, D> is made here.
    const int carried = __shfl_sync(~0u, !kSummary && w.begins && reads && params.first_carries ? w.chunks - 1 : -1, 0);
    float D[64];
    uint32_t Db[32];
#pragma unroll
    for (int i = 0; i < 64; ++i) D[i] = 0.f;
    if (!kSummary && !w.ends) {
        load_matrix(D, gradient_of(params, w, 1), me.state);
    } else if (w.ends && params.d_final.data) {
        const View& from = params.d_final;
        load_matrix_of_caller(D, from.data, matrix_begin(from, w), from.dtype, p.state_layout, me.state);
    }
    pack_matrix<T>(Db, D);
#pragma unroll 1
    for (int c = 0; c < w.chunks; ++c, ring.advance()) {
        if (!kSummary && c == carried) store_first_carry(params, w, me, D);
        ring.wait_filled();
        if (!kSummary) staging.wait_free();
        const uint32_t at = smem + ring.stage() * L::kStageBytes, factors = smem + L::kFactors + ring.stage() * 1152;
        const uint32_t out = smem + L::kOut + staging.stage() * L::kStagingBytes;
        float u[32], o[32];
        uint32_t d[16], b[16];  // dO^T, then read_q dO^T; what multiplies strict(A), then K
        // D^T K^T; between: D leaves, dO^T comes
        pin(Db), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            multiply_by_keys<T>(2 * s, u, Db, at + L::kK);
            load_matrices_across(d + 4 * s, at + L::kV + me.tokens + s * 2048);
            if (!kSummary) stage_matrix(out + me.matrix, s, Db);
            multiply_by_keys<T>(2 * s + 1, u, Db, at + L::kK);
        }
        mma_commit();
        // dO^T P; between: D^T = decay D^T
        const float decay = load_shared_f(factors + 4 * kChunk * 4);
        ring.wait_filled();  // known to be so: a block boundary, across which ptxas does not sink the products above
        pin(d), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            if (s == 0)
                mma_n64_columns_fresh(T{}, o, d, tile_descriptor(at + L::kScores));
            else
                mma_n64_columns(T{}, o, d + 4 * s, tile_descriptor(at + L::kScores + s * 2048));
#pragma unroll
            for (int i = 0; i < 16; ++i) D[16 * s + i] *= decay;
        }
        mma_commit();
        float2 f[8], g[8];
        uint32_t qd[16];
#pragma unroll
        for (int j = 0; j < 8; ++j) g[j] = factor(factors, ChunkRecord::read_q, j);
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            const float2 x = unpack(T{}, d[i]);
            qd[i] = pack(T{}, x.x * g[i / 2].x, x.y * g[i / 2].y);
        }
        const auto load_write_k = [&] {
#pragma unroll
            for (int j = 0; j < 8; ++j) f[j] = factor(factors, ChunkRecord::write_k, j);
        };
        if (exact) {  // D^T += what that rounding left, times Q
            uint32_t rest[16];
#pragma unroll
            for (int s = 0; s < 4; ++s) subtract_rounded<T>(rest + 4 * s, d + 4 * s, g[2 * s], g[2 * s + 1], qd + 4 * s);
            pin(D), pin(rest), mma_begin();
#pragma unroll
            for (int s = 0; s < 4; ++s) mma_n128_columns(T{}, D, rest + 4 * s, tile_descriptor(at + L::kQ + s * 2048, kTileBytes));
            mma_commit();
            load_write_k();
            mma_wait<1>();
        } else {
            load_write_k();
            mma_wait<0>();
        }
        pin(u), pin(o);
        // dU^T = write_k (D^T K^T) + dO^T P
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            u[2 * i] = o[2 * i] + f[i / 2].x * u[2 * i];
            u[2 * i + 1] = o[2 * i + 1] + f[i / 2].y * u[2 * i + 1];
            b[i] = pack(T{}, u[2 * i], u[2 * i + 1]);
        }
        // dX^T = dU^T + dU^T strict(A)
        pin(u), pin(b), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) mma_n64_columns(T{}, u, b + 4 * s, tile_descriptor(at + L::kSolve + s * 2048));
        mma_commit();
        // D^T += (read_q dO^T) Q, behind it
        pin(D), pin(qd), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) mma_n128_columns(T{}, D, qd + 4 * s, tile_descriptor(at + L::kQ + s * 2048, kTileBytes));
        mma_commit();
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] = factor(factors, ChunkRecord::read_k, j), g[j] = factor(factors, ChunkRecord::beta, j);
        mma_wait<1>(), pin(u);
        uint32_t y[16];
        bool small = false;
#pragma unroll
        for (int i = 0; i < 16; ++i) y[i] = pack(T{}, -f[i / 2].x * u[2 * i], -f[i / 2].y * u[2 * i + 1]);
        // D^T -= (read_k dX^T) K; between: dV^T = beta dX^T leaves
        pin(D), pin(y), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            mma_n128_columns(T{}, D, y + 4 * s, tile_descriptor(at + L::kK + s * 2048, kTileBytes));
            if (kSummary) continue;
            const float2 b0 = g[2 * s], b1 = g[2 * s + 1];
            const uint32_t dv[4] = {pack(T{}, b0.x * u[8 * s], b0.y * u[8 * s + 1]), pack(T{}, b0.x * u[8 * s + 2], b0.y * u[8 * s + 3]),
                                    pack(T{}, b1.x * u[8 * s + 4], b1.y * u[8 * s + 5]), pack(T{}, b1.x * u[8 * s + 6], b1.y * u[8 * s + 7])};
            store_matrices_across(out + L::kStagedTile + me.tokens + s * 2048, dv);
            small |= fminf(fminf(fabsf(b0.x), fabsf(b0.y)), fminf(fabsf(b1.x), fabsf(b1.y))) < params.small_beta;
        }
        mma_commit();
        if (!kSummary) announce_results(staging);
        mma_wait<0>(), pin(D);
        if (!kSummary && __any_sync(~0u, small)) store_small_rows<T>(params, w, chunk_at<true>(w, c), me, factors, u);
        pack_matrix<T>(Db, D);
        if (threadIdx.x % 32 == 0) release_stage<L>(ring);
    }
    if (!kSummary && w.begins)
        store_initial_gradient(params, w, me, D, row_slots(p.state, w.row).read == kNoSlot);
    else if (kSummary || params.windows > 1)
        store_matrix(D, gradient_of(params, w), me.state);
}

// PAD: what this kernel writes of the gradients is zero.
__device__ __forceinline__ void clear_chain(const Sm90ChainParams& params, const Chain& w) {
    const Sm90ForwardParams& p = params.forward;
    if (threadIdx.x < 128 && w.begins) {
        float none[64] = {};
        store_initial_gradient(params, w, lane_of(w), none, true);
    }
    if (!p.out.data) return;
    const int64_t begin = static_cast<int64_t>(w.first) * kChunk, end = begin + static_cast<int64_t>(w.chunks) * kChunk,
                  tokens = (end < w.tokens.length ? end : w.tokens.length) - begin;
    for (int64_t i = threadIdx.x; i < tokens * 8; i += L::kThreads) {
        uint16_t* to = static_cast<uint16_t*>(p.out.data) + element_offset(p.out, w.row, w.tokens, begin + i / 8, w.head) + 64 * w.part + i % 8 * 8;
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    }
}

template <class T, bool Reverse, bool kSummary>
__device__ __forceinline__ void run_chain(const Sm90ChainParams& params, const Chain& w, uint32_t smem, Stages ring, Stagings staging, uint32_t tail) {
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (w.skip) {
        if (Reverse && !kSummary) clear_chain(params, w);
    } else if (warp < 4) {
        if constexpr (Reverse)
            gradient_chain<T, kSummary>(params, w, smem, ring, staging);
        else
            state_chain<T, kSummary>(params, w, smem, ring, staging);
    } else if (warp == 4) {
        load_chain<Reverse>(params, w, smem, ring, tail);
    } else if (!kSummary) {
        store_chain<Reverse>(params, w, smem, staging);
    }
}

// Pairs of blocks: the reverse chains of all units and segments, in a summary the transitions, then the forward chains; in a window a summary has the latter
// alone.
struct Task {
    bool reverse, any;  // any: there is something to do
    Chain chain;
};
template <bool kSummary>
__device__ __forceinline__ Task find_task(const Sm90ChainParams& params) {
    const Sm90ForwardParams& p = params.forward;
    const int pair = blockIdx.x / 2;
    Task task{};
    if (params.windows > 1) {
        const int each = (kSummary ? 1 : params.grid_rows) * p.value_heads, unit = pair % each, row = unit / p.value_heads;
        const int64_t first = row_at(p.rows, kSummary ? params.window.end : params.window.first);
        task.reverse = !kSummary && pair < each;
        task.any = find_in_window(params, first + row, unit - row * p.value_heads, kSummary, task.chain);
        return task;
    }
    const int segments = p.segments - (kSummary ? 1 : 0), each = p.rows.count * p.value_heads * segments;
    const int kind = pair / each, unit = (pair - kind * each) / segments, segment = pair - kind * each - unit * segments;
    task.reverse = kind == 0, task.any = true;
    // A summary has no use for where the first segment leads to in reverse, nor for that of the last one.
    task.chain = find_chain(p, unit, segment + (kSummary && task.reverse ? 1 : 0), kSummary && kind == 1);
    return task;
}

template <class T, bool kSummary>
__device__ __forceinline__ void chains(const Sm90ChainParams& params) {
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory), staging_at = smem + L::kBarriers + 16 * L::kStages, tail = staging_at + 16 * L::kStagings;
    const Stages ring(smem + L::kBarriers);
    const Stagings staging(staging_at);
    let_successor_start();
    if (threadIdx.x == 0) {
        ring.init(1, 4 * 2);
        staging.init(4, 1);
        barrier_init(tail, 1);
        barrier_init_fence();
    }
    __syncthreads();
    sync_cluster();
    wait_for_predecessor();
    const Task task = find_task<kSummary>(params);
    if (task.any && task.reverse)
        run_chain<T, true, kSummary>(params, task.chain, smem, ring, staging, tail);
    else if (task.any)
        run_chain<T, false, kSummary>(params, task.chain, smem, ring, staging, tail);
    __syncwarp();
    sync_cluster();  // the other block may still arrive here
}

}  // namespace
}  // namespace fqla::sm90

#define FQLA_CHAINS(name, T, summary)                                                                      \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(fqla::ChainLayout::kThreads, 1) \
        name(const __grid_constant__ fqla::Sm90ChainParams p) {                                            \
        fqla::sm90::chains<fqla::sm90::T, summary>(p);                                                     \
    }
FQLA_CHAINS(gdn_chains_bf16, Bf16, false)
FQLA_CHAINS(gdn_chains_f16, F16, false)

// Of all segments but one: where S and D get to from nothing (those at a row's ends: from what the caller gives), and the transition of S.
FQLA_CHAINS(gdn_chain_summary_bf16, Bf16, true)
FQLA_CHAINS(gdn_chain_summary_f16, F16, true)
