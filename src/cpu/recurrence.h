// The definition of Gated DeltaNet, token by token, and its gradient: what everything else is measured against. Plain loops on any scalar;
// the CPU backend runs them in double for F64 tensors.
#pragma once
#include <cmath>
#include <cstdint>

namespace fqla::cpu {

template <class Real>
struct Token {
    const Real *q, *k, *v;
    Real decay, beta;  // exp(g_t), beta_t
};

struct Dims {
    int key, value;
    int64_t state() const { return int64_t{key} * value; }
};

// out[V] = S^T x
template <class Real>
void multiply_transposed(const Dims& d, const Real* S, const Real* x, Real* out) {
    for (int j = 0; j < d.value; j++) out[j] = 0;
    for (int i = 0; i < d.key; i++)
        for (int j = 0; j < d.value; j++) out[j] += S[i * d.value + j] * x[i];
}

// out[K] = S x
template <class Real>
void multiply(const Dims& d, const Real* S, const Real* x, Real* out) {
    for (int i = 0; i < d.key; i++) {
        out[i] = 0;
        for (int j = 0; j < d.value; j++) out[i] += S[i * d.value + j] * x[j];
    }
}

// S += c outer(x, y)
template <class Real>
void add_outer(const Dims& d, Real* S, Real c, const Real* x, const Real* y) {
    for (int i = 0; i < d.key; i++)
        for (int j = 0; j < d.value; j++) S[i * d.value + j] += c * x[i] * y[j];
}

template <class Real>
Real dot(int n, const Real* x, const Real* y) {
    Real sum = 0;
    for (int i = 0; i < n; i++) sum += x[i] * y[i];
    return sum;
}

// e = v - S'^T k
template <class Real>
void residual(const Dims& d, const Real* decayed, const Token<Real>& x, Real* e) {
    multiply_transposed(d, decayed, x.k, e);
    for (int j = 0; j < d.value; j++) e[j] = x.v[j] - e[j];
}

// S <- S' + outer(k, beta (v - S'^T k)),  S' = exp(g) S.  `e` is scratch [V].
template <class Real>
void step(const Dims& d, const Token<Real>& x, Real* S, Real* e) {
    for (int64_t i = 0; i < d.state(); i++) S[i] *= x.decay;
    residual(d, S, x, e);
    add_outer(d, S, x.beta, x.k, e);
}

// o = scale S^T q
template <class Real>
void output(const Dims& d, const Token<Real>& x, const Real* S, Real scale, Real* o) {
    multiply_transposed(d, S, x.q, o);
    for (int j = 0; j < d.value; j++) o[j] *= scale;
}

template <class Real>
struct TokenGradients {
    Real *q, *k, *v;
    Real log_gate, beta;
};

template <class Real>
struct StepBackScratch {
    Real *decayed, *e, *du, *key;  // [K, V], [V], [V], [K]
};

// From D = dL/dS_t (without this token's output) to D = dL/dS_{t-1}, with the gradients of token t on the way.
template <class Real>
void step_back(const Dims& d, const Token<Real>& x, Real scale, const Real* d_out, const Real* before, const Real* after, Real* D,
               const StepBackScratch<Real>& s, TokenGradients<Real>& grad) {
    for (int64_t i = 0; i < d.state(); i++) s.decayed[i] = x.decay * before[i];
    residual(d, s.decayed, x, s.e);

    multiply(d, after, d_out, grad.q);  // dq = scale S_t do
    for (int i = 0; i < d.key; i++) grad.q[i] *= scale;
    add_outer(d, D, scale, x.q, d_out);

    multiply_transposed(d, D, x.k, s.du);  // du = D^T k
    grad.beta = dot(d.value, s.du, s.e);
    for (int j = 0; j < d.value; j++) grad.v[j] = x.beta * s.du[j];

    multiply(d, D, s.e, grad.k);  // dk = D u - S' dv,  u = beta e
    multiply(d, s.decayed, grad.v, s.key);
    for (int i = 0; i < d.key; i++) grad.k[i] = x.beta * grad.k[i] - s.key[i];

    add_outer(d, D, Real(-1), x.k, grad.v);  // dS' = D - outer(k, dv)
    grad.log_gate = 0;
    for (int64_t i = 0; i < d.state(); i++) {
        grad.log_gate += D[i] * s.decayed[i];
        D[i] *= x.decay;
    }
}

// y = x / sqrt(sum x^2 + eps) in place; returns the factor.
template <class Real>
Real normalise(int n, Real* x, Real eps) {
    const Real factor = 1 / std::sqrt(dot(n, x, x) + eps);
    for (int i = 0; i < n; i++) x[i] *= factor;
    return factor;
}

// dx = factor (dy - y (y . dy)) in place of dy.
template <class Real>
void normalise_back(int n, const Real* y, Real factor, Real* dy) {
    const Real along = dot(n, y, dy);
    for (int i = 0; i < n; i++) dy[i] = factor * (dy[i] - y[i] * along);
}

}  // namespace fqla::cpu
