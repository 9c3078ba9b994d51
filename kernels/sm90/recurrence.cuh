// The recurrence's roles, shared by the kernels of forward.cu (records from memory), fused.cu and fused_trio.cu (records made in the cluster); fused_wide.cu
// and backward_chains.cu take units, states and products from here.
#pragma once
#include "chunk.cuh"
#include "registers.cuh"
#include "ring.cuh"
#include "sm90_params.h"
#include "tile.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace fqla::sm90 {

// What a block works on.
struct Work {
    int64_t row;
    RowTokens tokens;
    int head, part;  // part: which 64 (or 128) rows of V
    int64_t first;   // chunk, within the row
    int chunks;
    int segment;
    bool last;            // of the row
    bool skip;            // its state is PAD: outputs are zeroed, nothing else is done
    int from, to, quiet;  // of a stretch (cut.h)
    bool mute;            // it is PAD for writing alone, in a kernel that goes on all the same: outputs are zeroed, no state of the caller's is stored
};

// The units (row, segment, value head; heads fastest) that a block goes through, and its part of each: every step-th one of the rows that are served. Every
// role walks the same list, each as far ahead as its events let it, so that a block that has several units never drains between them.
struct Units {
    int first, count, step;
    int part;
    int segments;  // of a row that are walked here; 0: rows are not cut
    bool all;      // of rows of every length, and known when compiling: the walk past other rows is 1,800 instructions in fused_wide.cu
};
__device__ __forceinline__ Units one_unit(int parts, int segments) {
    const int unit = blockIdx.x / parts;
    return {unit, unit + 1, 1, static_cast<int>(blockIdx.x) - unit * parts, segments, true};
}

// A block's share where blocks, `parts` to a unit, take units in turn.
__device__ __forceinline__ Units units_in_turn(const Sm90ForwardParams& p, int parts, int segments, bool all = false) {
    const int first = blockIdx.x / parts;
    return {first, p.rows.count * p.value_heads * max(segments, 1), static_cast<int>(gridDim.x) / parts, static_cast<int>(blockIdx.x) - first * parts, segments,
            all};
}
// To the next unit of a block, the first one from before_first: whether there is one.
__device__ __forceinline__ int before_first(const Units& units) { return units.first - units.step; }
__device__ __forceinline__ bool next_unit(const Sm90ForwardParams& p, const Units& units, int& unit) {
    if (units.all || serves_all(p.rows)) {
        unit += units.step;
        return unit < units.count;
    }
    // Units of the rows between do not count.
    const uint32_t of_row = p.value_heads * max(units.segments, 1), row = unit < units.first ? 0 : unit / of_row;
    const uint32_t at = unit < units.first ? units.first : unit - row * of_row + units.step, rows = at / of_row;
    const int found = served_row(p.rows, row, rows);
    unit = found * of_row + at - rows * of_row;
    return found < p.rows.count;
}

// A row's last segment takes what is left. The backward knows nothing of slots for writing: what it will read must be there for rows that are PAD there.
template <bool kMutes = false>
__device__ __forceinline__ Work find_work(const Sm90ForwardParams& p, const Units& units, int unit) {
    Work w{};
    w.part = units.part;
    const int group = unit / p.value_heads;
    w.head = unit - group * p.value_heads;
    const int segments = units.segments ? units.segments : 1;
    w.row = group / segments;
    w.segment = group - static_cast<int>(w.row) * segments;
    w.skip = row_slots(p.state, w.row).skip;
    if (kMutes) {
        StateIo reading = p.state;
        reading.write = {};
        w.mute = w.skip;
        w.skip = row_slots(reading, w.row).skip;
    }
    w.tokens = row_tokens(p.rows, w.row);
    const int all = static_cast<int>(chunks_of(w.tokens.length));
    int begin = 0, end = all;
    if (units.segments) {
        begin = min(w.segment * p.segment_chunks, all), end = min((w.segment + 1) * p.segment_chunks, all);
    }
    w.first = begin;
    w.last = end == all && (end > begin || w.segment == 0);
    w.chunks = __shfl_sync(~0u, end - begin, 0);  // a trip count that ptxas sees to be uniform
    return w;
}

// Whether a kernel that has whole rows has any: behind a cut only where that has left all to it.
__device__ __forceinline__ bool left_uncut(const Sm90ForwardParams& p) {
    if (!p.cut) return true;
    wait_for_predecessor();
    return p.cut->uncut;
}

__device__ __forceinline__ float* segment_matrix(float* base, const Sm90ForwardParams& p, const Work& w, int segment) {
    return base + ((w.row * p.value_heads + w.head) * p.segments + segment) * (kHeadDim * kHeadDim);
}

__device__ __forceinline__ int key_head_of(const Sm90ForwardParams& p, int value_head) {
    return p.head_map == FLASHQLA_HEADS_TILED ? value_head % p.key_heads : value_head / (p.value_heads / p.key_heads);
}

// Fragment of S^T: element 4j + i of a lane is row v0 + 8 (i / 2), column k0 + 8j + i % 2.
struct StateAt {
    int v0, k0;
};

// Row and column steps of a stored state are constants for each layout, so that a thread needs one address.
template <bool kVk, class Move>
__device__ __forceinline__ void walk_state(StateAt at, Move move) {
    constexpr int dv = kVk ? kHeadDim : 1, dk = kVk ? 1 : kHeadDim;
    const int first = at.v0 * dv + at.k0 * dk;
#pragma unroll
    for (int i = 0; i < 64; ++i) move(i, first, 8 * ((i >> 1) & 1) * dv + (8 * (i >> 2) + (i & 1)) * dk);
}

// A head's state in memory of the caller, f32 or bf16. Type, layout and alignment are asked for once, not for each element: a branch at each of 64 loads makes
// them wait for each other. Of VK states, whose columns lie side by side, pairs move together where the caller's alignment lets them.
__device__ __forceinline__ bool moves_pairs(const void* at, int layout, int element) {
    return layout == FLASHQLA_STATE_VK && reinterpret_cast<uintptr_t>(at) % (2 * element) == 0;
}
__device__ __forceinline__ void load_matrix_of_caller(float (&S)[64], const void* data, int64_t base, int dtype, int layout, StateAt at) {
    const float* f32 = static_cast<const float*>(data) + base;
    const uint16_t* bf16 = static_cast<const uint16_t*>(data) + base;
    const auto from_f32 = [&](int i, int first, int step) { S[i] = f32[first + step]; };
    const auto from_bf16 = [&](int i, int first, int step) { S[i] = __uint_as_float(static_cast<uint32_t>(bf16[first + step]) << 16); };
    const auto pairs_from_f32 = [&](int i, int first, int step) {
        if (i & 1) return;
        const float2 x = *reinterpret_cast<const float2*>(f32 + first + step);
        S[i] = x.x, S[i + 1] = x.y;
    };
    const auto pairs_from_bf16 = [&](int i, int first, int step) {
        if (i & 1) return;
        const float2 x = unpack(Bf16{}, *reinterpret_cast<const uint32_t*>(bf16 + first + step));
        S[i] = x.x, S[i + 1] = x.y;
    };
    if (dtype == FLASHQLA_DTYPE_F32) {
        if (moves_pairs(f32, layout, 4)) return walk_state<true>(at, pairs_from_f32);
        layout == FLASHQLA_STATE_VK ? walk_state<true>(at, from_f32) : walk_state<false>(at, from_f32);
    } else {
        if (moves_pairs(bf16, layout, 2)) return walk_state<true>(at, pairs_from_bf16);
        layout == FLASHQLA_STATE_VK ? walk_state<true>(at, from_bf16) : walk_state<false>(at, from_bf16);
    }
}
__device__ __forceinline__ void store_matrix_of_caller(const float (&S)[64], void* data, int64_t base, int dtype, int layout, StateAt at) {
    float* f32 = static_cast<float*>(data) + base;
    __nv_bfloat16* bf16 = static_cast<__nv_bfloat16*>(data) + base;
    const auto to_f32 = [&](int i, int first, int step) { f32[first + step] = S[i]; };
    const auto to_bf16 = [&](int i, int first, int step) { bf16[first + step] = __float2bfloat16_rn(S[i]); };
    const auto pairs_to_f32 = [&](int i, int first, int step) {
        if (!(i & 1)) *reinterpret_cast<float2*>(f32 + first + step) = {S[i], S[i + 1]};
    };
    const auto pairs_to_bf16 = [&](int i, int first, int step) {
        if (!(i & 1)) *reinterpret_cast<uint32_t*>(bf16 + first + step) = pack(Bf16{}, S[i], S[i + 1]);
    };
    if (dtype == FLASHQLA_DTYPE_F32) {
        if (moves_pairs(f32, layout, 4)) return walk_state<true>(at, pairs_to_f32);
        layout == FLASHQLA_STATE_VK ? walk_state<true>(at, to_f32) : walk_state<false>(at, to_f32);
    } else {
        if (moves_pairs(bf16, layout, 2)) return walk_state<true>(at, pairs_to_bf16);
        layout == FLASHQLA_STATE_VK ? walk_state<true>(at, to_bf16) : walk_state<false>(at, to_bf16);
    }
}

__device__ __forceinline__ void load_state(float (&S)[64], const Sm90ForwardParams& p, int64_t slot, int head, StateAt at) {
    const int64_t base = slot * p.state.read.slot_stride + static_cast<int64_t>(head) * (kHeadDim * kHeadDim);
    load_matrix_of_caller(S, p.state.read.data, base, p.state_dtype, p.state_layout, at);
}
__device__ __forceinline__ void store_state(const float (&S)[64], const Sm90ForwardParams& p, int64_t slot, int head, StateAt at) {
    const int64_t base = slot * p.state.write.slot_stride + static_cast<int64_t>(head) * (kHeadDim * kHeadDim);
    store_matrix_of_caller(S, p.state.write.data, base, p.state_dtype, p.state_layout, at);
}

// The same to and from a matrix of the workspace, [V, K] in f32.
__device__ __forceinline__ void load_matrix(float (&S)[64], const float* from, StateAt at) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const float2 x = *reinterpret_cast<const float2*>(from + (at.v0 + 8 * (i & 1)) * kHeadDim + at.k0 + 8 * (i >> 1));
        S[2 * i] = x.x, S[2 * i + 1] = x.y;
    }
}
__device__ __forceinline__ void store_matrix(const float (&S)[64], float* to, StateAt at) {
#pragma unroll
    for (int i = 0; i < 32; ++i) *reinterpret_cast<float2*>(to + (at.v0 + 8 * (i & 1)) * kHeadDim + at.k0 + 8 * (i >> 1)) = {S[2 * i], S[2 * i + 1]};
}

// The state after chunk c, if the caller wants it there (intervals are multiples of a chunk).
__device__ __forceinline__ void store_checkpoint(const float (&S)[64], const Sm90ForwardParams& p, const Work& w, int c, StateAt at) {
    const int64_t tokens = (w.first + c + 1) * kChunk;
    if (tokens > w.tokens.length) return;
    const int64_t slot = checkpoint_slot(p.state, w.row, tokens);
    if (slot != kNoSlot) store_state(S, p, slot, w.head, at);
}

// Fills stages for the chunks of a unit, in order. Behind the end of a row cut by offsets a box holds other rows' tokens: that one chunk lands on a
// barrier of its own and is announced after k and v have been zeroed there.
template <class L>
__device__ __forceinline__ void load_chunks(const Sm90ForwardParams& p, const Work& w, uint32_t smem, Ring<L::kStages>& ring, uint32_t tails,
                                            uint32_t& tail_phases) {
    const int lane = threadIdx.x % 32, key_head = key_head_of(p, w.head), n = p.rows.offsets ? 0 : static_cast<int>(w.row);
    const int64_t first = w.first * kChunk;
    int t = static_cast<int>(first + w.tokens.begin), left = static_cast<int>(w.tokens.length - first);
    const char* record = static_cast<const char*>(p.records) + ((first_slot(p.rows, w.row, w.tokens) + w.first) * p.value_heads + w.head) * ChunkRecord::kBytes;
#pragma unroll 1
    for (int c = 0; c < w.chunks; ++c, ring.advance(), t += kChunk, left -= kChunk, record += p.value_heads * static_cast<int64_t>(ChunkRecord::kBytes)) {
        ring.wait_free();
        const bool ragged = p.rows.offsets && left < kChunk;
        const uint32_t at = smem + ring.stage() * L::kStageBytes;
        if (lane == 0) {
            const uint32_t bar = ragged ? tails + 8 * ring.stage() : ring.filled();
            barrier_expect(bar, L::kStageBytes + (L::kPair ? 0 : ChunkRecord::kFactorBytes));
            // A pair shares all but v: each block brings one half of k and q and one tile, to both.
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                if constexpr (!L::kCluster) {
                    load_box(at + L::kK + half * L::kHalf, p.k, 64 * half, key_head, t, n, bar);
                    if (L::kOutput) load_box(at + L::kQ + half * L::kHalf, p.q, 64 * half, key_head, t, n, bar);
                } else if (half == w.part) {
                    load_box_pair(at + L::kK + half * L::kHalf, p.k, 64 * half, key_head, t, n, bar);
                    if (L::kOutput) load_box_pair(at + L::kQ + half * L::kHalf, p.q, 64 * half, key_head, t, n, bar);
                }
            }
#pragma unroll
            for (int m = 0; m < L::kValueTiles; ++m) load_box(at + L::kV + m * kTileBytes, p.v, 64 * (w.part * L::kValueTiles + m), w.head, t, n, bar);
            if constexpr (!L::kPair) {
                const uint32_t factors = smem + L::kFactors + ring.stage() * 1152;
                if constexpr (!L::kCluster) {
                    load_bytes(factors, record + ChunkRecord::kFactors, ChunkRecord::kFactorBytes, bar);
                    load_bytes(at + L::kSolve, record + ChunkRecord::kSolve, kTileBytes, bar);
                    if (L::kOutput) load_bytes(at + L::kScores, record + ChunkRecord::kScores, kTileBytes, bar);
                } else if (w.part == 0) {
                    load_bytes_pair(factors, record + ChunkRecord::kFactors, ChunkRecord::kFactorBytes, bar);
                    load_bytes_pair(at + L::kSolve, record + ChunkRecord::kSolve, kTileBytes, bar);
                } else if (L::kOutput) {
                    load_bytes_pair(at + L::kScores, record + ChunkRecord::kScores, kTileBytes, bar);
                }
            }
        }
        if (ragged) {
            barrier_wait(tails + 8 * ring.stage(), tail_phases >> ring.stage() & 1);
            tail_phases ^= 1u << ring.stage();
            for (int piece = left * 8 + lane; piece < kChunk * 8; piece += 32) {
                store_shared_zero16(at + L::kK + 16 * piece), store_shared_zero16(at + L::kK + L::kHalf + 16 * piece);
#pragma unroll
                for (int m = 0; m < L::kValueTiles; ++m) store_shared_zero16(at + L::kV + m * kTileBytes + 16 * piece);
            }
            fence_to_async();
            __syncwarp();
            if (lane == 0) barrier_arrive(ring.filled());
        }
    }
}

// Load role.
template <class L>
__device__ __forceinline__ void load_role(const Sm90ForwardParams& p, const Units& units, uint32_t smem, Ring<L::kStages> ring, uint32_t tails) {
    uint32_t tail_phases = 0;  // a bit a stage
    for (int unit = before_first(units); next_unit(p, units, unit);) {
        const Work w = find_work<L::kMutes>(p, units, unit);
        if (!w.skip) load_chunks<L>(p, w, smem, ring, tails, tail_phases);
    }
}

// The output of a unit's rows that are skipped: zeros, by one warp.
__device__ __forceinline__ void clear_output(const Sm90ForwardParams& p, const Work& w, int v) {
    const int64_t begin = w.first * kChunk, end = begin + static_cast<int64_t>(w.chunks) * kChunk,
                  tokens = (end < w.tokens.length ? end : w.tokens.length) - begin;
    for (int64_t i = threadIdx.x % 32; i < tokens * 8; i += 32) {
        uint16_t* to = static_cast<uint16_t*>(p.out.data) + element_offset(p.out, w.row, w.tokens, begin + i / 8, w.head) + v + i % 8 * 8;
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    }
}

// A staging tile to the output of chunk c, rows v .. v + 63 of V: a full chunk by the copy engine, whose store the caller waits for, a row's ragged end
// by predicated stores.
__device__ __forceinline__ void store_output(const Sm90ForwardParams& p, const Work& w, int c, int v, uint32_t from) {
    const int lane = threadIdx.x % 32;
    const int64_t token = (w.first + c) * kChunk, left = w.tokens.length - token;
    if (left >= kChunk) {
        if (lane == 0) {
            store_box(p.o, from, v, w.head, static_cast<int>(token + w.tokens.begin), p.rows.offsets ? 0 : static_cast<int>(w.row));
            commit_stores();
        }
    } else {
        uint16_t* to = static_cast<uint16_t*>(p.out.data) + element_offset(p.out, w.row, w.tokens, token, w.head) + v;
        for (int i = lane; i < left * 8; i += 32)
            *reinterpret_cast<uint4*>(to + i / 8 * p.out.token + i % 8 * 8) = load_shared_u4(from + swizzled(i / 8, i % 8));
    }
}
// What a warp has stored is read, its staging tile free.
__device__ __forceinline__ void give_back(Ring<1>& staging) {
    if (threadIdx.x % 32 == 0) wait_stores_read();
    __syncwarp();
    if (threadIdx.x % 32 == 0) staging.release();
    staging.advance();
}

// The bytes of chunk c and 64 rows of V in one of the arrays that the backward takes.
__device__ __forceinline__ char* saved_at(const Sm90ForwardParams& p, const Work& w, int c, void* base, int bytes) {
    const int64_t slot = first_slot(p.rows, w.row, w.tokens) + w.first + c;
    return static_cast<char*>(base) + (2 * (slot * p.value_heads + w.head) + w.part) * bytes;
}
template <class L>
__device__ __forceinline__ void save_state(const Sm90ForwardParams& p, const Work& w, int c, uint32_t smem) {
    if (threadIdx.x % 32 != 0) return;
    constexpr int bytes = BackwardTiles::kMatrixBytes / 2;
    store_bytes(saved_at(p, w, c, p.states, bytes), smem + L::kSavedState, bytes);
    commit_stores();
}
template <class L>
__device__ __forceinline__ void save_updates(const Sm90ForwardParams& p, const Work& w, int c, uint32_t smem) {
    if (threadIdx.x % 32 != 0) return;
    constexpr int bytes = BackwardTiles::kTokensBytes / 2;
    store_bytes(saved_at(p, w, c, p.updates, bytes), smem + L::kSavedUpdates + (c & 1) * kTileBytes, bytes);
    commit_stores();
}

// Store role, for one math warpgroup that announces a chunk's output in the next chunk. One that saves (and has one unit) announces S of this next chunk
// with it, and U of the former.
template <class L>
__device__ __forceinline__ void store_role(const Sm90ForwardParams& p, const Units& units, uint32_t smem, Ring<1> staging, int group) {
    const int v = 64 * (units.part * L::kMath + group);
    bool fresh = true;
    for (int unit = before_first(units); next_unit(p, units, unit);) {
        const Work w = find_work<L::kMutes>(p, units, unit);
        if (w.skip || w.mute) clear_output(p, w, v);
        if (w.skip) continue;
        for (int c = 0; c < w.chunks; ++c, fresh = false) {
            if (fresh) {  // the first filling, before any output is there
                staging.wait_filled();
                if constexpr (L::kSaves) save_state<L>(p, w, c, smem);
                give_back(staging);
            }
            staging.wait_filled();
            if (!w.mute) store_output(p, w, c, v, smem + L::kOut + group * kTileBytes);
            if constexpr (L::kSaves) {
                save_updates<L>(p, w, c, smem);
                if (c + 1 < w.chunks) save_state<L>(p, w, c + 1, smem);
            }
            give_back(staging);
        }
    }
}

// Step s of D^T = S^T B^T for the 64 rows of k or q, which stand `tiles` bytes behind `at`.
template <class T, class L>
__device__ __forceinline__ void multiply_state(int s, float (&d)[32], const uint32_t (&Sb)[32], uint32_t at, uint32_t tiles) {
    if (s == 0)
        mma_n64_fresh(T{}, d, Sb, tile_descriptor_at(at, tiles));
    else
        mma_n64(T{}, d, Sb + 4 * s, tile_descriptor_at(at, tiles + (s >> 2) * L::kHalf + (s & 3) * 32), true);
}

// Where this lane's rows of the fragments of [64 v, 128 k] begin, which is two tiles (stmatrix).
__device__ __forceinline__ uint32_t matrix_place(int warp, int lane) {
    const int row = lane & 7, matrix = lane >> 3;
    return (16 * warp + 8 * (matrix & 1) + row) * 128 + (((matrix >> 1) ^ row) << 4);
}
// Columns 32 s .. 32 s + 31 of this warp's rows of a 16-bit matrix to there.
__device__ __forceinline__ void stage_matrix(uint32_t to, int s, const uint32_t (&m)[32]) {
#pragma unroll
    for (int j = 2 * s; j < 2 * s + 2; ++j) store_matrices((to + (j >> 2) * kTileBytes) ^ ((j & 3) << 5), m + 4 * j);
}

// Per-token factor of this lane's two tokens among columns 8j .. 8j + 7.
__device__ __forceinline__ float2 factor(uint32_t factors, ChunkRecord::Factor which, int j) {
    return load_shared_f2(factors + (which * kChunk + 8 * j + (threadIdx.x & 3) * 2) * 4);
}

// X^T = beta V^T - read_k Y^T, in the place of Y^T, and its operand.
template <class T>
__device__ __forceinline__ void subtract_reads(float (&y)[32], uint32_t (&operand)[16], const float (&beta_v)[32], const float2 (&read_k)[8]) {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        y[2 * i] = beta_v[2 * i] - read_k[i / 2].x * y[2 * i];
        y[2 * i + 1] = beta_v[2 * i + 1] - read_k[i / 2].y * y[2 * i + 1];
        operand[i] = pack(T{}, y[2 * i], y[2 * i + 1]);
    }
}

// By one thread of a warp that has read its stage.
template <class L>
__device__ __forceinline__ void release_stage(const Ring<L::kStages>& ring) {
    if constexpr (L::kCluster)
        ring.release_in(0), ring.release_in(1);
    else
        ring.release();
}

// This warp's part of a chunk's output stands in staging.
__device__ __forceinline__ void announce_output(Ring<1>& staging) {
    fence_to_async();
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(staging.filled());
    staging.advance();
}

// Math role: 64 rows of V through all chunks of the units. `records` tells when a chunk's record is there (a fused cluster; else it comes with the stage).
template <class T, class L, class Records>
__device__ __forceinline__ void math_role(const Sm90ForwardParams& p, const Units& units, uint32_t smem, Ring<L::kStages> ring, Ring<1> staging,
                                          Records records) {
    constexpr bool Output = L::kOutput;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int v_first = 64 * (units.part * L::kValueTiles + (Output ? group : 0));
    const bool is_map = !Output && group == 1;  // this warpgroup of a summary makes the transition: no values, from the identity
    const StateAt mine{v_first + 16 * warp + lane / 4, 2 * (lane % 4)};
    const uint32_t out_at = smem + L::kOut + group * kTileBytes + ((lane >> 4) * 8 + (lane & 7)) * 128 + (((2 * warp + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);

    float S[64];
    uint32_t Sb[32], xb[16], ub[16], us[16], ob[16] = {};  // ob: the chunk before's output
    const uint32_t v_at =
        L::kV + (Output ? group : 0) * kTileBytes + ((lane >> 4) * 8 + (lane & 7)) * 128 + (((2 * warp + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
    int done = 0;  // chunks, of all units
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p, units, unit);) {
        const Work w = find_work<L::kMutes>(p, units, unit);
        if (w.skip) continue;
        const RowSlots slots = row_slots(p.state, w.row);
#pragma unroll
        for (int i = 0; i < 64; ++i) S[i] = 0.f;
        if (is_map) {
#pragma unroll
            for (int i = 0; i < 64; ++i) S[i] = mine.v0 + 8 * ((i >> 1) & 1) == mine.k0 + 8 * (i >> 2) + (i & 1) ? 1.f : 0.f;
        } else if (Output && p.segments > 1) {
            load_matrix(S, segment_matrix(p.segment_states, p, w, w.segment > 0 ? w.segment - 1 : p.segments - 1), mine);
        } else if (w.segment == 0 && slots.read != kNoSlot) {
            load_state(S, p, slots.read, w.head, mine);
        }
        // The forward's first segment starts from this copy: in place, its last segment may have stored the final state before the first begins.
        if constexpr (!Output)
            if (!is_map && w.segment == 0) store_matrix(S, segment_matrix(p.segment_states, p, w, p.segments - 1), mine);
#pragma unroll
        for (int i = 0; i < 32; ++i) Sb[i] = pack(T{}, S[2 * i], S[2 * i + 1]);

#pragma unroll 1
        for (int c = 0; c < w.chunks; ++c, ++done, ring.advance()) {
            ring.wait_filled();
            records.wait(done);
            const uint32_t at = smem + ring.stage() * L::kStageBytes, record = smem + L::kRecords + (done & (L::kRecordSlots - 1)) * L::kRecordStride;
            const uint32_t solve = L::kPair ? record + ChunkRecord::kSolve : at + L::kSolve,
                           scores = L::kPair ? record + ChunkRecord::kScores : at + L::kScores;
            const uint32_t factors = L::kPair ? record + ChunkRecord::kFactors : smem + L::kFactors + ring.stage() * 1152;
            // Y^T = S^T K^T; between: beta V^T
            float u[32], o[32], x[32];
            float2 read_k[8], f[8];
            pin(Sb), mma_begin();
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                multiply_state<T, L>(2 * s, u, Sb, at, L::kK);
                uint32_t v[4];
                load_matrices_across(v, at + v_at + s * 2048);
                const float2 b0 = factor(factors, ChunkRecord::beta, 2 * s), b1 = factor(factors, ChunkRecord::beta, 2 * s + 1);
                multiply_state<T, L>(2 * s + 1, u, Sb, at, L::kK);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float2 y = unpack(T{}, is_map ? 0u : v[i]);
                    x[8 * s + 2 * i] = (i < 2 ? b0.x : b1.x) * y.x, x[8 * s + 2 * i + 1] = (i < 2 ? b0.y : b1.y) * y.y;
                }
            }
            mma_commit();
            pin(x);
            const float decay = load_shared_f(factors + 4 * kChunk * 4);
            if constexpr (Output) {
                staging.wait_free();  // and a block boundary, across which ptxas does not sink the products above
                // O^T = S^T Q^T, in halves that keep the tensor cores busy while X and U are made; between: the chunk before's output
                mma_begin();
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    multiply_state<T, L>(s, o, Sb, at, L::kQ);
                    store_matrices_across(out_at + s * 2048, ob + 4 * s);
                    if constexpr (L::kSaves) stage_matrix(smem + L::kSavedState + matrix_place(warp, lane), s, Sb);
                    read_k[2 * s] = factor(factors, ChunkRecord::read_k, 2 * s), read_k[2 * s + 1] = factor(factors, ChunkRecord::read_k, 2 * s + 1);
                }
                mma_commit();
                announce_output(staging);
                mma_wait<1>();
            } else {
#pragma unroll
                for (int j = 0; j < 8; ++j) read_k[j] = factor(factors, ChunkRecord::read_k, j);
                ring.wait_filled();  // known to be so: the block boundary
                mma_wait<0>();
            }
            pin(u);
            subtract_reads<T>(u, xb, x, read_k);
            // U^T = X^T + X^T strict(A)^T
            pin(u), pin(xb), mma_begin();
#pragma unroll
            for (int s = 0; s < 4; ++s) {
                mma_n64(T{}, u, xb + 4 * s, tile_descriptor_at(solve, s * 32), true);
#pragma unroll
                for (int i = 0; i < 16; ++i) S[16 * s + i] *= decay;
            }
            mma_commit();
            if constexpr (Output) {
                mma_begin();
#pragma unroll
                for (int s = 4; s < 8; ++s) multiply_state<T, L>(s, o, Sb, at, L::kQ);
                mma_commit();
            }
#pragma unroll
            for (int j = 0; j < 8; ++j) f[j] = factor(factors, ChunkRecord::write_k, j);
            if constexpr (Output)
                mma_wait<1>();
            else
                mma_wait<0>();
            pin(u);
#pragma unroll
            for (int i = 0; i < 16; ++i) us[i] = pack(T{}, u[2 * i] * f[i / 2].x, u[2 * i + 1] * f[i / 2].y);
            // S^T = decay S^T + (write_k U^T) K
            pin(S), pin(us), mma_begin();
#pragma unroll
            for (int s = 0; s < 4; ++s) mma_n128_columns(T{}, S, us + 4 * s, tile_descriptor_at(at, L::kK + s * 2048, kTileBytes));
            mma_commit();
            if constexpr (Output) {
                // O^T = read_q O^T + U^T P^T
#pragma unroll
                for (int i = 0; i < 16; ++i) ub[i] = pack(T{}, u[2 * i], u[2 * i + 1]);
#pragma unroll
                for (int j = 0; j < 8; ++j) f[j] = factor(factors, ChunkRecord::read_q, j);
                mma_wait<1>(), pin(o);
#pragma unroll
                for (int i = 0; i < 16; ++i) o[2 * i] *= f[i / 2].x, o[2 * i + 1] *= f[i / 2].y;
                pin(o), pin(ub), mma_begin();
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    mma_n64(T{}, o, ub + 4 * s, tile_descriptor_at(scores, s * 32), true);
                    if constexpr (L::kSaves) store_matrices_across(out_at - L::kOut + L::kSavedUpdates + (done & 1) * kTileBytes + s * 2048, ub + 4 * s);
                }
                mma_commit();
                mma_wait<1>();
            } else
                mma_wait<0>();
            pin(S);
#pragma unroll
            for (int i = 0; i < 32; ++i) Sb[i] = pack(T{}, S[2 * i], S[2 * i + 1]);
            if constexpr (Output) {  // nothing in flight over the back edge, or ptxas serialises (C7514)
                mma_wait<0>(), pin(o);
#pragma unroll
                for (int i = 0; i < 16; ++i) ob[i] = pack(T{}, o[2 * i], o[2 * i + 1]);
            }
            if (lane == 0) release_stage<L>(ring), records.release(done);
            if constexpr (Output)
                if (p.state.checkpoint_interval && !w.mute) store_checkpoint(S, p, w, c, mine);
        }
        if constexpr (Output) {
            if (w.last && slots.write != kNoSlot) store_state(S, p, slots.write, w.head, mine);
        } else {
            store_matrix(S, segment_matrix(is_map ? p.segment_maps : p.segment_states, p, w, w.segment), mine);
        }
    }
    if constexpr (Output) {
        if (done > 0) {
            staging.wait_free();
#pragma unroll
            for (int s = 0; s < 4; ++s) store_matrices_across(out_at + s * 2048, ob + 4 * s);
            announce_output(staging);
        }
    }
}

// Records that arrive with their stage.
struct StagedRecords {
    __device__ __forceinline__ void wait(int) const {}
    __device__ __forceinline__ void release(int) const {}
};

}  // namespace fqla::sm90
