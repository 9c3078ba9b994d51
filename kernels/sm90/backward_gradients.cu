// Everything of the backward that sums over V, from what backward_chains.cu has left, for all chunks at once. Per chunk and value head, with E = exp(G),
// R = exp(G_last - G), Gamma_ts = exp(G_t - G_s), S before the chunk and D behind it, q and k normalised where asked:
//     F  = s tril(dO U^T) o Gamma           B = -strict(dV U^T) o Gamma
//     dQ = s E (dO S^T) + F K               dK = -E (dV S^T) + R (U D^T) + F^T Q + (B + B^T) K
//     dbeta_t = (dV U^T)_tt / beta_t^2      as dV = beta dX and U = beta e; where beta is too small for that: dX_t·e_t, with e_t worked out
//     dg_t = sum_{i>=t} plus_i + sum_{i<t} minus_i + exp(G_last) <S, D> + sum_{i>=t>j} Z_ij       what g_t scales, nothing else: nothing cancels
//       of a row's first chunk, where S is the caller's, <S, D> comes from the chains in f32
//       plus = rows of s E (dO S^T)·q - E (dV S^T)·k,  minus = rows of R (U D^T)·k,  Z = strict(F o Q K^T + B o K K^T)
// A block takes a chunk and key head at a time and all its value heads, so dQ and dK are sums in registers and leave once, through the norm. Norms: F and B
// hold those of row and column, and dQ, dK here are r times their gradients by the normalised y = r x; so dX = dQ - y (y·dQ), and Q, K stay as they came.
//
//   role                   registers  step (event it waits for -> event it announces)
//   keys, two warpgroups   <= 144     of a half of K: s E (dO S^T), -E (dV S^T), plus; R (U D^T), minus; <S, D>; then F K, F^T Q, (B + B^T) K
//                                                                          (tokens, factors, S, D filled; scores filled -> all free, sums filled)
//   score, a warpgroup     <= 152     F, B; dV·U, Z                        (tokens, factors filled; scores, sums free -> scores, sums filled)
//   load, one warp         <= 56      finds items; q and k; d_out, U and dV; S; D         (each free -> each filled)
//   gates, one warp                   G, E, R, beta of the next head                      (factors free -> filled)
//   finish, one warp                  dg, dbeta and what the caller's gate and beta hold  (sums filled -> free)
//   small betas, one warp             dbeta_t where beta_t is too small, with all that it takes still in place (-> sums filled)
#include "backward_gates.cuh"
#include "wgmma.cuh"

namespace fqla::sm90 {
namespace {

using L = GradientLayout;

// Rows `row` and `row` + 8, columns 8j + `pair` and the next of an accumulator.
struct Place {
    int warp, lane, row, pair;
    uint32_t stored;  // in a [64, 64] tile: this lane's row of the fragment of 16 columns (stmatrix); columns 16c: xor 32 c
    uint32_t own;     // in a [64 tokens, 64] tile: this lane's first two columns of `row`; columns 8j: xor 16 j; row + 8: 1024 bytes on
};
__device__ __forceinline__ Place place_of_thread() {
    const int warp = __shfl_sync(~0u, threadIdx.x / 32 % 4, 0), lane = threadIdx.x % 32, row = 16 * warp + lane / 4, pair = 2 * (lane % 4);
    const uint32_t stored = swizzled(16 * warp + 8 * (lane >> 3 & 1) + (lane & 7), lane >> 4);
    return {warp, lane, row, pair, stored, static_cast<uint32_t>(row * 128 + ((row & 7) << 4) + 2 * pair)};
}
__device__ __forceinline__ uint32_t own_at(const Place& me, uint32_t tiles, int j) { return tiles + (j >> 3) * kTileBytes + (me.own ^ ((j & 7) << 4)); }

__device__ __forceinline__ float sum_over_quad(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// Dot products of this thread's two rows of t with those of a tile of q or k, not yet summed over the quad.
template <class T>
__device__ __forceinline__ void add_dots(float2& d, const float* t, const Place& me, uint32_t tile) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const float2 x = unpack(T{}, load_shared_u(own_at(me, tile, j))), y = unpack(T{}, load_shared_u(own_at(me, tile, j) + 1024));
        d.x += t[4 * j] * x.x + t[4 * j + 1] * x.y;
        d.y += t[4 * j + 2] * y.x + t[4 * j + 3] * y.y;
    }
}
__device__ __forceinline__ float2 sum_dots(float2 d) { return {sum_over_quad(d.x), sum_over_quad(d.y)}; }

__device__ __forceinline__ void store_rows(const Place& me, uint32_t array, float2 x) {
    if (me.pair == 0) store_shared_f(array + me.row * 4, x.x), store_shared_f(array + (me.row + 8) * 4, x.y);
}
__device__ __forceinline__ void store_rows_of_lane(const Place& me, uint32_t array, const float (&x)[2]) {
    store_shared_f(array + me.row * 4, x[0]), store_shared_f(array + (me.row + 8) * 4, x[1]);
}
__device__ __forceinline__ float2 load_rows(const Place& me, uint32_t array) {
    return {load_shared_f(array + me.row * 4), load_shared_f(array + (me.row + 8) * 4)};
}
__device__ __forceinline__ float2 load_columns(const Place& me, uint32_t array, int j) { return load_shared_f2(array + (8 * j + me.pair) * 4); }

// to += f t, a factor a row; and the rows of f t times those of a tile of q or k, to be summed over the quad.
template <class T>
__device__ __forceinline__ void add_rows(float (&to)[32], const float (&t)[32], float2 f, const Place& me, uint32_t tile, float2& dots) {
    float2 d{0.f, 0.f};
    add_dots<T>(d, t, me, tile);
    dots.x += f.x * d.x, dots.y += f.y * d.y;
#pragma unroll
    for (int i = 0; i < 32; ++i) to[i] += (i & 2 ? f.y : f.x) * t[i];
}

// The products below start afresh, but `never` is a false that ptxas cannot see through: so their accumulators stay in their registers, and what reads
// the values before comes before. Else it sinks those reads behind the next products and runs out of registers.

// T = A M^T, columns of `half` of K: A [64 tokens, V], M [V, K].
template <class T>
__device__ __forceinline__ void multiply_matrix(float (&t)[32], uint32_t a, uint32_t m, int half, bool never) {
#pragma unroll
    for (int s = 0; s < 8; ++s)
        mma_shared_n64_columns(T{}, t, tile_descriptor(a + (s >> 2) * kTileBytes + (s & 3) * 32),
                               tile_descriptor(m + ((s >> 2) * 2 + half) * kTileBytes + (s & 3) * 2048), s > 0 || never);
}
// X = A B^T, both [64 tokens, 128].
template <class T>
__device__ __forceinline__ void multiply_tokens(float (&x)[32], uint32_t a, uint32_t b, bool never) {
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint32_t step = (s >> 2) * kTileBytes + (s & 3) * 32;
        mma_shared_n64(T{}, x, tile_descriptor(a + step), tile_descriptor(b + step), s > 0 || never);
    }
}
// 1/sqrt(sum x^2 + eps) of the rows of q or k by the warpgroup that has them; 1 without the norm.
template <class T>
__device__ __forceinline__ void measure_norms(const Form& form, uint32_t tiles, int valid, uint32_t to) {
    const int row = threadIdx.x % 128 / 2, half = threadIdx.x % 2;
    float sum = 0.f;
    if (form.qk_norm == FLASHQLA_NORM_L2) {
#pragma unroll
        for (int piece = 0; piece < 8; ++piece) {
            const uint4 v = load_shared_u4(tiles + half * kTileBytes + swizzled(row, piece));
            const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 x = unpack(T{}, w[i]);
                sum += x.x * x.x + x.y * x.y;
            }
        }
        sum += __shfl_xor_sync(~0u, sum, 1);
    }
    if (half == 0) store_shared_f(to + row * 4, row < valid ? inverse_norm(form, sum) : 0.f);
}

enum Barrier { norms_stand = 1, dots_stand };  // named barriers: of the math warpgroups; of those with halves of K

// dX = d - y (y·d), y = r x, to memory: pairs of values, of which four lanes bring 16 bytes of a row together.
template <class T>
__device__ __forceinline__ void store_key_gradients(float down, const Item& item, const View& to, int half, float (&d)[32], float2 dot, const Place& me,
                                                    uint32_t tile) {
    if (!to.data) return;
    const int thread = fresh_thread() % 128, row = thread / 32 * 16 + thread % 32 / 4, pair = 2 * (thread % 4);
    uint16_t* const base = static_cast<uint16_t*>(to.data) + token_offset(to, item, row, item.key_head) + 64 * half + pair;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
        const uint32_t at = own_at(me, tile, j);
        const float2 x = unpack(T{}, load_shared_u(at)), y = unpack(T{}, load_shared_u(at + 1024));
        if (row < item.valid) *reinterpret_cast<uint32_t*>(base + 8 * j) = pack(T{}, down * (d[4 * j] - dot.x * x.x), down * (d[4 * j + 1] - dot.x * x.y));
        if (row + 8 < item.valid)
            *reinterpret_cast<uint32_t*>(base + 8 * to.token + 8 * j) = pack(T{}, down * (d[4 * j + 2] - dot.y * y.x), down * (d[4 * j + 3] - dot.y * y.y));
    }
}

// Zeros for a PAD row.
__device__ __forceinline__ void clear_key_gradients(const Item& item, const View& to) {
    if (!to.data) return;
    for (int piece = threadIdx.x % 256; piece < item.valid * 16; piece += 256)
        *reinterpret_cast<uint4*>(static_cast<uint16_t*>(to.data) + token_offset(to, item, piece / 16, item.key_head) + piece % 16 * 8) =
            make_uint4(0, 0, 0, 0);
}

// Of this warp's 16 rows of Z: sum over rows i >= t of the sums over columns j < t, for every t, into to[t]. The inner sums are a product with ones
// below the diagonal, of Z in bf16 and of what that leaves: entries of either sign cancel where keys are alike, and bf16 alone would be half of dg's error.
__device__ __forceinline__ void sum_straddling(const float (&z)[32], float (&before)[32], const Place& me, uint32_t ones, bool never, uint32_t to) {
    uint32_t parts[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) parts[i] = pack(Bf16{}, z[2 * i], z[2 * i + 1]);
    pin(parts), pin(before), mma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) mma_n64(Bf16{}, before, parts + 4 * s, tile_descriptor(ones + s * 32), s > 0 || never);
    mma_commit();
    mma_wait<0>(), pin(before);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        const float2 x = unpack(Bf16{}, parts[i]);
        parts[i] = pack(Bf16{}, z[2 * i] - x.x, z[2 * i + 1] - x.y);
    }
    pin(parts), pin(before), mma_begin();
#pragma unroll
    for (int s = 0; s < 4; ++s) mma_n64(Bf16{}, before, parts + 4 * s, tile_descriptor(ones + s * 32), true);
    mma_commit();
    mma_wait<0>(), pin(before);
    float sums[16];
    const int below = me.row - me.pair;
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            sums[2 * j + e] = below >= 8 * j + e ? before[4 * j + e] : 0.f;
            if (below + 8 >= 8 * j + e) sums[2 * j + e] += before[4 * j + 2 + e];
        }
        // Over the eight lanes with the same columns, each ending with two of the sixteen sums.
#pragma unroll
    for (int mask = 16, keep = 8; mask >= 4; mask /= 2, keep /= 2) {
        const bool high = me.lane & mask;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
            if (i >= keep) continue;
            const float other = __shfl_xor_sync(~0u, high ? sums[i] : sums[i + keep], mask);
            sums[i] = (high ? sums[i + keep] : sums[i]) + other;
        }
    }
    const int lane = fresh_thread() % 32, j = (lane >> 4 & 1) * 4 + (lane >> 3 & 1) * 2 + (lane >> 2 & 1);
    store_shared_f2(to + (8 * j + 2 * (lane & 3)) * 4, sums[0], sums[1]);
}

// Where a head's things lie in shared memory.
struct HeadAt {
    uint32_t d_out, u, dv, q, k, k_norms, q_norms, factors, sums, f, b;
};
__device__ __forceinline__ HeadAt head_at(uint32_t smem, uint32_t head) {
    const uint32_t tokens = tokens_of(smem, head), norms = smem + L::kNorms, scores = smem + L::kScores;
    return {tokens + L::kDOut,  tokens + L::kU,         tokens + L::kDv,     smem + L::kQ, smem + L::kK,       norms,
            norms + kChunk * 4, factors_of(smem, head), sums_of(smem, head), scores,       scores + kTileBytes};
}

// This warp's part of the sums of a head stands.
__device__ __forceinline__ void announce_sums(const Events& on) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(on.sums().filled(on.head));
}

// ------------------------------------------------------------------------------------------------------------------------------ score role

template <class T>
__device__ __forceinline__ void score_head(const Sm90GradientParams& p, uint32_t smem, Events& on, const Place& me, bool never, float (&f)[32], float (&b)[32],
                                           float (&x)[32]) {
    const HeadAt at = head_at(smem, on.head);
    on.factors().wait_filled(on.head), on.tokens().wait_filled(on.head);
    pin(f), pin(b), mma_begin();
    multiply_tokens<T>(f, at.d_out, at.u, never);
    multiply_tokens<T>(b, at.dv, at.u, never);
    mma_commit();
    const float2 G = load_rows(me, factor_at(at.factors, L::log_decay, 0)), rq = load_rows(me, at.q_norms), rk = load_rows(me, at.k_norms);
    const float2 row_f{p.scale_up * rq.x, p.scale_up * rq.y}, row_b{-p.up * rk.x, -p.up * rk.y};
    on.sums().wait_free(on.head), on.scores().wait_free(on.head);
    mma_wait<0>(), pin(f), pin(b);
    on.tokens().give_back(on.head);
    // (dV U^T)_tt: in the warp's block on the diagonal, a lane may have two
    {
        const int e = me.lane >> 2 & 1;
        float own[2] = {};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            if (c != me.warp) continue;
            own[0] = e ? b[8 * c + 1] : b[8 * c], own[1] = e ? b[8 * c + 7] : b[8 * c + 6];
        }
        if (me.lane >> 3 == (me.lane & 3)) store_rows_of_lane(me, sum_at(at.sums, L::dv_u, 0), own);
    }
    // F = s tril(dO U^T) o Gamma,  B = -strict(dV U^T) o Gamma, both normalised; the mask before the exponential
    const int below = me.row - me.pair;  // row - column but for constants
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        uint32_t fb[4], bb[4];
#pragma unroll
        for (int j = 2 * c; j < 2 * c + 2; ++j) {
            const float2 Gc = load_columns(me, factor_at(at.factors, L::log_decay, 0), j), n = load_columns(me, at.k_norms, j);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int e = 4 * j + i, column = 8 * j + (i & 1) - 8 * (i >> 1);
                const float gamma = (i & 1 ? n.y : n.x) * exp2_fast(below >= column ? (i & 2 ? G.y : G.x) - (i & 1 ? Gc.y : Gc.x) : -INFINITY);
                f[e] *= gamma * (i & 2 ? row_f.y : row_f.x);
                b[e] = below > column ? gamma * (i & 2 ? row_b.y : row_b.x) * b[e] : 0.f;
            }
            fb[2 * (j & 1)] = pack(T{}, f[4 * j], f[4 * j + 1]), fb[2 * (j & 1) + 1] = pack(T{}, f[4 * j + 2], f[4 * j + 3]);
            bb[2 * (j & 1)] = pack(T{}, b[4 * j], b[4 * j + 1]), bb[2 * (j & 1) + 1] = pack(T{}, b[4 * j + 2], b[4 * j + 3]);
        }
        store_matrices(at.f + (me.stored ^ (c << 5)), fb), store_matrices(at.b + (me.stored ^ (c << 5)), bb);
    }
    fence_to_async();
    __syncwarp();
    if (me.lane == 0) barrier_arrive(on.scores().filled(on.head));
    // Z = F o Q K^T + B o K K^T; its diagonal counts nowhere
    pin(x), mma_begin();
    multiply_tokens<T>(x, at.q, at.k, never);
    mma_commit();
    mma_wait<0>(), pin(x);
#pragma unroll
    for (int i = 0; i < 32; ++i) f[i] *= x[i];
    pin(f), pin(x), mma_begin();
    multiply_tokens<T>(x, at.k, at.k, never);
    mma_commit();
    mma_wait<0>(), pin(x);
#pragma unroll
    for (int i = 0; i < 32; ++i) f[i] = fmaf(b[i], x[i], f[i]);
    sum_straddling(f, x, me, smem + L::kOnes, never, sum_at(at.sums, L::z + me.warp, 0));
    on.factors().give_back(on.head);
    announce_sums(on);
    ++on.head;
}

template <class T>
__device__ __forceinline__ void score_role(const Sm90GradientParams& p, uint32_t smem, const Item* items, Events on) {
    const Place me = place_of_thread();
    const bool never = p.never;
#pragma unroll 1
    for (;;) {
        on.items().wait_filled(on.item);
        const Item& item = items[on.item % L::kPhases];
        const int valid = __shfl_sync(~0u, item.valid, 0), skip = __shfl_sync(~0u, item.skip, 0);
        on.items().give_back(on.item++);
        if (valid == kNoMoreItems) break;
        if (skip) continue;
        on.keys().wait_filled(on.key);
        sync_threads(norms_stand, kMathWarps * 32);
        float f[32] = {}, b[32] = {}, x[32] = {};
#pragma unroll 1
        for (int h = 0; h < p.heads; ++h) score_head<T>(p, smem, on, me, never, f, b, x);
        on.keys().give_back(on.key++);
    }
}

// ------------------------------------------------------------------------------------------------------------------------------- keys role

// This warp's share of <S, D>, which lie alike.
template <class T>
__device__ __forceinline__ float dot_matrices(uint32_t a, uint32_t b) {
    float sums[4] = {};
#pragma unroll 2
    for (int piece = threadIdx.x % 256; piece < BackwardTiles::kMatrixBytes / 16; piece += 256) {
        const uint4 x = load_shared_u4(a + 16 * piece), y = load_shared_u4(b + 16 * piece);
        const uint32_t xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 s = unpack(T{}, xs[i]), d = unpack(T{}, ys[i]);
            sums[i] = fmaf(s.x, d.x, fmaf(s.y, d.y, sums[i]));
        }
    }
    return sum_over_warp((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// sum += X B or X^T B: X [64, 64 tokens], B [64 tokens, half of K], both in shared memory.
template <class T, bool kTransposed>
__device__ __forceinline__ void add_product(float (&sum)[32], uint32_t x, uint32_t b) {
#pragma unroll
    for (int s = 0; s < 4; ++s)
        if constexpr (kTransposed)
            mma_shared_n64_transposed(T{}, sum, tile_descriptor(x + s * 2048), tile_descriptor(b + s * 2048));
        else
            mma_shared_n64_columns(T{}, sum, tile_descriptor(x + s * 32), tile_descriptor(b + s * 2048), true);
}

template <class T>
__device__ __forceinline__ void keys_head(const Sm90GradientParams& p, uint32_t smem, Events& on, const Place& me, int half, bool never, float (&dq)[32],
                                          float (&dk)[32], float (&t)[32]) {
    const HeadAt at = head_at(smem, on.head);
    const uint32_t q = at.q + half * kTileBytes, k = at.k + half * kTileBytes;
    on.factors().wait_filled(on.head), on.tokens().wait_filled(on.head), on.state().wait_filled(on.head);
    // dQ += s E (dO S^T)
    pin(t), mma_begin();
    multiply_matrix<T>(t, at.d_out, smem + L::kState, half, never);
    mma_commit();
    const float2 rq = load_rows(me, at.q_norms), rk = load_rows(me, at.k_norms);
    const float2 E = load_rows(me, factor_at(at.factors, L::decay, 0)), R = load_rows(me, factor_at(at.factors, L::rest, 0));
    on.factors().give_back(on.head);
    float2 plus{0.f, 0.f}, dots{0.f, 0.f};
    mma_wait<0>(), pin(t);
    add_rows<T>(dq, t, {p.scale_up * E.x * rq.x, p.scale_up * E.y * rq.y}, me, q, plus);
    float carry = 0.f;
    float2 f{-p.up * E.x * rk.x, -p.up * E.y * rk.y};
    uint32_t a = at.dv, m = smem + L::kState;
    // dK -= E (dV S^T), then dK += R (U D^T) and meanwhile <S, D>
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) {
        pin(t), mma_begin();
        multiply_matrix<T>(t, a, m, half, never);
        mma_commit();
        if (pass == 0)
            on.gradient().wait_filled(on.head);
        else
            carry = dot_matrices<T>(smem + L::kState, smem + L::kGradient), on.state().give_back(on.head);
        mma_wait<0>(), pin(t);
        dots = {0.f, 0.f};
        add_rows<T>(dk, t, f, me, k, dots);
        if (pass == 0) plus.x += dots.x, plus.y += dots.y;
        f = {p.up * R.x * rk.x, p.up * R.y * rk.y}, a = at.u, m = smem + L::kGradient;
    }
    on.gradient().give_back(on.head), on.tokens().give_back(on.head);
    on.sums().wait_free(on.head);
    plus = sum_dots(plus), dots = sum_dots(dots);
    store_rows(me, sum_at(at.sums, L::plus + half, 0), {plus.x * p.down, plus.y * p.down});
    store_rows(me, sum_at(at.sums, L::minus + half, 0), {dots.x * p.down, dots.y * p.down});
    if (me.lane == 0) store_shared_f(sum_at(at.sums, L::sums, 4 * half + me.warp), carry);
    announce_sums(on);
    // dQ += F K, dK += F^T Q + (B + B^T) K
    on.scores().wait_filled(on.head);
    pin(dq), pin(dk), mma_begin();
    add_product<T, false>(dq, at.f, k);
    add_product<T, true>(dk, at.f, q);
    add_product<T, false>(dk, at.b, k);
    add_product<T, true>(dk, at.b, k);
    mma_commit();
    mma_wait<0>(), pin(dq), pin(dk);
    on.scores().give_back(on.head);
    ++on.head;
}

// r^2 times the rows of d·x over all of K: each half has written its own.
template <class T>
__device__ __forceinline__ void leave_dots(const float (&d)[32], const Place& me, uint32_t tile, uint32_t to) {
    float2 dots{0.f, 0.f};
    add_dots<T>(dots, d, me, tile);
    store_rows(me, to, sum_dots(dots));
}
__device__ __forceinline__ float2 whole_dots(const Place& me, uint32_t halves, uint32_t norms) {
    const float2 a = load_rows(me, halves), b = load_rows(me, halves + kChunk * 4), r = load_rows(me, norms);
    return {r.x * r.x * (a.x + b.x), r.y * r.y * (a.y + b.y)};
}

template <class T>
__device__ __forceinline__ void keys_role(const Sm90GradientParams& p, uint32_t smem, const Item* items, Events on, int half) {
    const Form& form = p.call.form;
    const Place me = place_of_thread();
    const uint32_t q = smem + L::kQ + half * kTileBytes, k = smem + L::kK + half * kTileBytes, dots = smem + L::kDots;
    const uint32_t k_norms = smem + L::kNorms, q_norms = k_norms + kChunk * 4;
    const bool never = p.never;
#pragma unroll 1
    for (;;) {
        on.items().wait_filled(on.item);
        const Item& item = items[on.item % L::kPhases];
        const int valid = __shfl_sync(~0u, item.valid, 0), skip = __shfl_sync(~0u, item.skip, 0);
        if (valid == kNoMoreItems) break;
        if (skip) {
            clear_key_gradients(item, p.call.grad.q), clear_key_gradients(item, p.call.grad.k);
        } else {
            on.keys().wait_filled(on.key);
            measure_norms<T>(form, smem + (half ? L::kK : L::kQ), valid, half ? k_norms : q_norms);
            sync_threads(norms_stand, kMathWarps * 32);
            float dq[32], dk[32], t[32] = {};
#pragma unroll
            for (int i = 0; i < 32; ++i) dq[i] = dk[i] = 0.f;
#pragma unroll 1
            for (int h = 0; h < p.heads; ++h) keys_head<T>(p, smem, on, me, half, never, dq, dk, t);
            float2 of_q{0.f, 0.f}, of_k{0.f, 0.f};
            if (form.qk_norm == FLASHQLA_NORM_L2) {
                leave_dots<T>(dq, me, q, dots + half * kChunk * 4), leave_dots<T>(dk, me, k, dots + (2 + half) * kChunk * 4);
                sync_threads(dots_stand, 256);
                of_q = whole_dots(me, dots, q_norms), of_k = whole_dots(me, dots + 2 * kChunk * 4, k_norms);
            }
            store_key_gradients<T>(p.down, item, p.call.grad.q, half, dq, of_q, me, q);
            store_key_gradients<T>(p.down, item, p.call.grad.k, half, dk, of_k, me, k);
            on.keys().give_back(on.key++);
        }
        on.items().give_back(on.item++);
    }
}

template <class T>
__device__ __forceinline__ void gradients(const Sm90GradientParams& p) {
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory);
    Item* items = reinterpret_cast<Item*>(memory + L::kItems);
    const Events on{smem + L::kBarriers};
    let_successor_start();
    if (threadIdx.x == 0) {
        on.init();
        barrier_init_fence();
    }
    for (int i = threadIdx.x; i < kChunk * kChunk; i += L::kThreads) {
        const int t = i / kChunk, j = i % kChunk;
        reinterpret_cast<uint16_t*>(memory + L::kOnes + swizzled(t, j / 8))[j % 8] = j < t ? 0x3F80 : 0;
    }
    fence_to_async();
    __syncthreads();
    wait_for_predecessor();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (warp < 8) {
        take_registers<144>();
        keys_role<T>(p, smem, items, counted_anew(on), warp / 4);
    } else if (warp < 12) {
        take_registers<152>();
        score_role<T>(p, smem, items, counted_anew(on));
    } else {
        give_registers<56>();
        if (warp == 12)
            load_role(p, smem, items, on);
        else if (warp == 13)
            gates_role(p, smem, items, on);
        else if (warp == 14)
            finish_role(p, smem, items, on);
        else
            small_betas_role<T>(p, smem, items, on);
    }
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::GradientLayout::kThreads, 1) gdn_gradients_bf16(const __grid_constant__ fqla::Sm90GradientParams p) {
    fqla::sm90::gradients<fqla::sm90::Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(fqla::GradientLayout::kThreads, 1) gdn_gradients_f16(const __grid_constant__ fqla::Sm90GradientParams p) {
    fqla::sm90::gradients<fqla::sm90::F16>(p);
}
