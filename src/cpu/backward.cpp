// The backward in f32: a task is a row and a key head with all its value heads, chunk by chunk from the last.
#include <algorithm>

#include "backward_chunk.h"
#include "backward_common.h"
#include "cpu.h"
#include "oracle.h"
#include "tile.h"

namespace fqla::cpu {
namespace {

struct Scratch {
    TileMemory tile;
    ChunkMemory chunk;
};
static_assert(sizeof(Scratch) <= ThreadPool::kScratchBytes, "per-thread memory of the pool");
static_assert(kCpuChunkTokens == kTileTokens && kCpuColumnStep == kPad && kCpuStateSkew == kRowStride - kMaxDim, "the plan's cut is the kernels'");

class FastBackward {
public:
    FastBackward(const BackwardTask& task, const GroupStates<float>& states, Scratch& scratch)
        : task_(task),
          call_(task.call),
          form_(task.call.form),
          kernels_(kernels()),
          all_{0, form_.value_dim},
          states_(states),
          s_(scratch),
          m_(scratch.chunk) {}

    void run() {
        for (int64_t i = 0; i < task_.cut.group; i++) {
            const int64_t h = task_.head(i);
            load(slot_state(form_, call_.state.read, task_.row.slots.read, h), states_.segment(i, 0));
            load(row_state(form_, call_.d_final, task_.row.n, h), states_.gradient(i));
        }
        walk_back(*this, task_, states_);
        for (int64_t i = 0; i < task_.cut.group; i++)
            store_columns(kernels_, form_, states_.gradient(i), task_.cut.state_stride, all_, initial_gradient(task_, i), s_.tile.staging[0]);
    }

    void advance(int64_t i, const float* from, Span span, float* to) {
        std::copy_n(from, task_.cut.state_elements, to);
        HeadTiles tiles(form_, call_.in, task_.row, task_.head(i), all_, s_.tile, to, task_.cut.state_stride);
        for (int64_t t = span.begin; t < span.end; t += kTileTokens) tiles.advance(t, static_cast<int>(std::min<int64_t>(kTileTokens, span.end - t)));
        tiles.flush();
    }

    void chunk_back(int64_t chunk, Span span) {
        const int count = static_cast<int>(span.end - span.begin);
        stage_key(call_.in.q, span.begin, count, m_.q[0], m_.q_factor);
        stage_key(call_.in.k, span.begin, count, m_.k[0], m_.k_factor);
        kernels_.prepare_chunk(m_, count, form_.key_dim);
        for (int64_t i = 0; i < task_.cut.group; i++) head_back(i, states_.chunk(i, chunk), span.begin, count);
        store_key(m_.q[0], m_.q_factor, m_.dq[0], span.begin, count, call_.grad.q);
        store_key(m_.k[0], m_.k_factor, m_.dk[0], span.begin, count, call_.grad.k);
    }

private:
    void load(const StateView& from, float* to) { load_columns(kernels_, form_, from, all_, to, task_.cut.state_stride, s_.tile.staging[0]); }

    void stage_key(const View& x, int64_t begin, int count, float* rows, float* factors) {
        stage_rows(x, task_.row, begin, count, kTileTokens, task_.hk, 0, form_.key_dim, rows);
        if (form_.qk_norm == FLASHQLA_NORM_L2) kernels_.normalise(rows, count, form_.key_dim, static_cast<float>(form_.eps), factors);
    }

    void store_key(const float* y, const float* factors, float* dy, int64_t begin, int count, const View& to) {
        if (form_.qk_norm == FLASHQLA_NORM_L2) kernels_.normalise_back(y, factors, count, form_.key_dim, dy);
        store_rows(dy, begin, count, task_.hk, form_.key_dim, to);
    }

    void store_rows(const float* rows, int64_t begin, int count, int64_t head, int dim, const View& to) {
        if (to.data)
            kernels_.store_rows(rows, kRowStride, count, dim, element_at(to.data, to.dtype, offset_of(to, task_.row, begin, head)), to.dtype, to.token);
    }

    void head_back(int64_t i, const float* state, int64_t begin, int count) {
        const int64_t h = task_.head(i);
        const HeadGates<float> gates(form_, call_.in, task_.row.n, task_.row.tokens, h);
        stage_rows(call_.in.v, task_.row, begin, count, kTileTokens, h, 0, form_.value_dim, m_.v[0]);
        stage_rows(call_.d_out, task_.row, begin, count, kTileTokens, h, 0, form_.value_dim, m_.d_out[0]);
        Gate<float> gate[kTileTokens];
        for (int t = 0; t < count; t++) {
            gate[t] = gates.gate(begin + t);
            m_.decay[t] = gate[t].decay;
            m_.beta[t] = gates.beta(begin + t);
        }
        kernels_.backward_chunk(m_,
                                {count, form_.key_dim, form_.value_dim, static_cast<float>(form_.scale), state, states_.gradient(i), task_.cut.state_stride});
        store_rows(m_.dv[0], begin, count, h, form_.value_dim, call_.grad.v);
        for (int t = 0; t < count; t++) {
            const float d_gate = gates.gate_gradient(begin + t, gate[t], m_.d_log_gate[t], task_.sums ? &task_.sums[h] : nullptr);
            const float d_beta = gates.beta_gradient(begin + t, m_.d_beta[t]);
            put(call_.grad.gate, task_.row, begin + t, h, 1, &d_gate);
            put(call_.grad.beta, task_.row, begin + t, h, 1, &d_beta);
        }
    }

    const BackwardTask& task_;
    const Backward& call_;
    const Form& form_;
    const Kernels& kernels_;
    const Columns all_;
    const GroupStates<float>& states_;
    Scratch& s_;
    ChunkMemory& m_;
};

}  // namespace

void backward(ThreadPool& pool, const Backward& call, const Plan& plan, void* workspace) {
    if (call.form.dtype == FLASHQLA_DTYPE_F64) return oracle_backward(pool, call, plan, workspace);
    run_backward<float>(pool, call, plan, workspace, [&](const BackwardTask& task, const GroupStates<float>& states, int thread) {
        const FlushDenormals flush;
        FastBackward(task, states, *static_cast<Scratch*>(pool.scratch(thread))).run();
    });
}

}  // namespace fqla::cpu
