// Random inputs, distributed as bench/compare.py's Case makes them, in whatever form the case wants them.
#include <cmath>
#include <cstring>

#include "sample.h"

namespace numeric {
namespace {

double softplus(double x) { return (x > 0 ? x : 0) + std::log1p(std::exp(-std::fabs(x))); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

size_t count_of(int64_t a, int64_t b, int64_t c) { return static_cast<size_t>(a) * static_cast<size_t>(b) * static_cast<size_t>(c); }

Numbers normals(size_t count, int32_t dtype, Random& random, double size = 1) {
    Numbers x(count);
    for (double& e : x) e = round_to(dtype, size * random.normal());
    return x;
}

void set_norm(double* x, int64_t dim, double norm) {
    double sum = 0;
    for (int64_t i = 0; i < dim; i++) sum += x[i] * x[i];
    for (int64_t i = 0; i < dim; i++) x[i] *= norm / std::sqrt(sum);
}

// [tokens, key heads, K]: unit vectors, or what the case's keys are. With the library's norm on they come with norms of 1/4 to 4.
Numbers make_keys(const Case& c, int64_t tokens, bool is_k, Random& random) {
    const auto heads = static_cast<size_t>(c.key_heads), dim = static_cast<size_t>(c.key_dim);
    Numbers x(count_of(tokens, c.key_heads, c.key_dim)), common(heads * dim);
    for (double& e : common) e = random.normal();
    for (size_t h = 0; h < heads; h++) set_norm(&common[h * dim], c.key_dim, 3);
    for (size_t row = 0; row < count_of(tokens, c.key_heads, 1); row++) {
        double* key = &x[row * dim];
        for (size_t i = 0; i < dim; i++) key[i] = random.normal();
        set_norm(key, c.key_dim, 1);
        if (is_k && c.keys == Keys::alike)
            for (size_t i = 0; i < dim; i++) key[i] += common[row % heads * dim + i];
        const double norm = c.qk_norm == FLASHQLA_NORM_L2 ? std::exp2(random.uniform(-2, 2)) : is_k && c.keys == Keys::long_ ? 1.4 : 1;
        set_norm(key, c.key_dim, norm);
        for (size_t i = 0; i < dim; i++) key[i] = round_to(c.dtype, key[i]);
    }
    return x;
}

// A_log and dt_bias as a model has them; for the other distributions what makes them easy: g = -exp(A_log) softplus(a).
struct HeadGate {
    double a_log = 0, dt_bias = 0;
};

HeadGate make_head_gate(const Case& c, Random& random) {
    if (c.gates == Gates::gentle) return {std::log(1.0 / 16), 0};
    if (c.gates != Gates::model) return {};
    const double dt = std::exp(random.uniform(std::log(1e-3), std::log(1e-1)));
    return {std::log(random.uniform(1, 16)), dt + std::log(-std::expm1(-dt))};
}

// What a raw gate holds; softplus(-1e4) is 0 and softplus(x) is x for large x.
double make_raw(const Case& c, Random& random) {
    constexpr double closed = -1e4;
    if (c.gates == Gates::none) return closed;
    if (c.gates != Gates::strong) return random.normal();
    const double u = random.uniform();
    return u < 0.25 ? std::pow(10, 3 * random.uniform()) : u < 0.5 ? closed : random.normal();
}

void make_gates(const Case& c, int64_t tokens, Values& x, Random& random) {
    const auto heads = static_cast<size_t>(c.value_heads);
    std::vector<HeadGate> head(heads);
    for (HeadGate& h : head) h = make_head_gate(c, random);
    x.gate.resize(count_of(tokens, c.value_heads, 1));
    for (size_t i = 0; i < x.gate.size(); i++) {
        const double a = make_raw(c, random);
        const HeadGate& h = head[i % heads];
        const double g = -std::exp(h.a_log) * softplus(a + h.dt_bias);
        x.gate[i] = round_to(c.gate_dtype, c.gate == FLASHQLA_GATE_RAW ? a : c.gate == FLASHQLA_GATE_LINEAR ? std::exp(g) : g);
    }
    if (c.gate != FLASHQLA_GATE_RAW) return;
    for (const HeadGate& h : head) {
        x.a_log.push_back(round_to(c.gate_dtype, h.a_log));
        x.dt_bias.push_back(round_to(c.gate_dtype, h.dt_bias));
    }
}

// Repeats what a zero stride makes equal: the values must be those that the call will see.
void repeat(const Case& c, const char* name, int64_t tokens, int64_t heads, int64_t dim, Numbers& x) {
    const Repeat r = repeat_of(c, name);
    const int64_t per_row = c.offsets == Offsets::none && c.rows() ? tokens / c.rows() : tokens;
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t h = 0; h < heads; h++) {
            int64_t row = per_row ? t / per_row : 0, in_row = per_row ? t % per_row : 0;
            if (r.row) row = 0;
            if (r.token) in_row = 0;
            const int64_t from = ((row * per_row + in_row) * heads + (r.head ? 0 : h)) * dim, to = (t * heads + h) * dim;
            if (from != to) std::memcpy(&x[static_cast<size_t>(to)], &x[static_cast<size_t>(from)], static_cast<size_t>(dim) * sizeof(double));
        }
}

}  // namespace

Repeat repeat_of(const Case& c, const char* tensor) {
    const auto is = [&](const char* name) { return !std::strcmp(tensor, name); };
    Repeat r;
    if (c.strides != Strides::repeated) return r;
    r.head = is("q") || is("gate");
    r.token = is("v") || is("beta") || is("d_out");
    r.row = is("k") && c.offsets == Offsets::none;
    return r;
}

Values make_values(const Case& c, int64_t tokens, int64_t slots, Random& random) {
    Values x;
    const size_t values = count_of(tokens, c.value_heads, c.value_dim), states = static_cast<size_t>(c.state_elements());
    x.q = make_keys(c, tokens, false, random);
    x.k = make_keys(c, tokens, true, random);
    x.v = normals(values, c.dtype, random);
    make_gates(c, tokens, x, random);
    for (size_t i = 0; i < x.gate.size(); i++) {
        const double logit = random.normal();
        x.beta.push_back(round_to(c.gate_dtype, c.beta == FLASHQLA_BETA_LOGIT ? logit : sigmoid(logit)));
    }
    if (c.reads_state()) x.pool = normals(static_cast<size_t>(slots) * states, c.state_dtype, random);
    x.d_out = normals(values, c.dtype, random);
    x.d_final = normals(static_cast<size_t>(c.rows()) * states, c.state_dtype, random, 0.125);
    repeat(c, "q", tokens, c.key_heads, c.key_dim, x.q);
    repeat(c, "k", tokens, c.key_heads, c.key_dim, x.k);
    repeat(c, "v", tokens, c.value_heads, c.value_dim, x.v);
    repeat(c, "gate", tokens, c.value_heads, 1, x.gate);
    repeat(c, "beta", tokens, c.value_heads, 1, x.beta);
    repeat(c, "d_out", tokens, c.value_heads, c.value_dim, x.d_out);
    return x;
}

}  // namespace numeric
