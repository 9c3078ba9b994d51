// Everything of the backward that sums over V, for one chunk and value head at once (math of the chunked backward, all in f32):
//     F  = s tril(dO U^T)∘Γ        B = -strict(dV U^T)∘Γ        Γ_ij = exp(G_i - G_j), i >= j
//     dQ = s diag(E) dO S0^T + F K
//     dK = -diag(E) dV S0^T + diag(R) U D^T + F^T Q + (B + B^T) K
//     dbeta_i = du_i·e_i
//     dg_t = sum_{i>=t} plus_i + sum_{i<t} minus_i + E_C <S0, D> + sum_{i>=t>j} Z_ij        what g_t scales, nothing else: nothing cancels
//       plus = rows of (s diag(E) dO S0^T)·q - (diag(E) dV S0^T)·k;  minus = rows of (diag(R) U D^T)·k;  Z = strict(F∘(Q K^T) + B∘(K K^T))
// with U = diag(beta) e, dV = diag(beta) du, S0 the state at the chunk's start, D its gradient at the chunk's end, q and k normalised.
// 256 threads: warp w has rows 4w .. 4w+3 of the chunk in products with K columns, thread (i, j mod 8) in products of chunk by chunk.
#pragma once
#include "async_copy.cuh"
#include "backward_rows.cuh"

namespace fqla {

constexpr int kChunk = kBackwardChunk;
constexpr int kChunkThreads = BackwardLayout::kChunkThreads;
constexpr int kTileV = 32, kTileK = 64;  // of V and K at a time
constexpr int kRowsPerWarp = kChunk / (kChunkThreads / kWarp);
constexpr int kPairs = kChunk * kChunk / kChunkThreads;  // of a thread: row tid / 8, columns tid % 8 + 8 p
static_assert(kRowsPerWarp == 4 && kPairs == 4 && kTileV == kChunk, "the layouts below");

struct ChunkShared {
    // Rows of 36: 16-byte accesses of neighbouring rows fall on different banks.
    union {
        struct {
            float s0[kTileK][kTileV + 4], d[kTileK][kTileV + 4];
        } state;
        struct {
            float q[kChunk][kTileK], k[kChunk][kTileK];
        } keys;
        float z[kChunk][kChunk + 1];
    };
    float a[kChunk][kTileV + 4], b[kChunk][kTileV + 4], c[kChunk][kTileV + 4];  // three operands of chunk rows: dO, du, e (or q, k)
    float f[kChunk][kChunk + 1], bb[kChunk][kChunk + 1];                        // F; B
    float log_decay[kChunk], beta[kChunk], g[kChunk];                           // G_i, beta_i, g_i
    float q_norm[kChunk], k_norm[kChunk];
    float plus[kChunk], minus[kChunk], z_sum[kChunk], d_beta[kChunk], carry[kChunkThreads / kWarp];
};
static_assert(sizeof(ChunkShared) <= 48 * 1024, "static shared memory");

// Chunk rows of a tensor (or workspace array) and their way through it; rows past the end read as zero.
struct ChunkRows {
    const void* data;
    int32_t dtype;
    int64_t first, step;  // elements
    int32_t width, length;
};

__device__ __forceinline__ ChunkRows rows_of_view(const View& x, const Chunk& c, int64_t head, int32_t width) {
    return {x.data, x.dtype, element_offset(x, c.n, c.row, c.begin, head), x.token, width, c.length};
}
// to[row][column] = x, columns from `first` on; zero past the tensor and the chunk.
template <int kColumns, int kStride>
__device__ __forceinline__ void load_rows(float (&to)[kChunk][kStride], const ChunkRows& x, int first) {
#pragma unroll 2
    for (int i = threadIdx.x; i < kChunk * kColumns; i += kChunkThreads) {
        const int row = i / kColumns, column = i % kColumns;
        to[row][column] = row < x.length && first + column < x.width ? load_scalar(x.data, x.dtype, x.first + row * x.step + first + column) : 0.f;
    }
}

// A tile of kTileV columns of an f32 matrix in the workspace, rows and columns past its end as zeros. Asynchronous where rows are whole
// 16-byte pieces: wait_all_copies() and a barrier must follow.
template <int kRows>
__device__ __forceinline__ void load_tile(float (&to)[kRows][kTileV + 4], const float* from, int64_t step, int32_t rows, int32_t columns, bool pieces) {
    if (pieces) {
#pragma unroll
        for (int i = threadIdx.x; i < kRows * kTileV / 4; i += kChunkThreads) {
            const int row = i / (kTileV / 4), column = i % (kTileV / 4) * 4;
            const bool exists = row < rows && column < columns;
            copy_16_bytes_or_zeros_async(&to[row][column], exists ? from + row * step + column : from, exists);
        }
    } else {
#pragma unroll 2
        for (int i = threadIdx.x; i < kRows * kTileV; i += kChunkThreads) {
            const int row = i / kTileV, column = i % kTileV;
            to[row][column] = row < rows && column < columns ? from[row * step + column] : 0.f;
        }
    }
}

// dO, du and e of the chunk, columns from v on, into a, b and c.
__device__ __forceinline__ void load_value_rows(const BackwardParams& p, const Chunk& c, int32_t head, int v, ChunkShared& s) {
    const int64_t heads = p.call.form.value_heads, width = p.call.form.value_dim, at = (c.slot * kChunk * heads + head) * width + v;
    const int32_t columns = static_cast<int32_t>(width) - v;
    // Steps are HV V elements: whole 16-byte pieces need V % 4 == 0, not only HV V.
    const bool pieces = width % 4 == 0;
    load_tile(s.b, p.delta_gradients + at, heads * width, c.length, columns, pieces);
    load_tile(s.c, p.residuals + at, heads * width, c.length, columns, pieces);
    load_rows<kTileV>(s.a, rows_of_view(p.call.d_out, c, head, p.call.form.value_dim), v);
}

// x_p += a_i·c_j, y_p += b_i·c_j over the tile; squares += a_i·a_i (this thread's eighth of it).
__device__ __forceinline__ void add_pair_products(const ChunkShared& s, const float (&right)[kChunk][kTileV + 4], float (&x)[kPairs], float (&y)[kPairs],
                                                  float& squares) {
    const int i = threadIdx.x / 8, lane = threadIdx.x % 8;
#pragma unroll
    for (int v = 0; v < kTileV; v += 4) {
        const float4 a = *reinterpret_cast<const float4*>(&s.a[i][v]), b = *reinterpret_cast<const float4*>(&s.b[i][v]);
        if (v / 4 == lane) squares += a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w;
#pragma unroll
        for (int p = 0; p < kPairs; ++p) {
            const float4 c = *reinterpret_cast<const float4*>(&right[lane + 8 * p][v]);
            x[p] = fmaf(a.x, c.x, fmaf(a.y, c.y, fmaf(a.z, c.z, fmaf(a.w, c.w, x[p]))));
            y[p] = fmaf(b.x, c.x, fmaf(b.y, c.y, fmaf(b.z, c.z, fmaf(b.w, c.w, y[p]))));
        }
    }
}

__device__ __forceinline__ float sum_over_eight(float x) {
    x += __shfl_xor_sync(kAllLanes, x, 1);
    x += __shfl_xor_sync(kAllLanes, x, 2);
    return x + __shfl_xor_sync(kAllLanes, x, 4);
}
__device__ __forceinline__ float sum_over_warp(float x) {
#pragma unroll
    for (int mask = 16; mask >= 1; mask /= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
    return x;
}

// Gates and betas of the chunk; G by a prefix sum. Rows past the end: g = 0 and beta = 0.
__device__ __forceinline__ void load_gates(const BackwardParams& p, const Chunk& c, int32_t head, ChunkShared& s) {
    if (threadIdx.x >= kWarp) return;
    const Inputs& in = p.call.in;
    const Form& form = p.call.form;
    const int t = threadIdx.x;
    float g = 0.f, beta = 0.f;
    if (t < c.length) {
        g = log_gate(form, in, head_gate(form, in, head), load_scalar(in.gate.data, in.gate.dtype, element_offset(in.gate, c.n, c.row, c.begin + t, head)));
        beta = beta_value(form, load_scalar(in.beta.data, in.beta.dtype, element_offset(in.beta, c.n, c.row, c.begin + t, head)));
    }
    float sum = g;
#pragma unroll
    for (int distance = 1; distance < kWarp; distance *= 2) {
        const float before = __shfl_up_sync(kAllLanes, sum, distance);
        if (t >= distance) sum += before;
    }
    s.g[t] = g;
    s.beta[t] = beta;
    s.log_decay[t] = sum;
}

// F, B into shared memory; dbeta; the norms of q and k; and Z's share of dg.
__device__ __forceinline__ void chunk_products(const BackwardParams& p, const Chunk& c, int32_t head, ChunkShared& s) {
    const Form& form = p.call.form;
    const Inputs& in = p.call.in;
    const int i = threadIdx.x / 8, lane = threadIdx.x % 8;
    float do_e[kPairs] = {}, du_e[kPairs] = {}, q_k[kPairs] = {}, k_k[kPairs] = {}, squares = 0.f, unused = 0.f;

#pragma unroll 1
    for (int v = 0; v < form.value_dim; v += kTileV) {
        load_value_rows(p, c, head, v, s);
        wait_all_copies();
        __syncthreads();
        add_pair_products(s, s.c, do_e, du_e, unused);
        __syncthreads();
    }
    const int32_t key_head = key_head_of(form, head);
    const ChunkRows q = rows_of_view(in.q, c, key_head, form.key_dim), k = rows_of_view(in.k, c, key_head, form.key_dim);
#pragma unroll 1
    for (int first = 0; first < form.key_dim; first += kTileV) {
        load_rows<kTileV>(s.a, q, first);
        load_rows<kTileV>(s.b, k, first);
        __syncthreads();
        add_pair_products(s, s.b, q_k, k_k, squares);
        __syncthreads();
    }

    const float q_squares = sum_over_eight(squares);
    if (lane == 0) s.q_norm[i] = inverse_norm(form, q_squares);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair)
        if (lane + 8 * pair == i) {
            s.k_norm[i] = inverse_norm(form, k_k[pair]);
            s.d_beta[i] = du_e[pair];  // dbeta_i = du_i·e_i
        }
    __syncthreads();

    const float scale = static_cast<float>(form.scale);
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
        const int j = lane + 8 * pair;
        // The mask before the exponential: above the diagonal the difference may be large.
        const float gamma = i >= j ? expf(s.log_decay[i] - s.log_decay[j]) : 0.f;
        const float f = i >= j ? scale * gamma * s.beta[j] * do_e[pair] : 0.f;
        const float b = i > j ? -gamma * s.beta[i] * s.beta[j] * du_e[pair] : 0.f;
        s.f[i][j] = f;
        s.bb[i][j] = b;
        s.z[i][j] = i > j ? f * q_k[pair] * s.q_norm[i] * s.k_norm[j] + b * k_k[pair] * s.k_norm[i] * s.k_norm[j] : 0.f;
    }
    __syncthreads();

    // z_sum_t = sum of Z_ij over i >= t > j
    const int t = i;
    float sum = 0.f;
    for (int row = t + lane; row < kChunk; row += 8)
#pragma unroll 2
        for (int j = 0; j < t; ++j) sum += s.z[row][j];
    sum = sum_over_eight(sum);
    if (lane == 0) s.z_sum[t] = sum;
    __syncthreads();  // z makes room for the state tiles
}

// One tile of K columns: dQ and dK of the chunk there, into the workspace; returns this thread's part of <S0, D>.
__device__ __forceinline__ float key_gradients(const BackwardParams& p, const Chunk& c, int32_t head, int first_key, ChunkShared& s,
                                               float (&plus)[kRowsPerWarp], float (&minus)[kRowsPerWarp]) {
    const Form& form = p.call.form;
    const Inputs& in = p.call.in;
    const int64_t heads = form.value_heads, matrix = (c.slot * heads + head) * form.key_dim * form.value_dim;
    const int lane = threadIdx.x % kWarp, row0 = threadIdx.x / kWarp * kRowsPerWarp;
    float do_s[kRowsPerWarp][2] = {}, du_s[kRowsPerWarp][2] = {}, e_d[kRowsPerWarp][2] = {}, carry = 0.f;  // columns lane and lane + 32

#pragma unroll 1
    for (int v = 0; v < form.value_dim; v += kTileV) {
        const int64_t at = matrix + static_cast<int64_t>(first_key) * form.value_dim + v;
        const int32_t keys = form.key_dim - first_key, columns = form.value_dim - v;
        const bool pieces = form.value_dim % 4 == 0;
        load_tile(s.state.s0, p.chunk_states + at, form.value_dim, keys, columns, pieces);
        load_tile(s.state.d, p.chunk_gradients + at, form.value_dim, keys, columns, pieces);
        load_value_rows(p, c, head, v, s);
        wait_all_copies();
        __syncthreads();
#pragma unroll 2
        for (int i = threadIdx.x; i < kTileK * kTileV; i += kChunkThreads)
            carry = fmaf(s.state.s0[i / kTileV][i % kTileV], s.state.d[i / kTileV][i % kTileV], carry);
#pragma unroll 2
        for (int x = 0; x < kTileV; x += 4) {
            float4 s0[2], d[2];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                s0[j] = *reinterpret_cast<const float4*>(&s.state.s0[lane + j * kWarp][x]);
                d[j] = *reinterpret_cast<const float4*>(&s.state.d[lane + j * kWarp][x]);
            }
#pragma unroll
            for (int r = 0; r < kRowsPerWarp; ++r) {
                const float4 a = *reinterpret_cast<const float4*>(&s.a[row0 + r][x]), b = *reinterpret_cast<const float4*>(&s.b[row0 + r][x]);
                const float4 u = *reinterpret_cast<const float4*>(&s.c[row0 + r][x]);
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                    do_s[r][j] = fmaf(a.x, s0[j].x, fmaf(a.y, s0[j].y, fmaf(a.z, s0[j].z, fmaf(a.w, s0[j].w, do_s[r][j]))));
                    du_s[r][j] = fmaf(b.x, s0[j].x, fmaf(b.y, s0[j].y, fmaf(b.z, s0[j].z, fmaf(b.w, s0[j].w, du_s[r][j]))));
                    e_d[r][j] = fmaf(u.x, d[j].x, fmaf(u.y, d[j].y, fmaf(u.z, d[j].z, fmaf(u.w, d[j].w, e_d[r][j]))));
                }
            }
        }
        __syncthreads();
    }

    const int32_t key_head = key_head_of(form, head);
    load_rows<kTileK>(s.keys.q, rows_of_view(in.q, c, key_head, form.key_dim), first_key);
    load_rows<kTileK>(s.keys.k, rows_of_view(in.k, c, key_head, form.key_dim), first_key);
    __syncthreads();
    const float scale = static_cast<float>(form.scale), last = s.log_decay[kChunk - 1];
    float dq[kRowsPerWarp][2], dk[kRowsPerWarp][2];
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
        const int i = row0 + r;
        const float decay = expf(s.log_decay[i]), rest = expf(last - s.log_decay[i]);  // E_i, R_i
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float q = s.keys.q[i][lane + j * kWarp] * s.q_norm[i], k = s.keys.k[i][lane + j * kWarp] * s.k_norm[i];
            const float from_out = scale * decay * do_s[r][j];         // s diag(E) dO S0^T
            const float from_value = -decay * s.beta[i] * du_s[r][j];  // -diag(E) dV S0^T
            const float from_state = rest * s.beta[i] * e_d[r][j];     // diag(R) U D^T
            plus[r] += from_out * q + from_value * k;
            minus[r] += from_state * k;
            dq[r][j] = from_out;
            dk[r][j] = from_value + from_state;
        }
    }
    // dQ += F K,  dK += F^T Q + (B + B^T) K
#pragma unroll 2
    for (int x = 0; x < kChunk; ++x) {
        float q[2], k[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            q[j] = s.keys.q[x][lane + j * kWarp] * s.q_norm[x];
            k[j] = s.keys.k[x][lane + j * kWarp] * s.k_norm[x];
        }
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r) {
            const int i = row0 + r;
            const float f = s.f[i][x], f_transposed = s.f[x][i], b = s.bb[i][x] + s.bb[x][i];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                dq[r][j] = fmaf(f, k[j], dq[r][j]);
                dk[r][j] = fmaf(f_transposed, q[j], fmaf(b, k[j], dk[r][j]));
            }
        }
    }
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int i = row0 + r, key = first_key + lane + j * kWarp;
            if (i >= c.length || key >= form.key_dim) continue;
            const int64_t at = ((c.slot * kChunk + i) * heads + head) * form.key_dim + key;
            p.head_dq[at] = dq[r][j];
            p.head_dk[at] = dk[r][j];
        }
    __syncthreads();  // before the next tile's states come in
    return carry;
}

// dg by the straddle sum, then what the caller's gate and beta hold. One warp, a token a lane.
__device__ __forceinline__ void gate_gradients(const BackwardParams& p, const Chunk& c, int32_t head, ChunkShared& s) {
    const Backward& call = p.call;
    const Form& form = call.form;
    const int t = threadIdx.x;
    float carry = 0.f;
#pragma unroll
    for (int w = 0; w < kChunkThreads / kWarp; ++w) carry += s.carry[w];
    float dg = expf(s.log_decay[kChunk - 1]) * carry + s.z_sum[t];
    for (int i = 0; i < kChunk; ++i) dg += i >= t ? s.plus[i] : s.minus[i];

    float d_rate = 0.f, d_bias = 0.f;
    if (t < c.length) {
        const Inputs& in = call.in;
        float d_gate = dg;
        if (form.gate == FLASHQLA_GATE_LINEAR) d_gate = dg * expf(-s.g[t]);  // dg / alpha, alpha as clamped
        if (form.gate == FLASHQLA_GATE_RAW) {
            const HeadGate gate = head_gate(form, in, head);
            const float a = load_scalar(in.gate.data, in.gate.dtype, element_offset(in.gate, c.n, c.row, c.begin + t, head));
            d_gate = -dg * gate_rate(in, gate) * sigmoid(a + gate_bias(in, gate));
            d_rate = dg * s.g[t];
            d_bias = d_gate;
        }
        const View &gate_out = call.grad.gate, &beta_out = call.grad.beta;
        if (gate_out.data) store_scalar(gate_out.data, gate_out.dtype, element_offset(gate_out, c.n, c.row, c.begin + t, head), d_gate);
        if (beta_out.data) {
            float d_beta = static_cast<float>(form.beta_scale) * s.d_beta[t];
            if (form.beta == FLASHQLA_BETA_LOGIT) {
                const float z = sigmoid(load_scalar(in.beta.data, in.beta.dtype, element_offset(in.beta, c.n, c.row, c.begin + t, head)));
                d_beta *= z * (1.f - z);
            }
            store_scalar(beta_out.data, beta_out.dtype, element_offset(beta_out, c.n, c.row, c.begin + t, head), d_beta);
        }
    }
    d_rate = sum_over_warp(d_rate);
    d_bias = sum_over_warp(d_bias);
    if (p.partial_sums && t == 0) {
        float* to = p.partial_sums + ((p.first_slot + c.slot) * form.value_heads + head) * 2;
        to[0] = d_rate;
        to[1] = d_bias;
    }
}

// A chunk of a PAD row, or a slot that no chunk has.
__device__ __forceinline__ void zero_chunk(const BackwardParams& p, const Chunk& c, int32_t head) {
    const View &gate = p.call.grad.gate, &beta = p.call.grad.beta;
    const int t = threadIdx.x;
    if (t < c.length) {
        if (gate.data) store_scalar(gate.data, gate.dtype, element_offset(gate, c.n, c.row, c.begin + t, head), 0.f);
        if (beta.data) store_scalar(beta.data, beta.dtype, element_offset(beta, c.n, c.row, c.begin + t, head), 0.f);
    }
    if (p.partial_sums && t < 2) p.partial_sums[((p.first_slot + c.slot) * p.call.form.value_heads + head) * 2 + t] = 0.f;
}

// Grid (slots * HV).
__device__ __forceinline__ void chunk_kernel(const BackwardParams& p, ChunkShared& s) {
    const uint32_t heads = p.call.form.value_heads;
    const int32_t head = blockIdx.x % heads;
    const int64_t slot = blockIdx.x / heads;
    if (p.first_slot + slot >= p.all_slots) return;  // the last segment may have fewer
    const Chunk c = chunk_at(p, slot);
    if (c.skip || c.length == 0) {
        zero_chunk(p, c, head);
        return;
    }
    load_gates(p, c, head, s);
    chunk_products(p, c, head, s);

    float plus[kRowsPerWarp] = {}, minus[kRowsPerWarp] = {}, carry = 0.f;
#pragma unroll 1
    for (int first_key = 0; first_key < p.call.form.key_dim; first_key += kTileK) carry += key_gradients(p, c, head, first_key, s, plus, minus);
    const int warp = threadIdx.x / kWarp;
    carry = sum_over_warp(carry);
#pragma unroll
    for (int r = 0; r < kRowsPerWarp; ++r) {
        plus[r] = sum_over_warp(plus[r]);
        minus[r] = sum_over_warp(minus[r]);
    }
    if (threadIdx.x % kWarp == 0) {
        s.carry[warp] = carry;
#pragma unroll
        for (int r = 0; r < kRowsPerWarp; ++r) {
            s.plus[warp * kRowsPerWarp + r] = plus[r];
            s.minus[warp * kRowsPerWarp + r] = minus[r];
        }
    }
    __syncthreads();
    if (threadIdx.x < kWarp) gate_gradients(p, c, head, s);
}

}  // namespace fqla
