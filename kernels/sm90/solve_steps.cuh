// Steps of the solve by one warpgroup: the kernel solve.cu strings them together for all chunks at once, fused.cu a chunk ahead of the recurrence;
// gate_steps.cuh has those of fused_wide.cu and fused_trio.cu, and takes norms and gate forms from here.
#pragma once
#include "chunk.cuh"
#include "mbarrier.cuh"
#include "mma.cuh"
#include "registers.cuh"
#include "sm90_params.h"
#include "tile.cuh"
#include "wgmma.cuh"

namespace fqla::sm90 {

constexpr float kLog2e = 1.4426950408889634f;

struct Thread {
    int warp, lane;
    int row, pair;  // of accumulators: rows `row` and `row` + 8, columns 8j + `pair` and the next
};
__device__ __forceinline__ Thread thread_of_warpgroup() {
    const int t = threadIdx.x % 128;
    return {t / 32, t % 32, t / 32 * 16 + t % 32 / 4, 2 * (t % 4)};
}

// Where a solve works in shared memory.
struct SolveAt {
    uint32_t q, k;                    // tiles of the two halves of K
    uint32_t lower;                   // 64 x 64 f32, rows kLowerStride apart: -N, the inverses of its diagonal blocks
    uint32_t solve, scores, factors;  // the record
    uint32_t gates, betas;            // of the head's tokens
    uint32_t warps;                   // gate sums and column factors, two arrays of 64 a warp
    uint32_t norms;                   // of k, of q
};

// log2 of the decay of one token; comparisons that let NaN through.
__device__ __forceinline__ float log2_gate(const SolveForms& p, float x, int head) {
    if (p.gate_form == FLASHQLA_GATE_LINEAR)
        x = log2f(x);
    else if (p.gate_form == FLASHQLA_GATE_RAW) {
        const float a = x + load_scalar(p.dt_bias, head * p.dt_bias.head);
        x = -expf(load_scalar(p.a_log, head * p.a_log.head)) * (a > 20.f ? a : log1pf(expf(a))) * kLog2e;
    } else
        x *= kLog2e;
    const float least = static_cast<float>(kMinLogGate) * kLog2e;
    return x < least ? least : x;
}

__device__ __forceinline__ float beta_of(const SolveForms& p, float x) {
    return p.beta_scale * (p.beta_form == FLASHQLA_BETA_LOGIT ? 1.f / (1.f + expf(-x)) : x);
}

// Gates and betas of all heads of the block to shared memory: half of the threads the ones, half the others, a token each. All loads are on
// their way before the first is looked at. Tokens behind the row's end get zeros.
__device__ __forceinline__ void resolve_tokens(const SolveForms& p, const SolveAt& to, const ChunkPlace& at, int first_head, int head_step, int heads) {
    const int token = threadIdx.x % kChunk;  // the warpgroup starts at a multiple of it
    const bool is_beta = threadIdx.x % 128 >= kChunk;
    const View& x = is_beta ? p.beta : p.gate;
    const int64_t t = at.chunk * kChunk + token;
    const bool inside = t < at.tokens.length;
    const int64_t from = element_offset(x, at.row, at.tokens, inside ? t : 0, first_head), step = head_step * x.head;
    const uint32_t place = (is_beta ? to.betas : to.gates) + token * 4;
    float raw[SolveLayout::kMaxHeads];
    if (x.dtype == FLASHQLA_DTYPE_F32) {
#pragma unroll
        for (int i = 0; i < SolveLayout::kMaxHeads; ++i)
            if (i < heads) raw[i] = static_cast<const float*>(x.data)[from + i * step];
    } else {
#pragma unroll
        for (int i = 0; i < SolveLayout::kMaxHeads; ++i)
            if (i < heads) raw[i] = load_scalar(x, from + i * step);
    }
#pragma unroll
    for (int i = 0; i < SolveLayout::kMaxHeads; ++i)
        if (i < heads) store_shared_f(place + i * kChunk * 4, raw[i]);
#pragma unroll 1
    for (int i = 0; i < heads; ++i) {
        const float r = load_shared_f(place + i * kChunk * 4);
        const float y = is_beta ? beta_of(p, r) : log2_gate(p, r, first_head + i * head_step);
        store_shared_f(place + i * kChunk * 4, inside ? y : 0.f);
    }
}

// 1/sqrt(sum x^2 + eps) of the 64 rows of k and q: a thread takes half of the rows' columns of each. Rows from `valid` on get 0: they are another
// row's tokens, and their NaN times a zero beta would be NaN.
template <int kHalf = kTileBytes>
__device__ __forceinline__ void measure_norms(const SolveAt& at, float eps, int valid, int thread, auto dtype) {
    const int row = thread / 2, half = thread % 2;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
        const uint32_t tile = (which ? at.q : at.k) + half * kHalf;
        float sum = 0;
#pragma unroll
        for (int piece = 0; piece < 8; ++piece) {
            const uint4 v = load_shared_u4(tile + swizzled(row, piece));
            const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 x = unpack(dtype, w[i]);
                sum += x.x * x.x + x.y * x.y;
            }
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
        if (half == 0) store_shared_f(at.norms + (which * kChunk + row) * 4, row < valid ? rsqrtf(sum + eps) : 0.f);
    }
}

// Issues kk <- K K^T, qk <- Q K^T; what does not need them belongs behind it (wgmma from shared memory does not hold the warp).
template <class T>
__device__ __forceinline__ void begin_products(const SolveAt& at, float (&kk)[32], float (&qk)[32]) {
    mma_begin();
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint64_t k = tile_descriptor_at(at.k, (s >> 2) * kTileBytes + (s & 3) * 32);
        if (s == 0)
            mma_shared_n64_fresh(T{}, kk, k, k);
        else
            mma_shared_n64(T{}, kk, k, k, true);
    }
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint32_t offset = (s >> 2) * kTileBytes + (s & 3) * 32;
        if (s == 0)
            mma_shared_n64_fresh(T{}, qk, tile_descriptor_at(at.q, offset), tile_descriptor_at(at.k, offset));
        else
            mma_shared_n64(T{}, qk, tile_descriptor_at(at.q, offset), tile_descriptor_at(at.k, offset), true);
    }
    mma_commit();
}

// Waits for them and puts norms and scale in; rows behind the row's end become zero.
template <class T>
__device__ __forceinline__ void finish_products(const SolveForms& p, const SolveAt& at, const Thread& me, int valid, float (&kk)[32], float (&qk)[32]) {
    mma_wait<0>(), pin(kk), pin(qk);
    float q_row[2] = {p.scale, p.scale};
    if (p.qk_norm) {
        float k_row[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            k_row[i] = load_shared_f(at.norms + (me.row + 8 * i) * 4);
            q_row[i] *= load_shared_f(at.norms + (kChunk + me.row + 8 * i) * 4);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 c = load_shared_f2(at.norms + (8 * j + me.pair) * 4);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                kk[4 * j + i] *= k_row[i >> 1] * (i & 1 ? c.y : c.x);
                qk[4 * j + i] *= i & 1 ? c.y : c.x;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) qk[i] *= q_row[(i >> 1) & 1];
    if (valid < kChunk) {
#pragma unroll
        for (int i = 0; i < 32; ++i)
            if (me.row + 8 * ((i >> 1) & 1) >= valid) qk[i] = kk[i] = 0.f;
    }
}

// A thread's share of the record's factors: two tokens of the array that its warp has, and the chunk's decay.
struct FactorPair {
    float2 pair;
    float decay;
};

// Sums of a head's gates and exp(G_start - G_s) for the rows of this warp, in the warp's own memory.
__device__ __forceinline__ FactorPair sum_gates(const SolveForms& p, const SolveAt& at, const Thread& me) {
    const uint32_t own = at.warps + me.warp * 2 * kChunk * 4;
    const float2 gate = load_shared_f2(at.gates + 8 * me.lane), beta = load_shared_f2(at.betas + 8 * me.lane);
    const float2 sums = sum_pairs(gate, me.lane);
    const float G0 = sums.x, G1 = sums.y;
    const float last = __shfl_sync(~0u, G1, 31), start = __shfl_sync(~0u, G0, 8 * me.warp);
    store_shared_f2(own + 8 * me.lane, G0, G1);
    store_shared_f2(own + kChunk * 4 + 8 * me.lane, exp2_fast(start - G0), exp2_fast(start - G1));
    float2 norm{1.f, 1.f};
    if (p.qk_norm) norm = load_shared_f2(at.norms + (me.warp == ChunkRecord::read_q ? kChunk * 4 : 0) + 8 * me.lane);
    FactorPair f{beta, exp2_fast(last)};
    if (me.warp != ChunkRecord::beta) {
        const bool write = me.warp == ChunkRecord::write_k;
        f.pair = {exp2_fast(write ? last - G0 : G0) * norm.x, exp2_fast(write ? last - G1 : G1) * norm.y};
        if (me.warp == ChunkRecord::read_k) f.pair.x *= beta.x, f.pair.y *= beta.y;
        if (me.warp == ChunkRecord::read_q) f.pair.x *= p.scale, f.pair.y *= p.scale;
    }
    __syncwarp();
    return f;
}

__device__ __forceinline__ void store_factors(const SolveAt& at, const Thread& me, const FactorPair& f) {
    store_shared_f2(at.factors + me.warp * kChunk * 4 + 8 * me.lane, f.pair.x, f.pair.y);
    if (me.warp == 0 && me.lane == 0) store_shared_f(at.factors + 4 * kChunk * 4, f.decay);
}

// Columns 16b .. 16b + 15 of this warp's rows of the scores.
__device__ __forceinline__ void store_scores(const SolveAt& at, const Thread& me, int b, const uint32_t* scores) {
    const int matrix = me.lane >> 3;
    store_matrices(at.scores + swizzled(me.warp * 16 + (matrix & 1) * 8 + (me.lane & 7), 2 * b + (matrix >> 1)), scores);
}

__device__ __forceinline__ uint32_t lower_address(const SolveAt& at, int row, int column) { return at.lower + (row * SolveLayout::kLowerStride + column) * 4; }

// Gamma of this warp's rows: Gamma_ts = exp(G_t - G_b) exp(G_b - G_s) with b the warp's first row, both exponents <= 0, but on the diagonal block
// exp(G_t - G_s) outright: 16 exponentials a thread in place of 32 (8 cycles each a warp).
struct RowGates {
    float row[2], minus_beta[2];
    float2 column[3][2];  // of the blocks left of the diagonal, [block][8 columns]
    float diagonal[8];    // [8 columns][row, column]; zero above
};

__device__ __forceinline__ RowGates prepare_rows(const SolveAt& at, const Thread& me) {
    const uint32_t own = at.warps + me.warp * 2 * kChunk * 4;
    const float G[2] = {load_shared_f(own + me.row * 4), load_shared_f(own + (me.row + 8) * 4)};
    const float start = load_shared_f(own + me.warp * 64);
    RowGates g;
    g.minus_beta[0] = -load_shared_f(at.betas + me.row * 4), g.minus_beta[1] = -load_shared_f(at.betas + (me.row + 8) * 4);
#pragma unroll
    for (int b = 0; b < 3; ++b)
#pragma unroll
        for (int j = 0; j < 2; ++j) g.column[b][j] = load_shared_f2(own + (kChunk + 16 * b + 8 * j + me.pair) * 4);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const int column = 8 * j + me.pair;
        const float2 c = load_shared_f2(own + (16 * me.warp + column) * 4);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const bool lower = 16 * me.warp + column + (i & 1) <= me.row + 8 * (i >> 1);
            g.diagonal[4 * j + i] = exp2_fast(lower ? G[i >> 1] - (i & 1 ? c.y : c.x) : -INFINITY);
        }
    }
    g.row[0] = exp2_fast(G[0] - start), g.row[1] = exp2_fast(G[1] - start);
    return g;
}

// Rows of this warp: -N to the lower matrix, scores (16 columns at a time) to the caller; the diagonal block, which the substitution waits for, first.
template <class T, class Put>
__device__ __forceinline__ void gate_rows(const SolveAt& at, const Thread& me, const RowGates& g, const float (&kk)[32], const float (&qk)[32],
                                          Put put_scores) {
#pragma unroll
    for (int b = 0; b < 4; ++b) {
        int warp = me.warp;
        opaque(warp);  // else the four cases are folded into one with a run-time index, and kk, qk go to local memory
        if (b != warp) continue;
        uint32_t scores[4];
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float* k = kk + 8 * b + 4 * j + 2 * i;
                const float* q = qk + 8 * b + 4 * j + 2 * i;
                const float* f = g.diagonal + 4 * j + 2 * i;
                const int column = 16 * b + 8 * j + me.pair, row = me.row + 8 * i;
                store_shared_f2(lower_address(at, row, column), g.minus_beta[i] * k[0] * f[0], g.minus_beta[i] * k[1] * f[1]);
                // the upper part may hold anything times zero
                scores[2 * j + i] = pack(T{}, column > row ? 0.f : q[0] * f[0], column + 1 > row ? 0.f : q[1] * f[1]);
            }
        put_scores(b, scores);
    }
    __syncwarp();
#pragma unroll
    for (int b = 0; b < 3; ++b) {
        if (b >= me.warp) break;
        uint32_t scores[4];
#pragma unroll
        for (int j = 0; j < 2; ++j)
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float* k = kk + 8 * b + 4 * j + 2 * i;
                const float* q = qk + 8 * b + 4 * j + 2 * i;
                const float e0 = g.row[i] * g.column[b][j].x, e1 = g.row[i] * g.column[b][j].y;
                store_shared_f2(lower_address(at, me.row + 8 * i, 16 * b + 8 * j + me.pair), __uint_as_float(round_tf32(g.minus_beta[i] * e0 * k[0])),
                                __uint_as_float(round_tf32(g.minus_beta[i] * e1 * k[1])));
                scores[2 * j + i] = pack(T{}, q[0] * e0, q[1] * e1);
            }
        put_scores(b, scores);
    }
}

// D = (I + N_ww)^-1 in fp32, in place of -N_ww: column lane % 16 a lane, D_i = e_i + sum_{j<i} (-N_ij) D_j.
__device__ __forceinline__ void invert_diagonal(const SolveAt& at, const Thread& me) {
    const int first = 16 * me.warp, column = me.lane & 15;
    float d[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) d[i] = i == column ? 1.f : 0.f;
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
#pragma unroll
        for (int i = j + 1; i < 16; ++i) {
            const float4 n = load_shared_f4(lower_address(at, first + i, first + j));
            d[i] += n.x * d[j];
            if (i > j + 1) d[i] += n.y * d[j + 1];
            if (i > j + 2) d[i] += n.z * d[j + 2];
            if (i > j + 3) d[i] += n.w * d[j + 3];
        }
    }
    __syncwarp();
    const bool high = me.lane >= 16;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        store_shared_f(lower_address(at, first + i + (high ? 8 : 0), first + column), __uint_as_float(round_tf32(high ? d[i + 8] : d[i])));
}

// sums += y B^T for a 16 x 16 block of the lower matrix; the halves of the inner index go to accumulators of their own, to halve the chain.
struct BlockSum {
    float half[2][2][4];  // [inner half][8 tokens][fragment]
};
__device__ __forceinline__ void multiply_block(BlockSum& sum, const uint32_t (&y)[8], const SolveAt& at, int row, int column) {
    float2 b[2][2];
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int s = 0; s < 2; ++s) b[n][s] = load_shared_f2(lower_address(at, row + 8 * n, column + 8 * s));
#pragma unroll
    for (int s = 0; s < 2; ++s)
#pragma unroll
        for (int n = 0; n < 2; ++n) mma_tf32(sum.half[s][n], y + 4 * s, b[n][s]);
}
// The accumulator as the next product's left operand.
__device__ __forceinline__ void as_operand(uint32_t (&y)[8], const float (&v)[2][4]) {
#pragma unroll
    for (int s = 0; s < 2; ++s)
        y[4 * s] = round_tf32(v[s][0]), y[4 * s + 1] = round_tf32(v[s][2]), y[4 * s + 2] = round_tf32(v[s][1]), y[4 * s + 3] = round_tf32(v[s][3]);
}

// The block column `J` of strict(A), transposed: Y_i = A_ij^T, from Y_j = D_j^T by Y_i = (sum_{k=j}^{i-1} Y_k (-N_ik)^T) D_i^T. Each Y_k goes into all
// sums below as soon as it is there: they do not depend on one another.
template <class T, int J>
__device__ __forceinline__ void merge_column(const SolveAt& at, const Thread& me) {
    const int r = me.lane >> 2, c = me.pair, matrix = me.lane >> 3;
    auto store_block = [&](int i, const float(&v)[2][4]) {
        const uint32_t rows[4] = {pack(T{}, v[0][0], v[0][1]), pack(T{}, v[0][2], v[0][3]), pack(T{}, v[1][0], v[1][1]), pack(T{}, v[1][2], v[1][3])};
        store_matrices_across(at.solve + swizzled(16 * i + (matrix >> 1) * 8 + (me.lane & 7), 2 * J + (matrix & 1)), rows);
    };
    uint32_t y[8];
    {
        float v[2][4];
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int t = 8 * h + c + (i & 1), s = r + 8 * (i >> 1);
                const float x = load_shared_f(lower_address(at, 16 * J + t, 16 * J + s));
                v[h][i] = t > s ? x : 0.f;
                y[4 * h + ((i & 1) << 1 | i >> 1)] = __float_as_uint(x);
            }
        store_block(J, v);
    }
    BlockSum sums[3] = {};  // of blocks 1, 2, 3
#pragma unroll
    for (int k = J; k < 3; ++k) {
#pragma unroll
        for (int i = k + 1; i < 4; ++i) multiply_block(sums[i - 1], y, at, 16 * i + r, 16 * k + c);
        // Y_{k+1} = sum_{k+1} D_{k+1}^T
        float v[2][4];
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) v[n][i] = sums[k].half[0][n][i] + sums[k].half[1][n][i];
        as_operand(y, v);
        BlockSum next = {};
        multiply_block(next, y, at, 16 * (k + 1) + r, 16 * (k + 1) + c);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < 4; ++i) v[n][i] = next.half[0][n][i] + next.half[1][n][i];
        store_block(k + 1, v);
        if (k < 2) as_operand(y, v);
    }
}

template <class T>
__device__ __forceinline__ void merge_columns(const SolveAt& at, const Thread& me) {
    if (me.warp == 0)
        merge_column<T, 0>(at, me);
    else if (me.warp == 1)
        merge_column<T, 1>(at, me);
    else if (me.warp == 2)
        merge_column<T, 2>(at, me);
    else
        merge_column<T, 3>(at, me);
}

// Both tiles: blocks above the diagonal, which nothing else writes.
__device__ __forceinline__ void clear_upper(const SolveAt& at, const Thread& me) {
    const int thread = me.warp * 32 + me.lane, row = thread / 2, first = 2 * (row / 16) + 2;  // pieces of 8 columns from here on
    const uint32_t tile = thread % 2 ? at.scores : at.solve;
    for (int piece = first; piece < 8; ++piece) store_shared_zero16(tile + swizzled(row, piece));
}

}  // namespace fqla::sm90
