#include "oracle.h"

#include <algorithm>

#include "backward_common.h"
#include "cpu_plan.h"
#include "gates.h"
#include "heads.h"
#include "recurrence.h"
#include "states.h"
#include "thread_pool.h"

namespace fqla::cpu {
namespace {

using Real = double;
constexpr int kMaxDim = 256;
constexpr int kChunk = static_cast<int>(kCpuOracleChunkTokens);

// One thread's memory.
struct Scratch {
    Real state[kMaxDim * kMaxDim];  // S in the forward and in recomputing, S' in the backward
    Real q[kMaxDim], k[kMaxDim], v[kMaxDim], out[kMaxDim], e[kMaxDim], du[kMaxDim], key[kMaxDim];
    Real dq[kMaxDim], dk[kMaxDim], dv[kMaxDim];
    Real dq_sum[kChunk][kMaxDim], dk_sum[kChunk][kMaxDim];  // over the value heads of a key head
};
static_assert(sizeof(Scratch) <= ThreadPool::kScratchBytes, "per-thread memory of the pool");

Dims dims_of(const Form& form) { return {form.key_dim, form.value_dim}; }

// Token t as the recurrence wants it, q and k normalised, in the scratch's q, k, v.
Token<Real> load_token(const Form& form, const Inputs& in, const RowPlace& row, const HeadGates<Real>& gates, int64_t t, int64_t h, Scratch& s) {
    const int64_t hk = key_head_of(form, static_cast<int32_t>(h));
    load_elements(in.q, offset_of(in.q, row, t, hk), form.key_dim, s.q);
    load_elements(in.k, offset_of(in.k, row, t, hk), form.key_dim, s.k);
    load_elements(in.v, offset_of(in.v, row, t, h), form.value_dim, s.v);
    if (form.qk_norm == FLASHQLA_NORM_L2) {
        normalise(form.key_dim, s.q, form.eps);
        normalise(form.key_dim, s.k, form.eps);
    }
    return {s.q, s.k, s.v, gates.gate(t).decay, gates.beta(t)};
}

void forward_head(const Forward& call, const RowPlace& row, int64_t h, Scratch& s) {
    const Form& form = call.form;
    const Dims dims = dims_of(form);
    const HeadGates<Real> gates(form, call.in, row.n, row.tokens, h);
    const auto store = [&](int64_t slot) { store_state(form, s.state, form.value_dim, slot_state(form, call.state.write, slot, h)); };
    load_state(form, slot_state(form, call.state.read, row.slots.read, h), s.state, form.value_dim);
    for (int64_t t = 0; t < row.tokens.length; t++) {
        const Token<Real> x = load_token(form, call.in, row, gates, t, h, s);
        step(dims, x, s.state, s.e);
        output(dims, x, s.state, form.scale, s.out);
        put(call.out, row, t, h, form.value_dim, s.out);
        store(token_slot(call.state, row.n, t));
        store(checkpoint_slot(call.state, row.n, t + 1));
    }
    store(row.slots.write);
}

// The gradient of one row and key head.
class OracleBackward {
public:
    OracleBackward(const BackwardTask& task, const GroupStates<Real>& states, Scratch& scratch)
        : task_(task), form_(task.call.form), dims_(dims_of(form_)), states_(states), s_(scratch) {}

    void run() {
        for (int64_t i = 0; i < task_.cut.group; i++) {
            const int64_t h = task_.head(i);
            load_state(form_, slot_state(form_, task_.call.state.read, task_.row.slots.read, h), states_.segment(i, 0), form_.value_dim);
            load_state(form_, row_state(form_, task_.call.d_final, task_.row.n, h), states_.gradient(i), form_.value_dim);
        }
        walk_back(*this, task_, states_);
        for (int64_t i = 0; i < task_.cut.group; i++) store_state(form_, states_.gradient(i), form_.value_dim, initial_gradient(task_, i));
    }

    void advance(int64_t i, const Real* from, Span span, Real* to) {
        const HeadGates<Real> gates = gates_of(i);
        std::copy_n(from, dims_.state(), to);
        for (int64_t t = span.begin; t < span.end; t++) step(dims_, load_token(form_, task_.call.in, task_.row, gates, t, task_.head(i), s_), to, s_.e);
    }

    void chunk_back(int64_t chunk, Span span) {
        std::fill_n(s_.dq_sum[0], kChunk * kMaxDim, Real(0));
        std::fill_n(s_.dk_sum[0], kChunk * kMaxDim, Real(0));
        for (int64_t i = 0; i < task_.cut.group; i++) {
            const auto before = [&](int64_t t) { return t == span.begin ? states_.chunk(i, chunk) : states_.token(t - 1 - span.begin); };
            const HeadGates<Real> gates = gates_of(i);
            for (int64_t t = span.begin; t < span.end; t++) advance(i, before(t), {t, t + 1}, states_.token(t - span.begin));
            for (int64_t t = span.end - 1; t >= span.begin; t--) token_back(i, gates, t, t - span.begin, before(t));
        }
        for (int64_t t = span.begin; t < span.end; t++) {
            store_key_gradient(task_.call.in.q, task_.call.grad.q, t, s_.dq_sum[t - span.begin]);
            store_key_gradient(task_.call.in.k, task_.call.grad.k, t, s_.dk_sum[t - span.begin]);
        }
    }

private:
    HeadGates<Real> gates_of(int64_t i) const { return {form_, task_.call.in, task_.row.n, task_.row.tokens, task_.head(i)}; }

    void token_back(int64_t i, const HeadGates<Real>& gates, int64_t t, int64_t in_chunk, const Real* before) {
        const int64_t h = task_.head(i);
        const View& d_out = task_.call.d_out;
        const Gradients& to = task_.call.grad;
        const Token<Real> x = load_token(form_, task_.call.in, task_.row, gates, t, h, s_);
        load_elements(d_out, offset_of(d_out, task_.row, t, h), form_.value_dim, s_.out);
        TokenGradients<Real> grad{s_.dq, s_.dk, s_.dv, 0, 0};
        step_back(dims_, x, Real(form_.scale), s_.out, before, states_.token(in_chunk), states_.gradient(i), {s_.state, s_.e, s_.du, s_.key}, grad);
        for (int j = 0; j < form_.key_dim; j++) {
            s_.dq_sum[in_chunk][j] += s_.dq[j];
            s_.dk_sum[in_chunk][j] += s_.dk[j];
        }
        const Real d_gate = gates.gate_gradient(t, gates.gate(t), grad.log_gate, task_.sums ? &task_.sums[h] : nullptr);
        const Real d_beta = gates.beta_gradient(t, grad.beta);
        put(to.v, task_.row, t, h, form_.value_dim, grad.v);
        put(to.gate, task_.row, t, h, 1, &d_gate);
        put(to.beta, task_.row, t, h, 1, &d_beta);
    }

    // From dL/d(normalised) to dL/d(given), and out.
    void store_key_gradient(const View& input, const View& gradient, int64_t t, Real* dy) {
        if (form_.qk_norm == FLASHQLA_NORM_L2) {
            load_elements(input, offset_of(input, task_.row, t, task_.hk), form_.key_dim, s_.key);
            const Real factor = normalise(form_.key_dim, s_.key, Real(form_.eps));
            normalise_back(form_.key_dim, s_.key, factor, dy);
        }
        put(gradient, task_.row, t, task_.hk, form_.key_dim, dy);
    }

    const BackwardTask& task_;
    const Form& form_;
    const Dims dims_;
    const GroupStates<Real>& states_;
    Scratch& s_;
};

}  // namespace

void oracle_forward(ThreadPool& pool, const Forward& call) {
    const int64_t heads = call.form.value_heads;
    pool.run(call.rows.count * heads, pool.threads(), [&](int64_t task, int thread) {
        const RowPlace row = row_place(call.rows, call.state, task / heads);
        if (row.slots.skip)
            put_zeros(call.out, row, task % heads, call.form.value_dim);
        else
            forward_head(call, row, task % heads, *static_cast<Scratch*>(pool.scratch(thread)));
    });
}

void oracle_backward(ThreadPool& pool, const Backward& call, const Plan& plan, void* workspace) {
    run_backward<Real>(pool, call, plan, workspace, [&](const BackwardTask& task, const GroupStates<Real>& states, int thread) {
        OracleBackward(task, states, *static_cast<Scratch*>(pool.scratch(thread))).run();
    });
}

}  // namespace fqla::cpu
