// Gates and inverse of a chunk with half-precision merges, in two roles that work a chunk apart: a warpgroup makes -N and the scores from the
// products, two warps invert. Only for keys that are bounded (L2 norm, or beta |k|^2 <= 2): f16 has tf32's mantissa, not its range.
//
// Warp w of the gate warpgroup owns rows 16w .. 16w + 15 of K K^T and of K Q^T. Of the first it needs what lies left of the diagonal, of the
// second, which is the scores' transpose, what lies right of it: five 16 x 16 blocks for every warp. Off the diagonal block
//     Gamma_ts = exp(G_t - G_b) exp(G_b - G_s)
// with b the warp's first token for N and its last for the scores, so that both exponents are <= 0 and one table of 64 column factors serves both.
#pragma once
#include "solve_steps.cuh"

namespace fqla::sm90 {

// Where a lane's row of 16 bytes stands when a warp moves the four 8 x 8 matrices of a tile's 16 x 16 block (t, s): in order of rows first, or of columns
// first. A tile's swizzle is an exclusive or on the bits that s moves.
struct BlockLane {
    uint32_t by_row, by_column;
};
__device__ __forceinline__ BlockLane block_lane(int lane) {
    const int low = lane >> 3 & 1, high = lane >> 4;
    return {swizzled(high * 8 + (lane & 7), low), swizzled(low * 8 + (lane & 7), high)};
}
__device__ __forceinline__ uint32_t block_at(uint32_t tile, uint32_t lane, int t, int s) { return tile + (lane ^ s << 5) + t * 2048; }

// Where a chunk's gates work in shared memory.
struct GateAt {
    uint32_t lower, diagonal;  // f16 tile, f32 diagonal blocks
    uint32_t scores;           // of the record
    uint32_t tables;
    BlockLane rows;

    __device__ __forceinline__ uint32_t table(WideLayout::Table which, int token) const { return tables + (which * kChunk + token) * 4; }
};

// Two tokens of a lane, 2 lane and the next: log2 of the decays, betas.
struct TokenPair {
    float2 gate, beta;
};

struct RecordFactors {
    float2 beta, read_k, write_k, read_q;
    float decay;
};

// The math role has the state divided by 2^(sum + lost). `lost` is what rounding took from the sum: left out, it would add up over a long row.
struct StateScale {
    float sum, lost;
};
constexpr float kMostScale = 64;

// Sums of the gates and all factors that follow from them, by one warp; the record's factors are handed back. The state's scale takes up the chunk's
// decay, and the state's registers are left alone (`decay` 1), while it stays within 2^kMostScale and `plain` does not ask for the state itself.
__device__ __forceinline__ RecordFactors make_tables(const SolveForms& p, uint32_t tables, int lane, const TokenPair& x, StateScale& scale, bool plain) {
    using W = WideLayout;
    auto table = [&](int which) { return tables + which * kChunk * 4 + 8 * lane; };
    const float2 gates = sum_pairs(x.gate, lane);
    const float G0 = gates.x, G1 = gates.y;
    float2 rk{1.f, 1.f}, rq{p.scale, p.scale};
    if (p.qk_norm) {
        rk = load_shared_f2(table(W::norm_k)), rq = load_shared_f2(table(W::norm_q));
        rq.x *= p.scale, rq.y *= p.scale;
    }
    store_shared_f2(table(W::norm_k), rk.x, rk.y), store_shared_f2(table(W::norm_q), rq.x, rq.y);
    store_shared_f2(table(W::sums), G0, G1);
    const float first = __shfl_sync(~0u, G0, lane & ~7), last = __shfl_sync(~0u, G1, lane | 7);
    const float n0 = -x.beta.x * rk.x, n1 = -x.beta.y * rk.y;
    store_shared_f2(table(W::minus_beta), n0, n1);
    store_shared_f2(table(W::row_n), n0 * exp2_fast(G0 - first), n1 * exp2_fast(G1 - first));
    store_shared_f2(table(W::row_p), rk.x * exp2_fast(last - G0), rk.y * exp2_fast(last - G1));
#pragma unroll
    for (int w = 0; w < 4; ++w) {  // left of that warp's diagonal block a column of N, right of it one of the scores
        const float begin = __shfl_sync(~0u, G0, 8 * w), end = __shfl_sync(~0u, G1, 8 * w + 7);
        const bool left = lane < 8 * w;
        store_shared_f2(table(W::columns + w), exp2_fast(left ? begin - G0 : G0 - end) * (left ? rk.x : rq.x),
                        exp2_fast(left ? begin - G1 : G1 - end) * (left ? rk.y : rq.y));
    }
    const float end = __shfl_sync(~0u, G1, 31), e0 = exp2_fast(G0 + scale.sum), e1 = exp2_fast(G1 + scale.sum);
    const float step = end + scale.lost, now = scale.sum + step;
    const bool keep = !plain && fabsf(now) < kMostScale;  // not for NaN
    const float after = keep ? now : 0.f;
    scale = {after, step - (now - scale.sum)};
    return {x.beta,
            {-n0 * e0, -n1 * e1},
            {rk.x * exp2_fast(end - G0 - after), rk.y * exp2_fast(end - G1 - after)},
            {rq.x * e0, rq.y * e1},
            keep ? 1.f : exp2_fast(now)};
}

// The eight values of this warp's diagonal block, by selection: a branch for each warp would be four times the code.
__device__ __forceinline__ void diagonal_of(float (&r)[8], const float (&d)[32], int warp) {
#pragma unroll
    for (int i = 0; i < 8; ++i) r[i] = warp < 2 ? (warp == 0 ? d[i] : d[8 + i]) : (warp == 2 ? d[16 + i] : d[24 + i]);
}

// exp of minus the distance of two gate sums on this warp's diagonal block; [8 columns][row, column].
__device__ __forceinline__ void diagonal_gates(float (&e)[8], const GateAt& at, const Thread& me) {
    const float G[2] = {load_shared_f(at.table(WideLayout::sums, me.row)), load_shared_f(at.table(WideLayout::sums, me.row + 8))};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const int column = 16 * me.warp + 8 * j + me.pair;
        const float2 c = load_shared_f2(at.table(WideLayout::sums, column));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float difference = G[i >> 1] - (i & 1 ? c.y : c.x);
            e[4 * j + i] = exp2_fast(me.row + 8 * (i >> 1) > column + (i & 1) ? difference : -difference);
        }
    }
}

// -N of this warp's rows: f32 on the diagonal block, f16 left of it.
__device__ __forceinline__ void gate_lower(const GateAt& at, const Thread& me, const float (&e)[8], const float (&kk)[32]) {
    using W = WideLayout;
    float block[8];
    diagonal_of(block, kk, me.warp);
    const float beta[2] = {load_shared_f(at.table(W::minus_beta, me.row)), load_shared_f(at.table(W::minus_beta, me.row + 8))};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const float2 rk = load_shared_f2(at.table(W::norm_k, 16 * me.warp + 8 * j + me.pair));
#pragma unroll
        for (int i = 0; i < 2; ++i)
            store_shared_f2(at.diagonal + me.warp * W::kDiagonalBlock + ((me.row + 8 * i - 16 * me.warp) * W::kDiagonalStride + 8 * j + me.pair) * 4,
                            beta[i] * e[4 * j + 2 * i] * (block[4 * j + 2 * i] * rk.x), beta[i] * e[4 * j + 2 * i + 1] * (block[4 * j + 2 * i + 1] * rk.y));
    }
    const float row[2] = {load_shared_f(at.table(W::row_n, me.row)), load_shared_f(at.table(W::row_n, me.row + 8))};
#pragma unroll
    for (int b = 0; b < 3; ++b) {
        if (b >= me.warp) break;
        uint32_t n[4];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float2 c = load_shared_f2(at.table(W::columns, me.warp * kChunk + 16 * b + 8 * j + me.pair));
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float* k = kk + 8 * b + 4 * j + 2 * i;
                n[2 * j + i] = pack(F16{}, k[0] * (row[i] * c.x), k[1] * (row[i] * c.y));
            }
        }
        store_matrices(block_at(at.lower, at.rows.by_column, me.warp, b), n);
    }
}

// Scores of this warp's columns, from their transpose.
template <class T>
__device__ __forceinline__ void gate_scores(const GateAt& at, const Thread& me, const float (&e)[8], const float (&kq)[32]) {
    using W = WideLayout;
    uint32_t r[4];
    {
        float block[8];
        diagonal_of(block, kq, me.warp);
        const float rk[2] = {load_shared_f(at.table(W::norm_k, me.row)), load_shared_f(at.table(W::norm_k, me.row + 8))};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int column = 16 * me.warp + 8 * j + me.pair;
            const float2 rq = load_shared_f2(at.table(W::norm_q, column));
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const int at_diagonal = me.row + 8 * i - column;  // the value's column is the token's that reads
                r[2 * j + i] = pack(T{}, at_diagonal > 0 ? 0.f : block[4 * j + 2 * i] * (rk[i] * e[4 * j + 2 * i] * rq.x),
                                    at_diagonal > 1 ? 0.f : block[4 * j + 2 * i + 1] * (rk[i] * e[4 * j + 2 * i + 1] * rq.y));
            }
        }
        store_matrices_across(block_at(at.scores, at.rows.by_row, me.warp, me.warp), r);
    }
    const float row[2] = {load_shared_f(at.table(W::row_p, me.row)), load_shared_f(at.table(W::row_p, me.row + 8))};
#pragma unroll
    for (int b = 3; b > 0; --b) {
        if (b <= me.warp) break;
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float2 c = load_shared_f2(at.table(W::columns, me.warp * kChunk + 16 * b + 8 * j + me.pair));
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const float* q = kq + 8 * b + 4 * j + 2 * i;
                r[2 * j + i] = pack(T{}, q[0] * (row[i] * c.x), q[1] * (row[i] * c.y));
            }
        }
        store_matrices_across(block_at(at.scores, at.rows.by_row, b, me.warp), r);
    }
}

__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

struct Inverter {
    int half, lane;  // half: which of the two warps
    BlockLane rows;
    uint32_t lower, diagonal, solve;
};

// Diagonal blocks 2 half and the next: D = (I + N_bb)^-1 in fp32, a column a lane, D_i = e_i + sum_{j<i} (-N_ij) D_j; its transpose in f16 to the tile.
__device__ __forceinline__ void invert_diagonal_blocks(const Inverter& x) {
    const int block = 2 * x.half + (x.lane >> 4), column = x.lane & 15;
    const uint32_t from = x.diagonal + block * WideLayout::kDiagonalBlock;
    float d[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) d[i] = i == column ? 1.f : 0.f;
#pragma unroll
    for (int j = 0; j < 16; j += 4) {
#pragma unroll
        for (int i = j + 1; i < 16; ++i) {
            const float4 n = load_shared_f4(from + (i * WideLayout::kDiagonalStride + j) * 4);
            d[i] += n.x * d[j];
            if (i > j + 1) d[i] += n.y * d[j + 1];
            if (i > j + 2) d[i] += n.z * d[j + 2];
            if (i > j + 3) d[i] += n.w * d[j + 3];
        }
    }
    uint32_t r[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) r[i] = pack(F16{}, d[2 * i], d[2 * i + 1]);
    const int row = 16 * block + column;
    store_shared_u4(x.lower + swizzled(row, 2 * block), {r[0], r[1], r[2], r[3]});
    store_shared_u4(x.lower + swizzled(row, 2 * block + 1), {r[4], r[5], r[6], r[7]});
}

// Block column J of strict(A), transposed: Y_i = A_iJ^T = (sum_{k=J}^{i-1} Y_k (-N_ik)^T) D_i^T from Y_J = D_J^T. Each Y_k goes into all sums below as
// soon as it is there.
template <class T, int J>
__device__ __forceinline__ void merge_block_column(const Inverter& x) {
    uint32_t y[4];
    load_matrices(y, block_at(x.lower, x.rows.by_column, J, J));
    {
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 d = unpack(F16{}, y[i]);
            const int s = x.lane / 4 + 8 * (i & 1), t = 2 * (x.lane & 3) + 8 * (i >> 1);
            r[i] = pack(T{}, t > s ? d.x : 0.f, t + 1 > s ? d.y : 0.f);
        }
        store_matrices_across(block_at(x.solve, x.rows.by_row, J, J), r);
    }
    float sum[3][2][4] = {};  // of blocks 1, 2, 3
#pragma unroll
    for (int k = J; k < 3; ++k) {
        uint32_t b[4];
#pragma unroll
        for (int i = k + 1; i < 4; ++i) {
            load_matrices(b, block_at(x.lower, x.rows.by_row, i, k));
            mma_f16(sum[i - 1][0], y, b[0], b[1]), mma_f16(sum[i - 1][1], y, b[2], b[3]);
        }
        load_matrices_across(b, block_at(x.lower, x.rows.by_column, k + 1, k + 1));
        const float(&s)[2][4] = sum[k];
        const uint32_t left[4] = {pack(F16{}, s[0][0], s[0][1]), pack(F16{}, s[0][2], s[0][3]), pack(F16{}, s[1][0], s[1][1]), pack(F16{}, s[1][2], s[1][3])};
        float next[2][4] = {};
        mma_f16(next[0], left, b[0], b[1]), mma_f16(next[1], left, b[2], b[3]);
        uint32_t r[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* v = next[i >> 1] + 2 * (i & 1);
            r[i] = pack(T{}, v[0], v[1]);
            y[i] = pack(F16{}, v[0], v[1]);
        }
        store_matrices_across(block_at(x.solve, x.rows.by_row, k + 1, J), r);
    }
}

}  // namespace fqla::sm90
