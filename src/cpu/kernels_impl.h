// The kernels of kernels.h over the Vec of the including file, which names the table: FQLA_KERNELS, FQLA_KERNELS_NAME. Everything is in an
// anonymous namespace (see float16.h); nothing here may call an inline function of a header that other files share.
#include <string.h>

#include "backward_chunk.h"
#include "flashqla.h"
#include "kernels.h"

namespace fqla::cpu {
namespace {

constexpr int kWidth = Vec::width;
constexpr int kBlock = kBlockVecs * kWidth;  // columns of a state block
static_assert(kPad % kBlock == 0, "rows are padded to whole blocks");

inline int padded(int count) { return (count + kPad - 1) / kPad * kPad; }

// ---------------------------------------------------------------- rows in and out

struct F32 {
    typedef float Element;
    static Vec load_vec(const float* p) { return load(p); }
    static void store_vec(float* p, Vec x) { store(p, x); }
};
struct Bf16 {
    typedef uint16_t Element;
    static Vec load_vec(const uint16_t* p) { return load_bf16(p); }
    static void store_vec(uint16_t* p, Vec x) { store_bf16(p, x); }
};
struct F16 {
    typedef uint16_t Element;
    static Vec load_vec(const uint16_t* p) { return load_f16(p); }
    static void store_vec(uint16_t* p, Vec x) { store_f16(p, x); }
};

template <class Type>
void load_row(const typename Type::Element* from, int count, float* to) {
    int i = 0;
    for (; i + kWidth <= count; i += kWidth) store(to + i, Type::load_vec(from + i));
    if (i < count) {
        typename Type::Element rest[kWidth] = {};
        memcpy(rest, from + i, static_cast<size_t>(count - i) * sizeof(rest[0]));
        store(to + i, Type::load_vec(rest));
        i += kWidth;
    }
    for (const int end = padded(count); i < end; i += kWidth) store(to + i, broadcast(0));
}

template <class Type>
void store_row(const float* from, int count, typename Type::Element* to) {
    int i = 0;
    for (; i + kWidth <= count; i += kWidth) Type::store_vec(to + i, load(from + i));
    if (i == count) return;
    typename Type::Element rest[kWidth];
    Type::store_vec(rest, load(from + i));
    memcpy(to + i, rest, static_cast<size_t>(count - i) * sizeof(rest[0]));
}

template <class Type>
void load_rows_of(const void* from, int64_t from_stride, int rows, int count, float* to, int64_t to_stride) {
    for (int r = 0; r < rows; r++) load_row<Type>(static_cast<const typename Type::Element*>(from) + r * from_stride, count, to + r * to_stride);
}

template <class Type>
void store_rows_of(const float* from, int64_t from_stride, int rows, int count, void* to, int64_t to_stride) {
    for (int r = 0; r < rows; r++) store_row<Type>(from + r * from_stride, count, static_cast<typename Type::Element*>(to) + r * to_stride);
}

void load_rows(const void* from, int32_t dtype, int64_t from_stride, int rows, int count, float* to, int64_t to_stride) {
    if (dtype == FLASHQLA_DTYPE_F32)
        load_rows_of<F32>(from, from_stride, rows, count, to, to_stride);
    else if (dtype == FLASHQLA_DTYPE_BF16)
        load_rows_of<Bf16>(from, from_stride, rows, count, to, to_stride);
    else
        load_rows_of<F16>(from, from_stride, rows, count, to, to_stride);
}

void store_rows(const float* from, int64_t from_stride, int rows, int count, void* to, int32_t dtype, int64_t to_stride) {
    if (dtype == FLASHQLA_DTYPE_F32)
        store_rows_of<F32>(from, from_stride, rows, count, to, to_stride);
    else if (dtype == FLASHQLA_DTYPE_BF16)
        store_rows_of<Bf16>(from, from_stride, rows, count, to, to_stride);
    else
        store_rows_of<F16>(from, from_stride, rows, count, to, to_stride);
}

void transpose(const float* from, int64_t from_stride, int rows, int columns, float* to, int64_t to_stride) {
    const int whole_rows = rows / kWidth * kWidth, whole_columns = columns / kWidth * kWidth;
    for (int r = 0; r < whole_rows; r += kWidth)
        for (int c = 0; c < whole_columns; c += kWidth) {
            Vec square[kWidth];
            for (int i = 0; i < kWidth; i++) square[i] = load(from + (r + i) * from_stride + c);
            transpose_square(square);
            for (int i = 0; i < kWidth; i++) store(to + (c + i) * to_stride + r, square[i]);
        }
    for (int r = 0; r < rows; r++)
        for (int c = r < whole_rows ? whole_columns : 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

// ---------------------------------------------------------------- per token

inline float dot(const float* x, const float* y, int dim) {
    Vec total = broadcast(0);
    for (int i = 0; i < dim; i += kWidth) total = fma(load(x + i), load(y + i), total);
    return sum(total);
}

void normalise(float* rows, int count, int dim, float eps, float* factors) {
    for (int t = 0; t < count; t++) {
        float* x = rows + t * kRowStride;
        const float factor = 1 / sqrtf(dot(x, x, dim) + eps);
        const Vec f = broadcast(factor);
        for (int i = 0; i < dim; i += kWidth) store(x + i, mul(load(x + i), f));
        if (factors) factors[t] = factor;
    }
}

void dots(const float* keys, const float* queries, int dim, int minis, MiniDots* out) {
    for (int m = 0; m < minis; m++, keys += kMiniTokens * kRowStride, queries += kMiniTokens * kRowStride) {
        Vec kk[kMiniTokens][kMiniTokens], qk[kMiniTokens][kMiniTokens];
        for (int t = 0; t < kMiniTokens; t++)
            for (int j = 0; j <= t; j++) kk[t][j] = qk[t][j] = broadcast(0);
        for (int i = 0; i < dim; i += kWidth) {
            Vec k[kMiniTokens];
            for (int t = 0; t < kMiniTokens; t++) k[t] = load(keys + t * kRowStride + i);
            for (int t = 0; t < kMiniTokens; t++) {
                const Vec q = load(queries + t * kRowStride + i);
                for (int j = 0; j <= t; j++) {
                    qk[t][j] = fma(q, k[j], qk[t][j]);
                    if (j < t) kk[t][j] = fma(k[t], k[j], kk[t][j]);
                }
            }
        }
        for (int t = 0; t < kMiniTokens; t++)
            for (int j = 0; j <= t; j++) {
                out[m].qk[t][j] = sum(qk[t][j]);
                out[m].kk[t][j] = sum(kk[t][j]);
            }
    }
}

// ---------------------------------------------------------------- the state

// One block of columns over all mini-chunks of C tokens of a tile. N vectors wide.
template <int C, bool kOutputs>
void run_block(const Tile& tile, int column) {
    constexpr int N = kBlockVecs;
    float* const state = tile.state + column;
    float* const pending_u = tile.pending.u + column;
    const float* old_keys = tile.keys - C * kRowStride;
    Vec decay = broadcast(tile.pending.decay), u[C][N];
    for (int j = 0; j < C; j++)
        for (int n = 0; n < N; n++) u[j][n] = load(pending_u + j * kRowStride + n * kWidth);

    for (int m = 0; m < tile.minis; m++) {
        const float* const keys = tile.keys + m * C * kRowStride;
        const float* const queries = tile.queries + m * C * kRowStride;
        Vec a[C][N], r[C][N];
        for (int t = 0; t < C; t++)
            for (int n = 0; n < N; n++) a[t][n] = r[t][n] = broadcast(0);
        float* s = state;
        for (int i = 0; i < tile.key_dim; i++, s += tile.state_stride) {  // S <- decay S + k u^T;  a = S^T k;  r = S^T q
            Vec p[N];
            for (int n = 0; n < N; n++) p[n] = mul(decay, load(s + n * kWidth));
            for (int j = 0; j < C; j++) {
                const Vec k = broadcast(old_keys[j * kRowStride + i]);
                for (int n = 0; n < N; n++) p[n] = fma(k, u[j][n], p[n]);
            }
            for (int n = 0; n < N; n++) store(s + n * kWidth, p[n]);
            for (int t = 0; t < C; t++) {
                const Vec k = broadcast(keys[t * kRowStride + i]);
                for (int n = 0; n < N; n++) a[t][n] = fma(k, p[n], a[t][n]);
                if (!kOutputs) continue;
                const Vec q = broadcast(queries[t * kRowStride + i]);
                for (int n = 0; n < N; n++) r[t][n] = fma(q, p[n], r[t][n]);
            }
        }

        const MiniChunk& x = tile.mini[m];
        float* const values = tile.values + m * C * kRowStride + column;
        for (int t = 0; t < C; t++) {
            const Vec e_decay = broadcast(-x.decay[t]), beta = broadcast(x.beta[t]), out_decay = broadcast(x.out_decay[t]);
            for (int n = 0; n < N; n++) {
                Vec e = fma(e_decay, a[t][n], load(values + t * kRowStride + n * kWidth));
                for (int j = 0; j < t; j++) e = fma(broadcast(-x.solve[t][j]), u[j][n], e);
                u[t][n] = mul(beta, e);
                if (!kOutputs) continue;
                Vec o = mul(out_decay, r[t][n]);
                for (int j = 0; j <= t; j++) o = fma(broadcast(x.out[t][j]), u[j][n], o);
                store(values + t * kRowStride + n * kWidth, o);
            }
        }
        for (int t = 0; t < C; t++)
            for (int n = 0; n < N; n++) u[t][n] = mul(broadcast(x.tail[t]), u[t][n]);
        decay = broadcast(x.decay[C - 1]);
        old_keys = keys;
    }
    for (int j = 0; j < C; j++)
        for (int n = 0; n < N; n++) store(pending_u + j * kRowStride + n * kWidth, u[j][n]);
}

template <int C, bool kOutputs>
void run_tile(const Tile& tile) {
    for (int column = 0; column < tile.columns; column += kBlock) run_block<C, kOutputs>(tile, column);
}

void flush(const Pending& pending, int tokens, int key_dim, int columns, float* state, int64_t state_stride) {
    const Vec decay = broadcast(pending.decay);
    for (int i = 0; i < key_dim; i++, state += state_stride)
        for (int c = 0; c < columns; c += kWidth) {
            Vec p = mul(decay, load(state + c));
            for (int j = 0; j < tokens; j++) p = fma(broadcast(pending.keys[j * kRowStride + i]), load(pending.u + j * kRowStride + c), p);
            store(state + c, p);
        }
}

// ---------------------------------------------------------------- products

// C (+)= A B, rows of B and C contiguous; element (i, l) of A lies at a[i*a_row + l*a_column]. columns is a multiple of kPad.
struct Product {
    int rows, columns, depth;
    const float* a;
    int64_t a_row, a_column;
    const float* b;
    int64_t b_row;
    float* c;
    int64_t c_row;
    bool add;
};

// R rows of C at a time, N vectors wide.
template <int R, int N>
void multiply_rows(const Product& x, int row, int column) {
    Vec c[R][N];
    float* const out = x.c + row * x.c_row + column;
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) c[r][n] = x.add ? load(out + r * x.c_row + n * kWidth) : broadcast(0);
    const float* a = x.a + row * x.a_row;
    const float* b = x.b + column;
    for (int l = 0; l < x.depth; l++, a += x.a_column, b += x.b_row) {
        Vec y[N];
        for (int n = 0; n < N; n++) y[n] = load(b + n * kWidth);
        for (int r = 0; r < R; r++) {
            const Vec s = broadcast(a[r * x.a_row]);
            for (int n = 0; n < N; n++) c[r][n] = fma(s, y[n], c[r][n]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) store(out + r * x.c_row + n * kWidth, c[r][n]);
}

void multiply(const Product& x) {
    constexpr int R = kBlockVecs == 2 ? 8 : 4, N = 2;  // sums, operands and the scalar fill the registers
    static_assert(kPad % (N * kWidth) == 0, "whole vectors");
    for (int column = 0; column < x.columns; column += N * kWidth) {
        int row = 0;
        for (; row + R <= x.rows; row += R) multiply_rows<R, N>(x, row, column);
        for (; row + 2 <= x.rows; row += 2) multiply_rows<2, N>(x, row, column);
        for (; row < x.rows; row++) multiply_rows<1, N>(x, row, column);
    }
}

}  // namespace
}  // namespace fqla::cpu

#include "kernels_backward_impl.h"
#include "kernels_decode_impl.h"

namespace fqla::cpu {

const Kernels FQLA_KERNELS = {FQLA_KERNELS_NAME,
                              load_rows,
                              store_rows,
                              transpose,
                              normalise,
                              dots,
                              run_tile<kMiniTokens, true>,
                              run_tile<1, true>,
                              run_tile<kMiniTokens, false>,
                              flush,
                              decode_kv,
                              decode_vk,
                              prepare_chunk,
                              backward_chunk,
                              normalise_back};

}  // namespace fqla::cpu
