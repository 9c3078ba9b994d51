// The backward of a chunk, see backward_chunk.h. Part of kernels_impl.h.
namespace fqla::cpu {
namespace {

// c (+)= a b
inline void product(int rows, int columns, int depth, const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                    bool add) {
    multiply({rows, columns, depth, a, a_stride, 1, b, b_stride, c, c_stride, add});
}

// c (+)= a^T b; a has `depth` rows
inline void product_transposed(int rows, int columns, int depth, const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* c, int64_t c_stride,
                               bool add) {
    multiply({rows, columns, depth, a, 1, a_stride, b, b_stride, c, c_stride, add});
}

// to = factor x + y
inline void scale_add(int n, float factor, const float* x, const float* y, float* to) {
    const Vec f = broadcast(factor);
    for (int i = 0; i < n; i += kWidth) store(to + i, fma(f, load(x + i), load(y + i)));
}

inline void scale_row(int n, float factor, const float* x, float* to) {
    const Vec f = broadcast(factor);
    for (int i = 0; i < n; i += kWidth) store(to + i, mul(f, load(x + i)));
}

void prepare_chunk(ChunkMemory& m, int count, int key_dim) {
    transpose(m.k[0], kRowStride, kTileTokens, key_dim, m.k_transposed[0], kTileTokens);
    product(count, kTileTokens, key_dim, m.k[0], kRowStride, m.k_transposed[0], kTileTokens, m.kk[0], kTileTokens, false);
    product(count, kTileTokens, key_dim, m.q[0], kRowStride, m.k_transposed[0], kTileTokens, m.qk[0], kTileTokens, false);
    memset(m.dq, 0, sizeof m.dq);
    memset(m.dk, 0, sizeof m.dk);
}

// E, R, G and what they scale. Every factor is a product of decays.
void chunk_decays(ChunkMemory& m, const ChunkHead& x) {
    float from_start = 1, to_end = 1;
    for (int i = 0; i < x.count; i++) m.from_start[i] = from_start *= m.decay[i];
    for (int i = x.count - 1; i >= 0; i--) {
        m.to_end[i] = to_end;
        to_end *= m.decay[i];
    }
    for (int i = 0; i < x.count; i++)
        for (int j = 0; j < kTileTokens; j++) {
            m.span[i][j] = j < i ? m.span[i - 1][j] * m.decay[i] : j == i ? 1.0f : 0.0f;
            m.solve[i][j] = j < i ? m.beta[i] * m.span[i][j] * m.kk[i][j] : 0.0f;
            m.p[i][j] = j <= i ? x.scale * m.span[i][j] * m.qk[i][j] : 0.0f;
        }
}

constexpr int kSolveStep = 8;

// U = beta (V - E Y) - strict(solve) U, in blocks of rows: earlier blocks by a product, the rest row by row. Y comes in u; e goes out.
void solve_deltas(ChunkMemory& m, const ChunkHead& x, int columns) {
    for (int i = 0; i < x.count; i++) {
        scale_add(columns, -m.from_start[i], m.u[i], m.v[i], m.e[i]);
        for (int j = 0; j < kTileTokens; j++) m.f[i][j] = j < i ? -m.span[i][j] * m.kk[i][j] : 0.0f;
    }
    for (int first = 0; first < x.count; first += kSolveStep) {
        const int end = first + kSolveStep < x.count ? first + kSolveStep : x.count;
        product(end - first, columns, first, m.f[first], kTileTokens, m.u[0], kRowStride, m.e[first], kRowStride, true);
        for (int i = first; i < end; i++) {
            product(1, columns, i - first, &m.f[i][first], kTileTokens, m.u[first], kRowStride, m.e[i], kRowStride, true);
            scale_row(columns, m.beta[i], m.e[i], m.u[i]);
        }
    }
}

// dX = dU - strict(solve)^T dX, in place of dU in dx.
void solve_deltas_back(ChunkMemory& m, const ChunkHead& x, int columns) {
    for (int i = 0; i < x.count; i++)
        for (int j = 0; j < i; j++) m.b[i][j] = -m.solve[i][j];
    const int blocks = (x.count + kSolveStep - 1) / kSolveStep;
    for (int first = (blocks - 1) * kSolveStep; first >= 0; first -= kSolveStep) {
        const int end = first + kSolveStep < x.count ? first + kSolveStep : x.count;
        if (end < x.count)
            product_transposed(end - first, columns, x.count - end, &m.b[end][first], kTileTokens, m.dx[end], kRowStride, m.dx[first], kRowStride, true);
        for (int i = end - 2; i >= first; i--)
            product_transposed(1, columns, end - 1 - i, &m.b[i + 1][i], kTileTokens, m.dx[i + 1], kRowStride, m.dx[i], kRowStride, true);
    }
}

void value_gradients(ChunkMemory& m, const ChunkHead& x, int columns) {
    product(x.count, columns, x.key_dim, m.k[0], kRowStride, x.gradient, x.stride, m.dx[0], kRowStride, false);  // dU = R (K D) + scale P^T dO
    for (int i = 0; i < x.count; i++) scale_row(columns, m.to_end[i], m.dx[i], m.dx[i]);
    product_transposed(x.count, columns, x.count, m.p[0], kTileTokens, m.d_out[0], kRowStride, m.dx[0], kRowStride, true);
    solve_deltas_back(m, x, columns);
    for (int i = 0; i < x.count; i++) {
        m.d_beta[i] = dot(m.dx[i], m.e[i], columns);
        scale_row(columns, m.beta[i], m.dx[i], m.dv[i]);
        scale_row(columns, -m.from_start[i], m.dv[i], m.dy[i]);
        scale_row(columns, x.scale * m.from_start[i], m.d_out[i], m.scaled_out[i]);
    }
}

// dP, dL, then F and B.
void pair_gradients(ChunkMemory& m, const ChunkHead& x, int columns) {
    transpose(m.u[0], kRowStride, kTileTokens, columns, m.u_transposed[0], kTileTokens);
    product(x.count, kTileTokens, columns, m.d_out[0], kRowStride, m.u_transposed[0], kTileTokens, m.dp[0], kTileTokens, false);
    product(x.count, kTileTokens, columns, m.dx[0], kRowStride, m.u_transposed[0], kTileTokens, m.dl[0], kTileTokens, false);
    for (int i = 0; i < x.count; i++)
        for (int j = 0; j < kTileTokens; j++) {
            m.f[i][j] = j <= i ? x.scale * m.span[i][j] * m.dp[i][j] : 0.0f;
            m.b[i][j] = j < i ? -m.beta[i] * m.span[i][j] * m.dl[i][j] : 0.0f;
        }
}

void key_gradients(ChunkMemory& m, const ChunkHead& x, int key_columns, int columns) {
    const auto add_product = [&](const float* a, const float* b, const float* factors, float* sums, const float* along, float* dots) {
        product(x.count, key_columns, columns, a, kRowStride, b, kRowStride, m.product[0], kRowStride, false);
        for (int i = 0; i < x.count; i++) {
            if (factors) scale_row(key_columns, factors[i], m.product[i], m.product[i]);
            dots[i] += dot(m.product[i], along + i * kRowStride, key_columns);
            scale_add(key_columns, 1, m.product[i], sums + i * kRowStride, sums + i * kRowStride);
        }
    };
    memset(m.plus, 0, sizeof m.plus);
    memset(m.minus, 0, sizeof m.minus);
    add_product(m.scaled_out[0], m.state_transposed[0], nullptr, m.dq[0], m.q[0], m.plus);
    add_product(m.dy[0], m.state_transposed[0], nullptr, m.dk[0], m.k[0], m.plus);
    add_product(m.u[0], m.gradient_transposed[0], m.to_end, m.dk[0], m.k[0], m.minus);
    product(x.count, key_columns, x.count, m.f[0], kTileTokens, m.k[0], kRowStride, m.dq[0], kRowStride, true);
    product_transposed(x.count, key_columns, x.count, m.f[0], kTileTokens, m.q[0], kRowStride, m.dk[0], kRowStride, true);
    product(x.count, key_columns, x.count, m.b[0], kTileTokens, m.k[0], kRowStride, m.dk[0], kRowStride, true);
    product_transposed(x.count, key_columns, x.count, m.b[0], kTileTokens, m.k[0], kRowStride, m.dk[0], kRowStride, true);
}

// <S, D> over the chunk's border.
float carried(const ChunkHead& x, int columns) {
    float total = 0;
    for (int i = 0; i < x.key_dim; i++) total += dot(x.state + i * x.stride, x.gradient + i * x.stride, columns);
    return total;
}

void gate_gradients(ChunkMemory& m, const ChunkHead& x, float carry) {
    float pairs[kTileTokens] = {};  // sum over i >= t > j of Z_ij
    for (int i = 0; i < x.count; i++) {
        float before = 0;  // sum over j < t of Z_ij
        for (int t = 1; t <= i; t++) {
            const int j = t - 1;
            before += x.scale * m.dp[i][j] * m.span[i][j] * m.qk[i][j] - m.dl[i][j] * m.solve[i][j];
            pairs[t] += before;
        }
    }
    float after = 0, earlier = 0;
    for (int t = x.count - 1; t >= 0; t--) m.d_log_gate[t] = after += m.plus[t];
    for (int t = 0; t < x.count; t++) {
        m.d_log_gate[t] += earlier + carry + pairs[t];
        earlier += m.minus[t];
    }
}

void pass_gradient(ChunkMemory& m, const ChunkHead& x, int columns) {
    const float decay = m.from_start[x.count - 1];
    for (int i = 0; i < x.key_dim; i++) scale_row(columns, decay, x.gradient + i * x.stride, x.gradient + i * x.stride);
    product_transposed(x.key_dim, columns, x.count, m.k[0], kRowStride, m.dy[0], kRowStride, x.gradient, x.stride, true);
    product_transposed(x.key_dim, columns, x.count, m.q[0], kRowStride, m.scaled_out[0], kRowStride, x.gradient, x.stride, true);
}

void transpose_state(const ChunkHead& x, const float* state, int key_columns, int columns, float* to) {
    transpose(state, x.stride, x.key_dim, columns, to, kRowStride);
    for (int j = 0; x.key_dim < key_columns && j < columns; j++)
        memset(to + j * kRowStride + x.key_dim, 0, static_cast<size_t>(key_columns - x.key_dim) * sizeof(float));
}

void backward_chunk(ChunkMemory& m, const ChunkHead& x) {
    const int columns = padded(x.value_dim), key_columns = padded(x.key_dim);
    chunk_decays(m, x);
    product(x.count, columns, x.key_dim, m.k[0], kRowStride, x.state, x.stride, m.u[0], kRowStride, false);  // Y = K S
    solve_deltas(m, x, columns);
    value_gradients(m, x, columns);
    pair_gradients(m, x, columns);
    transpose_state(x, x.state, key_columns, columns, m.state_transposed[0]);
    transpose_state(x, x.gradient, key_columns, columns, m.gradient_transposed[0]);
    key_gradients(m, x, key_columns, columns);
    gate_gradients(m, x, m.from_start[x.count - 1] * carried(x, columns));
    pass_gradient(m, x, columns);
}

// dx = factor (dy - y (y . dy)) in place of dy.
void normalise_back(const float* y, const float* factors, int count, int dim, float* dy) {
    for (int t = 0; t < count; t++, y += kRowStride, dy += kRowStride) {
        scale_add(dim, -dot(y, dy, dim), y, dy, dy);
        scale_row(dim, factors[t], dy, dy);
    }
}

}  // namespace
}  // namespace fqla::cpu
