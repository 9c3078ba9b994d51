// Gates and inverse of a chunk with half-precision merges, in two roles that work on successive chunks: a warpgroup makes -N and the scores from the
// products, two or three warps invert. Only for keys that are bounded (L2 norm, or beta |k|^2 <= 2): f16 has tf32's mantissa, not its range.
//
// Warp w of the gate warpgroup owns rows 16w .. 16w + 15 of K K^T and of K Q^T. Of the first it needs what lies left of the diagonal, of the
// second, which is the scores' transpose, what lies right of it: five 16 x 16 blocks for every warp. Off the diagonal block
//     Gamma_ts = exp(G_t - G_b) exp(G_b - G_s)
// with b the warp's first token for N and its last for the scores, so that both exponents are <= 0 and one table of 64 column factors serves both.
#pragma once
#include "mma.cuh"
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

// Takes up a chunk's decay, the log2 of which is `end`, while the scale stays within 2^kMostScale and `plain` does not ask for the state itself. The factor
// that is left for the state's registers: 1 where it is taken up.
__device__ __forceinline__ float take_up(StateScale& scale, float end, bool plain) {
    const float step = end + scale.lost, now = scale.sum + step;
    const bool keep = !plain && fabsf(now) < kMostScale;  // not for NaN
    const float after = keep ? now : 0.f;
    scale = {after, step - (now - scale.sum)};
    return keep ? 1.f : exp2_fast(now);
}

// Sums of the gates and all factors that follow from them, by one warp; the record's factors are handed back.
__device__ __forceinline__ RecordFactors make_tables(const SolveForms& p, uint32_t tables, uint32_t norms, int lane, const TokenPair& x, StateScale& scale,
                                                     bool plain) {
    using W = WideLayout;
    auto table = [&](int which) { return tables + which * kChunk * 4 + 8 * lane; };
    const float2 gates = sum_pairs(x.gate, lane);
    const float G0 = gates.x, G1 = gates.y;
    float2 rk{1.f, 1.f}, rq{p.scale, p.scale};
    if (p.qk_norm) {
        rk = load_shared_f2(norms + 8 * lane), rq = load_shared_f2(norms + kChunk * 4 + 8 * lane);
        rq.x *= p.scale, rq.y *= p.scale;
    }
    store_shared_f2(table(W::norm_k), rk.x, rk.y), store_shared_f2(table(W::norm_q), rq.x, rq.y);
    store_shared_f2(table(W::sums), G0, G1);
    const float first = __shfl_sync(~0u, G0, lane & ~7), last = __shfl_sync(~0u, G1, lane | 7);
    const float n0 = -x.beta.x * rk.x, n1 = -x.beta.y * rk.y;
    store_shared_f2(table(W::minus_beta), n0, n1);
    store_shared_f2(table(W::row_n), n0 * exp2_fast(G0 - first), n1 * exp2_fast(G1 - first));
    store_shared_f2(table(W::row_p), rk.x * exp2_fast(last - G0), rk.y * exp2_fast(last - G1));
#pragma unroll 1
    for (int w = 0; w < 4; ++w) {  // left of that warp's diagonal block a column of N, right of it one of the scores
        const float begin = __shfl_sync(~0u, G0, 8 * w), end = __shfl_sync(~0u, G1, 8 * w + 7);
        const bool left = lane < 8 * w;
        store_shared_f2(table(W::columns + w), exp2_fast(left ? begin - G0 : G0 - end) * (left ? rk.x : rq.x),
                        exp2_fast(left ? begin - G1 : G1 - end) * (left ? rk.y : rq.y));
    }
    const float end = __shfl_sync(~0u, G1, 31), e0 = exp2_fast(G0 + scale.sum), e1 = exp2_fast(G1 + scale.sum);
    const float decay = take_up(scale, end, plain);
    return {x.beta, {-n0 * e0, -n1 * e1}, {rk.x * exp2_fast(end - G0 - scale.sum), rk.y * exp2_fast(end - G1 - scale.sum)}, {rq.x * e0, rq.y * e1}, decay};
}

// The sums of x^2 of eight values go on, those of even and of odd ones by themselves.
template <class T>
__device__ __forceinline__ void add_squares(float2& sums, uint4 x) {
    const uint32_t words[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float2 v = unpack(T{}, words[i]);
        sums.x += v.x * v.x, sums.y += v.y * v.y;
    }
}

// 1 / sqrt(sum x^2 + eps) of all tokens of a stage's k and, with two `tensors`, of its q, by a warpgroup: a lane has a row. Tokens from `valid` on get 0. Not
// by products: what a warp multiplies waits in the tensor cores behind the products of warpgroups.
template <class T>
__device__ __forceinline__ void measure_norms(uint32_t stage, int tensors, uint32_t norms, const Thread& me, float eps, int valid) {
    using W = WideLayout;
    const int which = me.warp >> 1, token = (me.warp & 1) * 32 + me.lane;
    if (which >= tensors) return;
    const uint32_t row = stage + (which ? W::kQ : W::kK) + swizzled(token, 0);
    float2 sums{};
    uint4 x[2] = {load_shared_u4(row), load_shared_u4(row + W::kHalf)};
#pragma unroll 1
    for (int piece = 1; piece <= 8; ++piece) {  // a piece is replaced by its row's next one as soon as it has been summed
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            add_squares<T>(sums, x[half]);
            if (piece < 8) x[half] = load_shared_u4((row ^ piece << 4) + half * W::kHalf);
        }
    }
    store_shared_f(norms + (which * kChunk + token) * 4, token < valid ? rsqrtf(sums.x + sums.y + eps) : 0.f);
}

// d = A B^T of two tiles of 64 tokens in the two halves of K.
template <class T>
__device__ __forceinline__ void begin_product(float (&d)[32], uint32_t a, uint32_t b) {
    mma_begin();
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint32_t offset = (s >> 2) * WideLayout::kHalf + (s & 3) * 32;
        if (s == 0)
            mma_shared_n64_fresh(T{}, d, tile_descriptor_at(a, 0), tile_descriptor_at(b, 0));
        else
            mma_shared_n64(T{}, d, tile_descriptor_at(a, offset), tile_descriptor_at(b, offset), true);
    }
    mma_commit();
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

// The 16 x 16 block of columns 16 b .. of this warp's rows of a product, off the diagonal: each value by its row's and its column's factor.
template <class T>
__device__ __forceinline__ void gate_block(uint32_t (&r)[4], const GateAt& at, const Thread& me, int b, const float (&row)[2], const float (&product)[32]) {
    using W = WideLayout;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const float2 c = load_shared_f2(at.table(W::columns, me.warp * kChunk + 16 * b + 8 * j + me.pair));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const float* x = product + 8 * b + 4 * j + 2 * i;
            r[2 * j + i] = pack(T{}, x[0] * (row[i] * c.x), x[1] * (row[i] * c.y));
        }
    }
}

// -N of this warp's rows: on the diagonal block its two 8 x 8 blocks in f32 and the one below in f16; f16 left of it.
__device__ __forceinline__ void gate_lower(const GateAt& at, const Thread& me, const float (&e)[8], const float (&kk)[32]) {
    using W = WideLayout;
    float block[8];
    diagonal_of(block, kk, me.warp);
    const float beta[2] = {load_shared_f(at.table(W::minus_beta, me.row)), load_shared_f(at.table(W::minus_beta, me.row + 8))};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        const float2 rk = load_shared_f2(at.table(W::norm_k, 16 * me.warp + 8 * j + me.pair));
        auto value = [&](int i, int column) { return beta[i] * e[4 * j + 2 * i + column] * (block[4 * j + 2 * i + column] * (column ? rk.y : rk.x)); };
        store_shared_f2(at.diagonal + (2 * me.warp + j) * W::kDiagonalBlock + 8 * me.lane, value(j, 0), value(j, 1));
        if (j == 0) store_shared_u(at.diagonal + W::kCorners + me.warp * W::kCorner + 4 * me.lane, pack(F16{}, value(1, 0), value(1, 1)));
    }
    const float row[2] = {load_shared_f(at.table(W::row_n, me.row)), load_shared_f(at.table(W::row_n, me.row + 8))};
#pragma unroll
    for (int b = 0; b < 3; ++b) {
        if (b >= me.warp) break;
        uint32_t n[4];
        gate_block<F16>(n, at, me, b, row, kk);
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
        gate_block<T>(r, at, me, b, row, kq);
        store_matrices_across(block_at(at.scores, at.rows.by_row, b, me.warp), r);
    }
}

// D += A B of 16 x 16 blocks, B in two halves of its columns.
__device__ __forceinline__ void multiply_blocks(float (&d)[2][4], const uint32_t (&a)[4], const uint32_t (&b)[4]) {
    mma_m16n8(F16{}, d[0], a, b[0], b[1]), mma_m16n8(F16{}, d[1], a, b[2], b[3]);
}
// A product as the next one's left operand, or as it is stored.
template <class T>
__device__ __forceinline__ void pack_block(uint32_t (&r)[4], const float (&d)[2][4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) r[i] = pack(T{}, d[i >> 1][2 * (i & 1)], d[i >> 1][2 * (i & 1) + 1]);
}

struct Inverter {
    int lane;
    BlockLane rows;
    uint32_t lower, diagonal, solve;

    // -N_tj^T as a right operand; or what has taken its place.
    __device__ __forceinline__ void load_lower(uint32_t (&b)[4], int t, int j) const { load_matrices(b, block_at(lower, rows.by_row, t, j)); }
    // D_j^T as a left and as a right operand.
    __device__ __forceinline__ void load_inverse(uint32_t (&a)[4], int j) const { load_matrices(a, block_at(lower, rows.by_column, j, j)); }
    __device__ __forceinline__ void load_inverse_across(uint32_t (&b)[4], int j) const { load_matrices_across(b, block_at(lower, rows.by_column, j, j)); }
    // A_tj, from its transpose, into the record.
    template <class T>
    __device__ __forceinline__ void store(int t, int j, const float (&d)[2][4]) const {
        uint32_t r[4];
        pack_block<T>(r, d);
        store_matrices_across(block_at(solve, rows.by_row, t, j), r);
    }
};

// Where the inverse of a diagonal block, transposed, has nothing: once.
__device__ __forceinline__ void clear_below(uint32_t lower, int lane) {
    const int block = lane >> 3;
    store_shared_zero16(lower + swizzled(16 * block + 8 + (lane & 7), 2 * block));
}

// The diagonal blocks' inverses, transposed, in f16 to the tile. Of their 8 x 8 blocks
//     D_bb = (I + N_bb)^-1              in fp32, a column a lane, twice: D_i = e_i + sum_{j<i} (-N_ij) D_j
//     D_21^T = D_11^T (-N_21)^T D_22^T  for two at once: their left operands stand one behind the other on the diagonal of one
// 16 x 16 by substitution alone took four times the instructions, and this role's time is what the recurrence waits for.
__device__ __forceinline__ void invert_diagonal_blocks(const Inverter& x) {
    using W = WideLayout;
    const int column = x.lane & 7;
#pragma unroll 1
    for (int block = x.lane >> 3; block < 8; block += 4) {
        float d[8];
#pragma unroll
        for (int i = 0; i < 8; ++i) d[i] = i == column ? 1.f : 0.f;
#pragma unroll
        for (int j = 0; j < 8; j += 4) {
#pragma unroll
            for (int i = j + 1; i < 8; ++i) {
                const float4 n = load_shared_f4(x.diagonal + block * W::kDiagonalBlock + (8 * i + j) * 4);
                d[i] += n.x * d[j];
                if (i > j + 1) d[i] += n.y * d[j + 1];
                if (i > j + 2) d[i] += n.z * d[j + 2];
                if (i > j + 3) d[i] += n.w * d[j + 3];
            }
        }
        store_shared_u4(x.lower + swizzled(8 * block + column, block),
                        {pack(F16{}, d[0], d[1]), pack(F16{}, d[2], d[3]), pack(F16{}, d[4], d[5]), pack(F16{}, d[6], d[7])});
    }
    __syncwarp();
    const int source = 2 * (x.lane >> 3 & 1) + (x.lane >> 4);  // D_11 of two, D_22 of two
    const uint32_t corner = x.diagonal + W::kCorners + 4 * x.lane;
    float p[2][4] = {}, r[2][4] = {};
    uint32_t second[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint32_t at = x.lower + swizzled(8 * (4 * h + source) + (x.lane & 7), 4 * h + source);
        uint32_t first[4];
        load_matrices(first, at), load_matrices_across(second[h], at);
        mma_m16n8(F16{}, p[h], {first[0], 0, 0, first[1]}, load_shared_u(corner + 2 * h * W::kCorner), load_shared_u(corner + (2 * h + 1) * W::kCorner));
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) mma_m16n8(F16{}, r[h], {pack(F16{}, p[h][0], p[h][1]), 0, 0, pack(F16{}, p[h][2], p[h][3])}, second[h][2], second[h][3]);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint32_t to = x.lower + swizzled(32 * h + x.lane / 4, 4 * h + 1) + 4 * (x.lane & 3);
        store_shared_u(to, pack(F16{}, r[h][0], r[h][1]));
        store_shared_u((to ^ 2 << 4) + 16 * 128, pack(F16{}, r[h][2], r[h][3]));  // two pieces on, 16 rows down
    }
    __syncwarp();
}

// What is below the diagonal of A's diagonal blocks, from D^T.
template <class T>
__device__ __forceinline__ void store_below_diagonal(const Inverter& x) {
    const int distance = 2 * (x.lane & 3) - x.lane / 4;  // of a lane's two values from the diagonal, in the two 8 x 8 blocks on it
    const uint32_t mask = (distance > 0 ? 0xffffu : 0u) | (distance + 1 > 0 ? 0xffff0000u : 0u);
    auto convert = [](uint32_t word) {
        const float2 v = unpack(F16{}, word);
        return pack(T{}, v.x, v.y);
    };
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
        uint32_t y[4];
        x.load_inverse(y, j);
        const uint32_t r[4] = {convert(y[0] & mask), 0, convert(y[2]), convert(y[3] & mask)};
        store_matrices_across(block_at(x.solve, x.rows.by_row, j, j), r);
    }
}

// strict(A) = strict((I + N)^-1), all transposed, in halves of two blocks: Y_ij = A_ij^T from Y_jj = D_j^T,
//     Y_10 = Y_00 (-N_10)^T D_1^T, Y_32 alike
//     Z_ij = sum_{k=j,1} Y_kj (-N_ik)^T, Y_2j = Z_2j D_2^T, Y_3j = Z_2j Y_32 + Z_3j D_3^T    for j = 0, 1, i = 2, 3
// Products that do not need each other stand together: each round of them waits for the tensor cores behind the math warpgroups' products.
template <class T>
__device__ __forceinline__ void merge_blocks(const Inverter& x) {
    uint32_t y[4], y1[4], b[4];
    float z[2][2][4] = {};
    x.load_inverse(y, 2);
    x.load_lower(b, 3, 2);
    multiply_blocks(z[1], y, b);
    x.load_inverse(y, 0);
    x.load_lower(b, 1, 0);
    multiply_blocks(z[0], y, b);
    {
        float d[2][4] = {}, e[2][4] = {};
        uint32_t left[4];
        pack_block<F16>(left, z[1]);
        x.load_inverse_across(b, 3);
        multiply_blocks(e, left, b);
        pack_block<F16>(left, z[0]);
        x.load_inverse_across(b, 1);
        multiply_blocks(d, left, b);
        pack_block<F16>(left, e);
        store_matrices_across(block_at(x.lower, x.rows.by_row, 3, 2), left);  // in place of -N_32
        x.store<T>(3, 2, e);
        pack_block<F16>(y1, d);
        x.store<T>(1, 0, d);
        __syncwarp();
    }
    uint32_t left[2][2][4];  // Z_2j, Z_3j
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            float sum[2][4] = {};
            if (j == 0) x.load_lower(b, 2 + i, 0), multiply_blocks(sum, y, b);
            x.load_lower(b, 2 + i, 1), multiply_blocks(sum, y1, b);
            pack_block<F16>(left[j][i], sum);
        }
        if (j == 0) x.load_inverse(y1, 1);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
        float d[2][4] = {}, e[2][4] = {};
        x.load_lower(b, 3, 2), multiply_blocks(e, left[j][0], b);
        x.load_inverse_across(b, 2), multiply_blocks(d, left[j][0], b);
        x.load_inverse_across(b, 3), multiply_blocks(e, left[j][1], b);
        x.store<T>(2, j, d), x.store<T>(3, j, e);
    }
}

}  // namespace fqla::sm90
