// Rows of one token: decoding. Part of kernels_impl.h.
namespace fqla::cpu {
namespace {

// u and o from a = S^T k and r = S^T q.
inline Vec decode_outputs(const MiniChunk& x, Vec a, Vec r, float* value) {
    const Vec u = mul(broadcast(x.beta[0]), fma(broadcast(-x.decay[0]), a, load(value)));
    store(value, fma(broadcast(x.out[0][0]), u, mul(broadcast(x.out_decay[0]), r)));
    return u;
}

// [K, V]: N vectors of columns down all rows, and down again.
template <class Type, int N>
void decode_columns(const Decode& x, int column) {
    const typename Type::Element* from = static_cast<const typename Type::Element*>(x.from) + column;
    Vec a[N], r[N], u[N];
    for (int n = 0; n < N; n++) a[n] = r[n] = broadcast(0);
    for (int i = 0; i < x.key_dim; i++) {
        const Vec k = broadcast(x.key[i]), q = broadcast(x.query[i]);
        for (int n = 0; n < N; n++) {
            const Vec s = Type::load_vec(from + i * x.stride + n * kWidth);
            a[n] = fma(k, s, a[n]);
            r[n] = fma(q, s, r[n]);
        }
    }
    for (int n = 0; n < N; n++) u[n] = decode_outputs(*x.token, a[n], r[n], x.value + column + n * kWidth);
    if (!x.to) return;
    typename Type::Element* to = static_cast<typename Type::Element*>(x.to) + column;
    const Vec decay = broadcast(x.token->decay[0]);
    for (int i = 0; i < x.key_dim; i++) {
        const Vec k = broadcast(x.key[i]);
        for (int n = 0; n < N; n++) Type::store_vec(to + i * x.stride + n * kWidth, fma(k, u[n], mul(decay, Type::load_vec(from + i * x.stride + n * kWidth))));
    }
}

template <class Type>
void decode_kv_of(const Decode& x) {
    int column = 0;
    for (; column + 4 * kWidth <= x.columns; column += 4 * kWidth) decode_columns<Type, 4>(x, column);
    for (; column < x.columns; column += kWidth) decode_columns<Type, 1>(x, column);
}

// [V, K]: a vector's worth of rows, four rows at a time.
template <class Type>
void decode_rows(const Decode& x, int row) {
    constexpr int R = 4;
    const typename Type::Element* from = static_cast<const typename Type::Element*>(x.from) + row * x.stride;
    float a[kWidth], r[kWidth], u[kWidth];
    for (int first = 0; first < kWidth; first += R) {
        Vec ak[R], rq[R];
        for (int j = 0; j < R; j++) ak[j] = rq[j] = broadcast(0);
        for (int i = 0; i < x.key_dim; i += kWidth) {
            const Vec k = load(x.key + i), q = load(x.query + i);
            for (int j = 0; j < R; j++) {
                const Vec s = Type::load_vec(from + (first + j) * x.stride + i);
                ak[j] = fma(k, s, ak[j]);
                rq[j] = fma(q, s, rq[j]);
            }
        }
        for (int j = 0; j < R; j++) {
            a[first + j] = sum(ak[j]);
            r[first + j] = sum(rq[j]);
        }
    }
    store(u, decode_outputs(*x.token, load(a), load(r), x.value + row));
    if (!x.to) return;
    typename Type::Element* to = static_cast<typename Type::Element*>(x.to) + row * x.stride;
    const Vec decay = broadcast(x.token->decay[0]);
    for (int j = 0; j < kWidth; j++) {
        const Vec uj = broadcast(u[j]);
        for (int i = 0; i < x.key_dim; i += kWidth)
            Type::store_vec(to + j * x.stride + i, fma(load(x.key + i), uj, mul(decay, Type::load_vec(from + j * x.stride + i))));
    }
}

void decode_kv(const Decode& x) {
    if (x.dtype == FLASHQLA_DTYPE_F32)
        decode_kv_of<F32>(x);
    else
        decode_kv_of<Bf16>(x);
}

void decode_vk(const Decode& x) {
    for (int row = 0; row < x.columns; row += kWidth) {
        if (x.dtype == FLASHQLA_DTYPE_F32)
            decode_rows<F32>(x, row);
        else
            decode_rows<Bf16>(x, row);
    }
}

}  // namespace
}  // namespace fqla::cpu
