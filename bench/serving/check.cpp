#include "check.h"

#include <algorithm>
#include <cstdio>

#include "compare.h"
#include "oracle.h"

namespace serving {
namespace {

using numeric::Numbers;

numeric::Case case_of(const Options& options, int64_t tokens) {
    numeric::Case c;
    c.key_heads = static_cast<int32_t>(options.key_heads), c.value_heads = static_cast<int32_t>(options.value_heads);
    c.key_dim = c.value_dim = static_cast<int32_t>(options.dim);
    c.dtype = c.gate_dtype = options.dtype;
    c.gate = FLASHQLA_GATE_RAW, c.beta = FLASHQLA_BETA_LOGIT, c.qk_norm = FLASHQLA_NORM_L2;
    c.state_layout = FLASHQLA_STATE_VK;
    c.lengths = {tokens};
    c.offsets = numeric::Offsets::none;
    c.states = numeric::States::write;
    return c;
}

// The request's tokens as one row from nothing, in the given layer.
numeric::Sample sample_of(const Options& options, const Bank& bank, const Request& r, int64_t layer) {
    numeric::Sample s;
    s.c = case_of(options, r.length);
    s.tokens = r.length;
    s.tables.offsets = {0, r.length};
    s.tables.slots = 1;
    const int64_t keys = options.key_heads * options.dim, values = options.value_heads * options.dim, heads = options.value_heads;
    for (int64_t t = 0; t < r.length; t++) {
        const int64_t row = r.row_of(t);
        bank.append_qkv(s.values.q, row, 0, keys);
        bank.append_qkv(s.values.k, row, keys, keys);
        bank.append_qkv(s.values.v, row, 2 * keys, values);
        bank.append_ba(s.values.beta, row, 0, heads);
        bank.append_ba(s.values.gate, row, heads, heads);
    }
    for (int64_t h = layer * heads; h < (layer + 1) * heads; h++) {
        s.values.a_log.push_back(static_cast<double>(bank.a_log()[static_cast<size_t>(h)]));
        s.values.dt_bias.push_back(static_cast<double>(bank.dt_bias()[static_cast<size_t>(h)]));
    }
    s.values.d_out.resize(s.values.v.size());  // the oracle looks at every tensor's place
    return s;
}

// Elements from `begin` on; those before were not computed, and are not to be.
void fill(numeric::Grid& got, numeric::Grid& want, size_t begin, const std::vector<uint8_t>& bytes) {
    const auto size = static_cast<size_t>(numeric::dtype_bytes(got.dtype));
    std::fill_n(want.written.begin(), begin, uint8_t{0});
    for (size_t i = begin; i < got.value.size(); i++) {
        got.value[i] = numeric::decode(got.dtype, &bytes[i * size]);
        got.written[i] = 1;
    }
}

// [V, K] in memory, [K, V] in the grid.
void transpose(numeric::Grid& state, int64_t dim) {
    const Numbers vk = state.value;
    for (size_t i = 0; i < vk.size(); i++) {
        const auto d = static_cast<size_t>(dim), head = i / (d * d), k = i / d % d, v = i % d;
        state.value[i] = vk[(head * d + v) * d + k];
    }
}

}  // namespace

Checker::Checker(const Options& options, const Bank& bank, const Model& model)
    : options_(options), bank_(bank), token_bytes_(model.out_token_bytes()), captures_(static_cast<size_t>(options.check)) {
    for (size_t i = 0; i < captures_.size(); i++) {
        const int64_t last = std::max<int64_t>(options.check - 1, 1);
        captures_[i].layer = (static_cast<int64_t>(i) * (options.layers - 1) + last / 2) / last;  // from the first to the last
        captures_[i].out.resize(static_cast<size_t>(options.longest() * token_bytes_));
        captures_[i].state.resize(static_cast<size_t>(model.state_bytes()));
    }
}

// Samples are spread over the run, and every other one shall have begun from a checkpoint.
void Checker::follow(Active& active, double progress) {
    if (used_ == captures_.size() || progress * static_cast<double>(captures_.size()) < static_cast<double>(used_)) return;
    if (used_ % 2 && !active.reused && options_.groups && options_.cached) return;
    active.capture = static_cast<int32_t>(used_++);
}

void Checker::take_outputs(const Step& step, Scheduler& scheduler, Model& model) {
    for (size_t i = 0; i < step.rows().size(); i++) {
        const StepRow& row = step.rows()[i];
        const int32_t capture = scheduler.at(row.place).capture;
        if (capture < 0) continue;
        Capture& c = captures_[static_cast<size_t>(capture)];
        model.read_out(c.layer, step.begin(i), row.right, &c.out[static_cast<size_t>(row.token * token_bytes_)]);
    }
}

void Checker::take_finished(Scheduler& scheduler, Model& model) {
    for (const int32_t place : scheduler.finished()) {
        const Active& active = scheduler.at(place);
        if (active.capture < 0) continue;
        Capture& c = captures_[static_cast<size_t>(active.capture)];
        c.active = active;
        c.whole = true;
        model.read_state(c.layer, scheduler.state_slot(place), c.state.data());
    }
}

std::string Checker::compare(const Capture& capture) const {
    const Request& r = capture.active.request;
    const numeric::Sample sample = sample_of(options_, bank_, r, capture.layer);
    numeric::Outcome want = numeric::oracle_forward(sample), got = numeric::empty_forward(sample);
    fill(*got.find("out"), *want.find("out"), static_cast<size_t>(capture.active.reused * options_.value_heads * options_.dim), capture.out);
    fill(*got.find("state"), *want.find("state"), 0, capture.state);
    transpose(*got.find("state"), options_.dim);
    return numeric::report(sample, got, want, capture.active.rounded ? numeric::Arithmetic::tensor16 : numeric::Arithmetic::f32);
}

int64_t Checker::report() {
    int64_t checked = 0, wrong = 0, reused = 0, drafted = 0;
    for (const Capture& c : captures_) {
        if (!c.whole) continue;
        const std::string what = compare(c);
        checked++, reused += c.active.reused > 0, drafted += c.active.request.drafts, wrong += !what.empty();
        if (!what.empty())
            std::printf("WRONG: request %lld, layer %lld, %lld tokens, %lld of them from a checkpoint%s\n", static_cast<long long>(c.active.request.id),
                        static_cast<long long>(c.layer), static_cast<long long>(c.active.request.length), static_cast<long long>(c.active.reused),
                        what.c_str());
    }
    std::printf("checked    %lld requests against float64: %lld wrong, %lld begun from checkpoints, %lld with drafts\n", static_cast<long long>(checked),
                static_cast<long long>(wrong), static_cast<long long>(reused), static_cast<long long>(drafted));
    numeric::print_largest_errors();
    return wrong + (options_.check && !checked);  // none to check is no proof
}

}  // namespace serving
