// What the oracle's and the fast backward share: tasks of one row and key head, the walk over segments and chunks with the states kept on
// the way (cpu_plan.h), PAD rows, sums over rows.
#pragma once
#include <algorithm>

#include "cpu_plan.h"
#include "gates.h"
#include "heads.h"
#include "plan.h"
#include "states.h"
#include "thread_pool.h"

namespace fqla::cpu {

// All value heads of one row that read key head hk: one task, so that dq and dk are summed in one place and one order.
struct BackwardTask {
    const Backward& call;
    const CpuBackward& cut;
    RowPlace row;
    int64_t hk;
    RawSums* sums;  // [HV] of this row; null unless the gate is raw

    int64_t head(int64_t i) const { return value_head_of(call.form, hk, i); }
};

// The states that a worker keeps for value heads i = 0 .. group-1.
template <class Real>
class GroupStates {
public:
    GroupStates(const CpuBackward& cut, void* memory) : cut_(cut), base_(static_cast<Real*>(memory)) {}
    Real* segment(int64_t i, int64_t segment) const { return state(i * cut_.segments + segment); }
    Real* chunk(int64_t i, int64_t chunk) const { return state(cut_.group * cut_.segments + i * cut_.segment_chunks + chunk); }
    Real* gradient(int64_t i) const { return state(cut_.group * (cut_.segments + cut_.segment_chunks) + i); }   // D
    Real* token(int64_t t) const { return state(cut_.group * (cut_.segments + cut_.segment_chunks + 1) + t); }  // oracle: after token t of a chunk

private:
    Real* state(int64_t i) const { return base_ + i * cut_.state_elements; }

    const CpuBackward& cut_;
    Real* base_;
};

struct Span {
    int64_t begin, end;  // tokens of the row
};

// Forward once to the segments' starts, then segment after segment, last first: forward to the chunks' starts, chunks last first.
// Core has advance(i, from, span, to), to = the state after the span's tokens from the state before them, and chunk_back(chunk, span).
template <class Core, class Real>
void walk_back(Core& core, const BackwardTask& task, const GroupStates<Real>& states) {
    const CpuBackward& cut = task.cut;
    const int64_t length = task.row.tokens.length, per_segment = cut.segment_tokens(), segments = (length + per_segment - 1) / per_segment;
    for (int64_t i = 0; i < cut.group; i++)
        for (int64_t s = 0; s + 1 < segments; s++)
            core.advance(i, states.segment(i, s), Span{s * per_segment, (s + 1) * per_segment}, states.segment(i, s + 1));
    for (int64_t s = segments - 1; s >= 0; s--) {
        const int64_t begin = s * per_segment, end = std::min(length, begin + per_segment), chunks = (end - begin + cut.chunk_tokens - 1) / cut.chunk_tokens;
        const auto chunk_span = [&](int64_t c) { return Span{begin + c * cut.chunk_tokens, std::min(end, begin + (c + 1) * cut.chunk_tokens)}; };
        for (int64_t i = 0; i < cut.group; i++) {
            std::copy_n(states.segment(i, s), cut.state_elements, states.chunk(i, 0));
            for (int64_t c = 0; c + 1 < chunks; c++) core.advance(i, states.chunk(i, c), chunk_span(c), states.chunk(i, c + 1));
        }
        for (int64_t c = chunks - 1; c >= 0; c--) core.chunk_back(c, chunk_span(c));
    }
}

// Where D before the first token, which is dL/d(initial state), goes.
inline StateView initial_gradient(const BackwardTask& task, int64_t i) { return row_state(task.call.form, task.call.grad.initial, task.row.n, task.head(i)); }

// Rows that start from nothing have no gradient there.
inline void zero_initial_gradients(const BackwardTask& task) {
    for (int64_t i = 0; i < task.cut.group; i++) {
        const StateView to = initial_gradient(task, i);
        if (to.data)
            std::memset(element_at(to.data, to.dtype, to.offset), 0,
                        static_cast<size_t>(task.call.form.key_dim * task.call.form.value_dim) * element_bytes(to.dtype));
    }
}

// A PAD row: every gradient of it is zero.
inline void zero_row_gradients(const BackwardTask& task) {
    const Form& form = task.call.form;
    const Gradients& grad = task.call.grad;
    zero_initial_gradients(task);
    put_zeros(grad.q, task.row, task.hk, form.key_dim);
    put_zeros(grad.k, task.row, task.hk, form.key_dim);
    for (int64_t i = 0; i < task.cut.group; i++) {
        const int64_t h = task.head(i);
        put_zeros(grad.v, task.row, h, form.value_dim);
        put_zeros(grad.gate, task.row, h, 1);
        put_zeros(grad.beta, task.row, h, 1);
    }
}

// dA_log and ddt_bias: over rows in their order.
inline void store_raw_sums(const Backward& call, const RawSums* sums) {
    for (int64_t h = 0; h < call.form.value_heads; h++) {
        RawSums total{0, 0};
        for (int64_t n = 0; n < call.rows.count; n++) {
            total.a_log += sums[n * call.form.value_heads + h].a_log;
            total.dt_bias += sums[n * call.form.value_heads + h].dt_bias;
        }
        const View &a_log = call.grad.a_log, &dt_bias = call.grad.dt_bias;
        if (a_log.data) store_element(a_log.data, a_log.dtype, h * a_log.head, total.a_log);
        if (dt_bias.data) store_element(dt_bias.data, dt_bias.dtype, h * dt_bias.head, total.dt_bias);
    }
}

// Runs body(task, states, thread) for every row and key head that is not PAD.
template <class Real, class Body>
void run_backward(ThreadPool& pool, const Backward& call, const Plan& plan, void* workspace, const Body& body) {
    const Form& form = call.form;
    const CpuBackward cut = cpu_backward(form, call.rows.count, call.rows.max_tokens, pool.threads());
    char* states = plan.workspace.at<char>(Region::chunk_states, workspace);
    RawSums* sums = plan.workspace.at<RawSums>(Region::partial_sums, workspace);
    if (sums) std::fill_n(sums, call.rows.count * form.value_heads, RawSums{0, 0});
    pool.run(int64_t{call.rows.count} * form.key_heads, static_cast<int>(cut.workers), [&](int64_t index, int thread) {
        const int64_t n = index / form.key_heads;
        const BackwardTask task{call, cut, row_place(call.rows, call.state, n), index % form.key_heads, sums ? sums + n * form.value_heads : nullptr};
        if (task.row.slots.skip) {
            zero_row_gradients(task);
            return;
        }
        body(task, GroupStates<Real>(cut, states + static_cast<uint64_t>(thread) * cut.worker_bytes), thread);
        if (task.row.slots.read == kNoSlot) zero_initial_gradients(task);
    });
    if (sums) store_raw_sums(call, sums);
}

}  // namespace fqla::cpu
