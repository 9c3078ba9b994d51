#include "oracle.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "session.h"

namespace numeric {
namespace {

// One row, or a piece of one, with a key head for each value head.
class PlainRow {
public:
    PlainRow(const Sample& sample, int64_t begin, int64_t length) : c_(sample.c), begin_(begin), length_(length) {
        const Values& x = sample.values;
        q_ = gather(x.q, c_.key_heads, c_.key_dim), k_ = gather(x.k, c_.key_heads, c_.key_dim);
        v_ = gather(x.v, c_.value_heads, c_.value_dim), d_out_ = gather(x.d_out, c_.value_heads, c_.value_dim);
        gate_ = gather(x.gate, c_.value_heads, 1), beta_ = gather(x.beta, c_.value_heads, 1);
        a_log_ = x.a_log, dt_bias_ = x.dt_bias;
        flashqla_problem_init(&problem_, sizeof problem_, FLASHQLA_FORM_PLAIN);
        problem_.key_heads = problem_.value_heads = c_.value_heads;
        problem_.key_dim = c_.key_dim, problem_.value_dim = c_.value_dim;
        problem_.dtype = FLASHQLA_DTYPE_F64;
        problem_.gate = c_.gate, problem_.beta = c_.beta, problem_.qk_norm = c_.qk_norm;
        problem_.beta_scale = c_.beta_scale, problem_.scale = c_.scale, problem_.eps = c_.eps;
        flashqla_sequences_init(&sequences_, sizeof sequences_);
        sequences_.rows = 1, sequences_.tokens = length;
        flashqla_state_init(&state_, sizeof state_);
    }

    // `state` in and out.
    Numbers forward(Numbers& state) {
        Numbers out(static_cast<size_t>(length_ * c_.value_heads * c_.value_dim)), after(state.size());
        state_.read_data = state.data(), state_.write_data = after.data();
        flashqla_forward_args args;
        flashqla_forward_args_init(&args, sizeof args);
        set_inputs(args);
        args.out.data = out.data();
        must(flashqla_forward(session().oracle, &problem_, &sequences_, &state_, &args, nullptr, 0, nullptr));
        state = after;
        return out;
    }

    struct Gradients {
        Numbers q, k, v, gate, beta, a_log, dt_bias, initial;
    };
    Gradients backward(const Numbers& state, Numbers& d_final) {
        Gradients g{Numbers(q_.size()),    Numbers(k_.size()),     Numbers(v_.size()),       Numbers(gate_.size()),
                    Numbers(beta_.size()), Numbers(a_log_.size()), Numbers(dt_bias_.size()), Numbers(state.size())};
        state_.read_data = state.data();
        flashqla_backward_args args;
        flashqla_backward_args_init(&args, sizeof args);
        set_inputs(args);
        args.d_out.data = d_out_.data(), args.d_final.data = d_final.data();
        args.dq.data = g.q.data(), args.dk.data = g.k.data(), args.dv.data = g.v.data();
        args.d_gate.data = g.gate.data(), args.d_beta.data = g.beta.data();
        args.dA_log.data = g.a_log.data(), args.ddt_bias.data = g.dt_bias.data();
        args.d_initial.data = g.initial.data();
        if (c_.gate != FLASHQLA_GATE_RAW) args.dA_log.data = args.ddt_bias.data = nullptr;
        flashqla_query_info info{};
        info.struct_size = sizeof info;
        must(flashqla_query(session().oracle, &problem_, &sequences_, &state_, FLASHQLA_OP_BACKWARD, &info));
        void* workspace = std::aligned_alloc(256, (info.workspace_bytes + 256) / 256 * 256);
        must(flashqla_backward(session().oracle, &problem_, &sequences_, &state_, &args, workspace, info.workspace_bytes, nullptr));
        std::free(workspace);
        return g;
    }

private:
    Numbers gather(const Numbers& x, int64_t heads, int64_t dim) const {
        Numbers to(static_cast<size_t>(length_ * c_.value_heads * dim));
        for (int64_t t = 0; t < length_; t++)
            for (int64_t h = 0; h < c_.value_heads; h++) {
                const int64_t head = heads == c_.value_heads ? h : c_.key_head_of(h);
                std::memcpy(&to[static_cast<size_t>((t * c_.value_heads + h) * dim)], &x[static_cast<size_t>(((begin_ + t) * heads + head) * dim)],
                            static_cast<size_t>(dim) * sizeof(double));
            }
        return to;
    }

    template <class Args>
    void set_inputs(Args& args) {
        args.q.data = q_.data(), args.k.data = k_.data(), args.v.data = v_.data();
        args.gate.data = gate_.data(), args.beta.data = beta_.data();
        if (c_.gate == FLASHQLA_GATE_RAW) args.A_log.data = a_log_.data(), args.dt_bias.data = dt_bias_.data();
    }

    static void must(int32_t status) {
        if (!status) return;
        std::fprintf(stderr, "the oracle's call failed: %s: %s\n", flashqla_status_name(status), flashqla_last_error());
        std::abort();
    }

    const Case& c_;
    int64_t begin_, length_;
    Numbers q_, k_, v_, gate_, beta_, a_log_, dt_bias_, d_out_;
    flashqla_problem problem_;
    flashqla_sequences sequences_;
    flashqla_state state_;
};

Numbers start_of(const Sample& s, const Row& row) {
    const auto n = static_cast<size_t>(s.c.state_elements());
    if (row.start < 0) return Numbers(n, 0.0);
    const auto from = s.values.pool.begin() + row.start * s.c.state_elements();
    return Numbers(from, from + static_cast<int64_t>(n));
}

void put(Grid& grid, int64_t begin, const Numbers& x) {
    for (size_t i = 0; i < x.size(); i++) {
        grid.value[static_cast<size_t>(begin) + i] = x[i];
        grid.written[static_cast<size_t>(begin) + i] = 1;
    }
}

// dq or dk: over the value heads of each key head.
void put_key_sums(const Case& c, Grid& grid, const Row& row, const Numbers& x) {
    grid.fill(row.begin * grid.inner(1), row.length * grid.inner(1), 0.0);
    for (int64_t t = 0; t < row.length; t++)
        for (int64_t h = 0; h < c.value_heads; h++)
            for (int64_t i = 0; i < c.key_dim; i++)
                grid.value[static_cast<size_t>(((row.begin + t) * c.key_heads + c.key_head_of(h)) * c.key_dim + i)] +=
                    x[static_cast<size_t>((t * c.value_heads + h) * c.key_dim + i)];
}

void add(Grid* grid, const Numbers& x) {
    for (size_t i = 0; grid && i < x.size(); i++) grid->value[i] += x[i];
}

}  // namespace

Outcome oracle_forward(const Sample& s) {
    Outcome want = empty_forward(s);
    Grid& out = *want.find("out");
    Grid* states = want.find("state");
    for (const Row& row : rows_of(s)) {
        if (row.skip_forward) {
            out.fill(row.begin * out.inner(1), row.length * out.inner(1), 0.0);
            continue;
        }
        Numbers state = start_of(s, row);
        int64_t done = 0;
        const auto advance = [&](int64_t to) {
            if (to == done) return;
            put(out, (row.begin + done) * out.inner(1), PlainRow(s, row.begin + done, to - done).forward(state));
            done = to;
        };
        for (const Store& store : row.stores) {
            advance(store.count);
            put(*states, store.slot * states->inner(1), state);
        }
        advance(row.length);
    }
    return want;
}

Outcome oracle_backward(const Sample& s) {
    const Case& c = s.c;
    Outcome want = empty_backward(s);
    Grid &dq = *want.find("dq"), &dk = *want.find("dk"), &dv = *want.find("dv"), &d_gate = *want.find("d_gate"), &d_beta = *want.find("d_beta"),
         &initial = *want.find("d_initial");
    for (const char* name : {"dA_log", "ddt_bias"})
        if (Grid* sums = want.find(name)) sums->fill(0, c.value_heads, 0.0);
    initial.fill(0, initial.inner(0), 0.0);
    int64_t n = -1;
    for (const Row& row : rows_of(s)) {
        n++;
        if (row.skip_backward) {
            for (Grid* g : {&dq, &dk, &dv, &d_gate, &d_beta}) g->fill(row.begin * g->inner(1), row.length * g->inner(1), 0.0);
            continue;
        }
        const auto from = s.values.d_final.begin() + n * c.state_elements();
        Numbers d_final(from, from + c.state_elements());
        if (row.length == 0) {
            if (row.start >= 0) put(initial, n * initial.inner(1), d_final);
            continue;
        }
        const PlainRow::Gradients g = PlainRow(s, row.begin, row.length).backward(start_of(s, row), d_final);
        put_key_sums(c, dq, row, g.q);
        put_key_sums(c, dk, row, g.k);
        put(dv, row.begin * dv.inner(1), g.v);
        put(d_gate, row.begin * d_gate.inner(1), g.gate);
        put(d_beta, row.begin * d_beta.inner(1), g.beta);
        add(want.find("dA_log"), g.a_log);
        add(want.find("ddt_bias"), g.dt_bias);
        if (row.start >= 0) put(initial, n * initial.inner(1), g.initial);
    }
    return want;
}

}  // namespace numeric
