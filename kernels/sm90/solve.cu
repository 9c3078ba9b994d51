// Solve: everything of a chunk that does not touch the state, for all chunks at once.
//
// For 64 tokens of a row, with G the running sum of the log gates, Gamma_ts = exp(G_t - G_s), and any L2 norm as factors rk, rq:
//     N = strict(diag(beta) (K K^T o rk rk^T o Gamma))       A = (I + N)^-1, unit lower triangular
//     strict(A)                     -> the record's solve tile, 16 bits
//     scale tril(Q K^T o rq rk^T o Gamma)  -> the record's score tile, 16 bits
//     beta, beta E rk, R rk, scale E rq    -> its factors, with E = exp(G), R = exp(G_last - G); and exp(G_last)
// The gate is inside N, so nothing grows with unnormalised keys, and one Gamma serves both tiles.
//
// One warpgroup a block, four blocks an SM. Warp w owns rows 16w .. 16w+15 until the merges, then block column w.
//   step                                  who           hands over by
//   q, k by the copy engine               thread 0      mbarrier
//   K K^T, Q K^T                          wgmma         registers, kept for all heads of the block
//   gates and betas of all heads          all           shared memory, while the copies run
//   sums of a head's, Gamma in factors    each warp     its own shared memory
//   -N as f32 (tf32 off the diagonal)     rows          block barrier
//   16 x 16 diagonal inverses             warp, fp32 substitution, a column a lane
//   A_ij = D_i sum_k (-N_ik) A_kj         block columns, tf32, down the column in registers (the accumulator of one product is the
//                                         left operand of the next when the inner index is read in the order 0 2 4 6 1 3 5 7)
//   tiles and factors to the workspace    thread 0      block barrier, bulk stores
#include "sm90_params.h"
#include "chunk.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace fqla::sm90 {
namespace {

using L = SolveLayout;

constexpr float kLog2e = 1.4426950408889634f;

struct Thread {
    int warp, lane;
    int row, pair;  // of accumulators: rows `row` and `row` + 8, columns 8j + `pair` and the next
};

__device__ __forceinline__ uint32_t round_tf32(float x) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
}

__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t* a, float2 b) {
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(__float_as_uint(b.x)), "r"(__float_as_uint(b.y)));
}

// log2 of the decay of one token; comparisons that let NaN through.
__device__ __forceinline__ float log2_gate(const Sm90SolveParams& p, float x, int head) {
    if (p.gate_form == FLASHQLA_GATE_LINEAR) x = log2f(x);
    else if (p.gate_form == FLASHQLA_GATE_RAW) {
        const float a = x + load_scalar(p.dt_bias, head * p.dt_bias.head);
        x = -expf(load_scalar(p.a_log, head * p.a_log.head)) * (a > 20.f ? a : log1pf(expf(a))) * kLog2e;
    } else x *= kLog2e;
    const float least = static_cast<float>(kMinLogGate) * kLog2e;
    return x < least ? least : x;
}

__device__ __forceinline__ float beta_of(const Sm90SolveParams& p, float x) {
    return p.beta_scale * (p.beta_form == FLASHQLA_BETA_LOGIT ? 1.f / (1.f + expf(-x)) : x);
}

// Gates and betas of all heads of the block to shared memory: half of the threads the ones, half the others, a token each. All loads are on
// their way before the first is looked at. Tokens behind the row's end get zeros.
__device__ __forceinline__ void resolve_tokens(const Sm90SolveParams& p, uint32_t smem, const ChunkPlace& at, int first_head, int head_step) {
    const int token = threadIdx.x % kChunk;
    const bool is_beta = threadIdx.x >= kChunk;
    const View& x = is_beta ? p.beta : p.gate;
    const int64_t t = at.chunk * kChunk + token;
    const bool inside = t < at.tokens.length;
    const int64_t from = element_offset(x, at.row, at.tokens, inside ? t : 0, first_head), step = head_step * x.head;
    const uint32_t to = smem + L::kTokens + (is_beta ? L::kMaxHeads * kChunk * 4 : 0) + token * 4;
    float raw[L::kMaxHeads];
    if (x.dtype == FLASHQLA_DTYPE_F32) {
#pragma unroll
        for (int i = 0; i < L::kMaxHeads; ++i)
            if (i < p.heads_per_block) raw[i] = static_cast<const float*>(x.data)[from + i * step];
    } else {
#pragma unroll
        for (int i = 0; i < L::kMaxHeads; ++i)
            if (i < p.heads_per_block) raw[i] = load_scalar(x, from + i * step);
    }
#pragma unroll
    for (int i = 0; i < L::kMaxHeads; ++i)
        if (i < p.heads_per_block) store_shared_f(to + i * kChunk * 4, raw[i]);
#pragma unroll 1
    for (int i = 0; i < p.heads_per_block; ++i) {
        const float r = load_shared_f(to + i * kChunk * 4);
        const float y = is_beta ? beta_of(p, r) : log2_gate(p, r, first_head + i * head_step);
        store_shared_f(to + i * kChunk * 4, inside ? y : 0.f);
    }
}

// 1/sqrt(sum x^2 + eps) of the 64 rows of k and q: a thread takes half of the rows' columns of each.
__device__ __forceinline__ void measure_norms(uint32_t smem, float eps, int thread, auto dtype) {
    const int row = thread / 2, half = thread % 2;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
        const uint32_t tile = smem + (which ? L::kQ : L::kK) + half * kTileBytes;
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
        if (half == 0) store_shared_f(smem + L::kNorms + (which * kChunk + row) * 4, rsqrtf(sum + eps));
    }
}

// kk <- K K^T, qk <- Q K^T, with norms and scale; rows behind the row's end become zero.
template <class T>
__device__ __forceinline__ void multiply_keys(const Sm90SolveParams& p, uint32_t smem, const Thread& me, int valid, float (&kk)[32], float (&qk)[32]) {
    pin(kk), pin(qk), mma_begin();
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint64_t k = tile_descriptor(smem + L::kK + (s >> 2) * kTileBytes + (s & 3) * 32);
        mma_shared_n64(T{}, kk, k, k, s > 0);
    }
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint32_t at = (s >> 2) * kTileBytes + (s & 3) * 32;
        mma_shared_n64(T{}, qk, tile_descriptor(smem + L::kQ + at), tile_descriptor(smem + L::kK + at), s > 0);
    }
    mma_commit();
    if (p.qk_norm) measure_norms(smem, p.eps, threadIdx.x, T{});
    mma_wait<0>(), pin(kk), pin(qk);
    __syncthreads();
    float q_row[2] = {p.scale, p.scale}, k_row[2] = {1.f, 1.f};
    if (p.qk_norm) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            k_row[i] = load_shared_f(smem + L::kNorms + (me.row + 8 * i) * 4);
            q_row[i] *= load_shared_f(smem + L::kNorms + (kChunk + me.row + 8 * i) * 4);
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const float2 c = load_shared_f2(smem + L::kNorms + (8 * j + me.pair) * 4);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                kk[4 * j + i] *= k_row[i >> 1] * (i & 1 ? c.y : c.x);
                qk[4 * j + i] *= i & 1 ? c.y : c.x;
            }
        }
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const int half = (i >> 1) & 1;
        const bool inside = me.row + 8 * half < valid;
        qk[i] = inside ? qk[i] * q_row[half] : 0.f;
        kk[i] = inside ? kk[i] : 0.f;
    }
}

// Sums of a head's gates and exp(G_start - G_s) for the rows of this warp, in the warp's own memory; the record's factors on the side.
__device__ __forceinline__ void sum_gates(const Sm90SolveParams& p, uint32_t smem, const Thread& me, int i) {
    const uint32_t own = smem + L::kWarp + me.warp * 2 * kChunk * 4;
    const float2 gate = load_shared_f2(smem + L::kTokens + i * kChunk * 4 + 8 * me.lane);
    const float2 beta = load_shared_f2(smem + L::kTokens + (L::kMaxHeads + i) * kChunk * 4 + 8 * me.lane);
    float sum = gate.x + gate.y;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float before = __shfl_up_sync(~0u, sum, d);
        if (me.lane >= d) sum += before;
    }
    // G of the first of two tokens is the sum up to the pair before, plus its own gate: never a difference.
    float earlier = __shfl_up_sync(~0u, sum, 1);
    if (me.lane == 0) earlier = 0.f;
    const float G0 = earlier + gate.x, G1 = sum;
    const float last = __shfl_sync(~0u, G1, 31), start = __shfl_sync(~0u, G0, 8 * me.warp);
    store_shared_f2(own + 8 * me.lane, G0, G1);
    store_shared_f2(own + kChunk * 4 + 8 * me.lane, exp2_fast(start - G0), exp2_fast(start - G1));
    float2 norm{1.f, 1.f};
    if (p.qk_norm) norm = load_shared_f2(smem + L::kNorms + (me.warp == ChunkRecord::read_q ? kChunk * 4 : 0) + 8 * me.lane);
    float2 f = beta;
    if (me.warp != ChunkRecord::beta) {
        const bool write = me.warp == ChunkRecord::write_k;
        f = {exp2_fast(write ? last - G0 : G0) * norm.x, exp2_fast(write ? last - G1 : G1) * norm.y};
        if (me.warp == ChunkRecord::read_k) f.x *= beta.x, f.y *= beta.y;
        if (me.warp == ChunkRecord::read_q) f.x *= p.scale, f.y *= p.scale;
    }
    store_shared_f2(smem + L::kFactors + me.warp * kChunk * 4 + 8 * me.lane, f.x, f.y);
    if (threadIdx.x == 0) store_shared_f(smem + L::kFactors + 4 * kChunk * 4, exp2_fast(last));
    __syncwarp();
}

__device__ __forceinline__ uint32_t lower_address(uint32_t smem, int row, int column) { return smem + L::kLower + (row * L::kLowerStride + column) * 4; }

// Rows of this warp: -N to the lower matrix, scores to their tile.  Gamma_ts = exp(G_t - G_b) exp(G_b - G_s) with b the warp's first row, both
// exponents <= 0, but on the diagonal block exp(G_t - G_s) outright: 16 exponentials a thread in place of 32 (8 cycles each a warp).
template <class T>
__device__ __forceinline__ void gate_rows(uint32_t smem, const Thread& me, int head, const float (&kk)[32], const float (&qk)[32]) {
    const uint32_t own = smem + L::kWarp + me.warp * 2 * kChunk * 4, betas = smem + L::kTokens + (L::kMaxHeads + head) * kChunk * 4;
    const float G[2] = {load_shared_f(own + me.row * 4), load_shared_f(own + (me.row + 8) * 4)};
    const float start = load_shared_f(own + me.warp * 64);
    const float r[2] = {exp2_fast(G[0] - start), exp2_fast(G[1] - start)};
    const float minus_beta[2] = {-load_shared_f(betas + me.row * 4), -load_shared_f(betas + (me.row + 8) * 4)};
    const int matrix = me.lane >> 3;
    const uint32_t tile_row = me.warp * 16 + (matrix & 1) * 8 + (me.lane & 7);
#pragma unroll
    for (int b = 0; b < 4; ++b) {
        if (b > me.warp) break;
        float e[8];  // of the 16 columns of block b: [column tile][row, column]
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int column = 16 * b + 8 * j + me.pair;
            if (b < me.warp) {
                const float2 c = load_shared_f2(own + (kChunk + column) * 4);
                e[4 * j] = r[0] * c.x, e[4 * j + 1] = r[0] * c.y, e[4 * j + 2] = r[1] * c.x, e[4 * j + 3] = r[1] * c.y;
            } else {
                const float2 g = load_shared_f2(own + column * 4);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const bool lower = column + (i & 1) <= me.row + 8 * (i >> 1);
                    e[4 * j + i] = exp2_fast(lower ? G[i >> 1] - (i & 1 ? g.y : g.x) : -INFINITY);
                }
            }
        }
        uint32_t scores[4];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float* k = kk + 8 * b + 4 * j;
            const float* q = qk + 8 * b + 4 * j;
            const float* f = e + 4 * j;
            const int column = 16 * b + 8 * j + me.pair;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                float n0 = minus_beta[i] * k[2 * i] * f[2 * i], n1 = minus_beta[i] * k[2 * i + 1] * f[2 * i + 1];
                float s0 = q[2 * i] * f[2 * i], s1 = q[2 * i + 1] * f[2 * i + 1];
                if (b < me.warp) n0 = __uint_as_float(round_tf32(n0)), n1 = __uint_as_float(round_tf32(n1));
                else {  // the upper part may hold anything times zero
                    const int row = me.row + 8 * i;
                    if (column > row) s0 = 0.f;
                    if (column + 1 > row) s1 = 0.f;
                }
                store_shared_f2(lower_address(smem, me.row + 8 * i, column), n0, n1);
                scores[2 * j + i] = pack(T{}, s0, s1);
            }
        }
        store_matrices(smem + L::kScores + swizzled(tile_row, 2 * b + (matrix >> 1)), scores);
    }
    __syncwarp();
}

// D = (I + N_ww)^-1 in fp32, in place of -N_ww: column lane % 16 a lane, D_i = e_i + sum_{j<i} (-N_ij) D_j.
__device__ __forceinline__ void invert_diagonal(uint32_t smem, const Thread& me) {
    const int first = 16 * me.warp, column = me.lane & 15;
    float d[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) d[i] = i == column ? 1.f : 0.f;
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
#pragma unroll
        for (int i = j + 1; i < 16; ++i) {
            const float4 n = load_shared_f4(lower_address(smem, first + i, first + j));
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
        store_shared_f(lower_address(smem, first + i + (high ? 8 : 0), first + column), __uint_as_float(round_tf32(high ? d[i + 8] : d[i])));
}

// The block column `column` of strict(A), transposed: Y_i = A_ij^T, from Y_j = D_j^T by Y_i = (sum_{k=j}^{i-1} Y_k (-N_ik)^T) D_i^T.
template <class T>
__device__ __forceinline__ void merge_column(uint32_t smem, const Thread& me, int column) {
    const int r = me.lane >> 2, c = me.pair, matrix = me.lane >> 3;
    uint32_t y[3][8];  // Y_k as left operands: [k][8 tokens of the block][s, s+8 of token c; of token c+1]
    auto store_block = [&](int i, const float (&v)[8]) {  // v: [8 tokens][s: c, c+1; s+8: c, c+1]
        const uint32_t rows[4] = {pack(T{}, v[0], v[1]), pack(T{}, v[2], v[3]), pack(T{}, v[4], v[5]), pack(T{}, v[6], v[7])};
        store_matrices_across(smem + L::kSolve + swizzled(16 * i + (matrix >> 1) * 8 + (me.lane & 7), 2 * column + (matrix & 1)), rows);
    };
    {
        float v[8];
        uint32_t d[8];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int t = 8 * h + c + (i & 1), s = r + 8 * (i >> 1);
                const float x = load_shared_f(lower_address(smem, 16 * column + t, 16 * column + s));
                v[4 * h + i] = t > s ? x : 0.f;
                d[4 * h + ((i & 1) << 1 | i >> 1)] = __float_as_uint(x);
            }
        }
        store_block(column, v);
#pragma unroll
        for (int k = 0; k < 3; ++k)
#pragma unroll
            for (int i = 0; i < 8; ++i) y[k][i] = d[i];  // only y[column] is read before it is set anew
    }
#pragma unroll
    for (int i = 1; i < 4; ++i) {
        if (i <= column) continue;
        float sum[2][4] = {};
#pragma unroll
        for (int k = 0; k < i; ++k) {
            if (k < column) continue;
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int s = 0; s < 2; ++s) mma_tf32(sum[n], y[k] + 4 * s, load_shared_f2(lower_address(smem, 16 * i + 8 * n + r, 16 * k + 8 * s + c)));
        }
        uint32_t left[8];
#pragma unroll
        for (int s = 0; s < 2; ++s) {
            left[4 * s] = round_tf32(sum[s][0]), left[4 * s + 1] = round_tf32(sum[s][2]);
            left[4 * s + 2] = round_tf32(sum[s][1]), left[4 * s + 3] = round_tf32(sum[s][3]);
        }
        float v[2][4] = {};
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int s = 0; s < 2; ++s) mma_tf32(v[n], left + 4 * s, load_shared_f2(lower_address(smem, 16 * i + 8 * n + r, 16 * i + 8 * s + c)));
        const float flat[8] = {v[0][0], v[0][1], v[0][2], v[0][3], v[1][0], v[1][1], v[1][2], v[1][3]};
        store_block(i, flat);
        if (i < 3) {
#pragma unroll
            for (int s = 0; s < 2; ++s) {
                y[i][4 * s] = round_tf32(v[s][0]), y[i][4 * s + 1] = round_tf32(v[s][2]);
                y[i][4 * s + 2] = round_tf32(v[s][1]), y[i][4 * s + 3] = round_tf32(v[s][3]);
            }
        }
    }
}

// Both tiles: blocks above the diagonal, which nothing else writes.
__device__ __forceinline__ void clear_upper(uint32_t smem) {
    const int row = threadIdx.x / 2, first = 2 * (row / 16) + 2;  // pieces of 8 columns from here on
    const uint32_t tile = smem + (threadIdx.x % 2 ? L::kScores : L::kSolve);
    for (int piece = first; piece < 8; ++piece) store_shared_zero16(tile + swizzled(row, piece));
}

template <class T>
__device__ __forceinline__ void solve(const Sm90SolveParams& p) {
    extern __shared__ __align__(1024) char memory[];
    const uint32_t smem = shared_address(memory), loaded = smem + L::kBarrier;
    const int thread = threadIdx.x;
    const Thread me{thread / 32, thread % 32, thread / 32 * 16 + thread % 32 / 4, 2 * (thread % 4)};
    const int per_key = p.value_heads / p.key_heads, groups = per_key / p.heads_per_block;
    const int items = p.key_heads * groups;
    const int64_t slot = blockIdx.x / items;
    const int item = static_cast<int>(blockIdx.x - slot * items), key_head = item / groups, first = item % groups * p.heads_per_block;
    if (thread == 0) {
        barrier_init(loaded, 1);
        barrier_init_fence();
        prefetch_map(p.q), prefetch_map(p.k);
    }
    let_successor_start();
    const ChunkPlace at = place_of(p.rows, slot);
    if (at.row < 0) return;
    const int64_t token = at.chunk * kChunk;
    if (thread == 0) {
        const int t = static_cast<int>(token + at.tokens.begin), n = p.rows.offsets ? 0 : static_cast<int>(at.row);
        barrier_expect(loaded, 4 * kTileBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            load_box(smem + L::kK + half * kTileBytes, p.k, 64 * half, key_head, t, n, loaded);
            load_box(smem + L::kQ + half * kTileBytes, p.q, 64 * half, key_head, t, n, loaded);
        }
    }
    auto head_of = [&](int i) { return p.head_map == FLASHQLA_HEADS_TILED ? key_head + (first + i) * p.key_heads : key_head * per_key + first + i; };
    resolve_tokens(p, smem, at, head_of(0), p.head_map == FLASHQLA_HEADS_TILED ? p.key_heads : 1);
    __syncthreads();
    barrier_wait(loaded, 0);

    float kk[32] = {}, qk[32] = {};
    const int64_t left = at.tokens.length - token;
    multiply_keys<T>(p, smem, me, left < kChunk ? static_cast<int>(left) : kChunk, kk, qk);
    clear_upper(smem);
#pragma unroll 1
    for (int i = 0; i < p.heads_per_block; ++i) {
        const int head = head_of(i);
        if (i > 0) {  // the head before has left the tiles
            if (thread == 0) wait_stores_read();
            __syncthreads();
        }
        sum_gates(p, smem, me, i);
        gate_rows<T>(smem, me, i, kk, qk);
        invert_diagonal(smem, me);
        __syncthreads();
        merge_column<T>(smem, me, me.warp);
        fence_to_async();
        __syncthreads();
        if (thread == 0) {
            char* record = static_cast<char*>(p.records) + (slot * p.value_heads + head) * ChunkRecord::kBytes;
            store_bytes(record + ChunkRecord::kSolve, smem + L::kSolve, kTileBytes);
            store_bytes(record + ChunkRecord::kScores, smem + L::kScores, kTileBytes);
            store_bytes(record + ChunkRecord::kFactors, smem + L::kFactors, ChunkRecord::kFactorBytes);
            commit_stores();
        }
    }
    if (thread == 0) wait_stores_read();
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::SolveLayout::kThreads, 4) gdn_solve_bf16(const __grid_constant__ fqla::Sm90SolveParams p) {
    fqla::sm90::solve<fqla::sm90::Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(fqla::SolveLayout::kThreads, 4) gdn_solve_f16(const __grid_constant__ fqla::Sm90SolveParams p) {
    fqla::sm90::solve<fqla::sm90::F16>(p);
}
