// What a gradient must satisfy whatever computes it.
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>

#include "check.h"

using namespace numeric;

namespace {

Outcome gradients(const Sample& sample) {
    Call::Options options;
    options.op = FLASHQLA_OP_BACKWARD;
    Call call(sample, options);
    return must_run(call);
}

// x <- a x + b y, rounded as the call will read it
void blend(int32_t dtype, Numbers& x, double a, const Numbers& y, double b) {
    for (size_t i = 0; i < x.size(); i++) x[i] = round_to(dtype, a * x[i] + b * y[i]);
}

// sum out * d_out + sum final * d_final
double loss(const Sample& sample) {
    const Outcome f = oracle_forward(sample);
    double sum = 0;
    const Grid &out = *f.find("out"), &states = *f.find("state");
    for (size_t i = 0; i < out.value.size(); i++) sum += out.value[i] * sample.values.d_out[i];
    for (size_t i = 0; i < states.value.size(); i++) sum += states.value[i] * sample.values.d_final[i];
    return sum;
}

// Inputs and their gradients, in one order.
std::vector<Numbers*> inputs_of(Values& x) { return {&x.q, &x.k, &x.v, &x.gate, &x.beta, &x.a_log, &x.dt_bias, &x.pool}; }
constexpr const char* kGradients[] = {"dq", "dk", "dv", "d_gate", "d_beta", "dA_log", "ddt_bias", "d_initial"};

// Relative difference between <gradient, direction> and the central difference of the loss along it.
double directional_error(const Case& c) {
    Sample at = make_sample(c);
    const Outcome gradient = oracle_backward(at);
    Sample ahead = at, behind = at;
    Random random(c.seed + 1);
    constexpr double step = 1e-5;
    double along = 0, size = 0;
    const auto here = inputs_of(at.values), there = inputs_of(ahead.values), back = inputs_of(behind.values);
    for (size_t g = 0; g < here.size(); g++) {
        const Grid* grid = gradient.find(kGradients[g]);
        if (!grid) continue;
        for (size_t i = 0; i < here[g]->size(); i++) {
            const double direction = random.normal();
            (*there[g])[i] += step * direction;
            (*back[g])[i] -= step * direction;
            along += grid->value[i] * direction;
            size += grid->value[i] * grid->value[i];
        }
    }
    return std::fabs((loss(ahead) - loss(behind)) / (2 * step) - along) / std::sqrt(size);
}

}  // namespace

TEST_SUITE_BEGIN("gradients");

TEST_CASE("cpu: the oracle's gradients are the slopes of its forward") {
    double worst = 0;
    for (const int32_t gate : {FLASHQLA_GATE_LOG, FLASHQLA_GATE_LINEAR, FLASHQLA_GATE_RAW})
        for (const int32_t beta : {FLASHQLA_BETA_VALUE, FLASHQLA_BETA_LOGIT})
            for (const int32_t norm : {FLASHQLA_NORM_NONE, FLASHQLA_NORM_L2}) {
                Case c = plain_case("slopes");
                c.dtype = FLASHQLA_DTYPE_F64;
                c.gate = gate, c.beta = beta, c.qk_norm = norm;
                c.beta_scale = norm ? 2 : 1;
                if (gate == FLASHQLA_GATE_LINEAR) c.gates = Gates::gentle;  // a step must not make an alpha negative
                c.key_dim = 24, c.value_dim = 20;
                c.lengths = {33, 1, 70};
                make_valid(c);
                const double error = directional_error(c);
                CHECK_MESSAGE(error < 1e-6, c.text(), ": ", error);
                worst = std::max(worst, error);
            }
    MESSAGE("largest relative difference ", worst);
}

TEST_CASE("gradients are linear in d_out and d_final") {
    Case c = plain_case("linear");
    c.gate = FLASHQLA_GATE_RAW;
    const Sample one = make_sample(c);
    Sample two = one, both = one;
    Random random(c.seed + 7);
    for (double& x : two.values.d_out) x = round_to(c.dtype, random.normal());
    for (double& x : two.values.d_final) x = round_to(c.dtype, random.normal());
    blend(c.dtype, both.values.d_out, 2, two.values.d_out, -0.5);
    blend(c.dtype, both.values.d_final, 2, two.values.d_final, -0.5);
    Outcome sum = gradients(one);
    const Outcome second = gradients(two), got = gradients(both);
    for (size_t g = 0; g < sum.grids.size(); g++) {
        Grid& want = sum.grids[g];
        for (size_t i = 0; i < want.value.size(); i++) want.value[i] = 2 * want.value[i] - 0.5 * second.grids[g].value[i];
        const Difference d = compare(got.grids[g], want, 4 * bound_of(c, want, Arithmetic::f32));
        CHECK_MESSAGE(d.good(), want.name, ": error ", d.relative, ", bound ", d.bound);
    }
}

TEST_CASE("no gradient flows from one row to another") {
    Case c = plain_case("apart");
    c.gate = FLASHQLA_GATE_LOG;
    Sample sample = make_sample(c);
    const Outcome before = gradients(sample);
    const int64_t width = c.value_heads * c.value_dim, from = sample.tables.offsets[1] * width, to = sample.tables.offsets[2] * width;
    for (int64_t i = from; i < to; i++) sample.values.d_out[static_cast<size_t>(i)] = -3;
    const Outcome after = gradients(sample);
    for (const char* name : {"dq", "dk", "dv", "d_gate", "d_beta"}) {
        const Grid &x = *before.find(name), &y = *after.find(name);
        size_t changed = 0;
        for (int64_t t = 0; t < sample.tokens; t++) {
            const bool own = t >= sample.tables.offsets[1] && t < sample.tables.offsets[2];
            for (int64_t i = t * x.inner(1); !own && i < (t + 1) * x.inner(1); i++)
                changed += x.value[static_cast<size_t>(i)] != y.value[static_cast<size_t>(i)];
        }
        CHECK_MESSAGE(changed == 0, name, ": ", changed, " elements of other rows changed");
    }
}

// dv = beta du and u = beta e say nothing of du and e there.
TEST_CASE("gradients of tokens whose betas vanish") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16})
        for (const int32_t norm : {FLASHQLA_NORM_NONE, FLASHQLA_NORM_L2}) {
            Case c = plain_case("no beta");
            c.dtype = dtype, c.qk_norm = norm;
            c.key_dim = c.value_dim = 128;
            c.lengths = {130, 1, 64};
            make_valid(c);
            Sample sample = make_sample(c);
            constexpr double betas[] = {0, 1e-20, 1e-5, 3e-3, 0.7};
            for (size_t i = 0; i < sample.values.beta.size(); i++) sample.values.beta[i] = round_to(c.gate_dtype, betas[i % 5]);
            check_backward(sample);
        }
}

TEST_CASE("gpu: gradients of long rows and few heads, whose segments run side by side") {
    for (const bool several : {false, true}) {
        Case c = plain_case("long rows");
        c.dtype = FLASHQLA_DTYPE_BF16;
        c.key_heads = 1, c.value_heads = 2, c.key_dim = c.value_dim = 128;
        c.gate = FLASHQLA_GATE_RAW, c.beta = FLASHQLA_BETA_LOGIT, c.qk_norm = FLASHQLA_NORM_L2;
        c.state_layout = several ? FLASHQLA_STATE_VK : FLASHQLA_STATE_KV;
        c.lengths = several ? std::vector<int64_t>{6001, 0, 100, 4000} : std::vector<int64_t>{9000};
        make_valid(c);
        const Sample sample = make_sample(c);
        Call::Options options;
        options.op = FLASHQLA_OP_BACKWARD;
        options.engine = FLASHQLA_ENGINE_CONTEXT_PARALLEL;
        Call call(sample, options);
        if (call.query().status == FLASHQLA_STATUS_UNSUPPORTED) continue;  // not on this device
        const std::string wrong = run_and_report(call, oracle_backward(sample));
        CHECK_MESSAGE(wrong.empty(), wrong);
    }
}

// In one segment and in several, ragged, with rows that are skipped by either table; the card full of heads or not.
TEST_CASE("gpu: a backward that reads what its forward has saved") {
    int calls = 0, equal = 0;
    const auto check = [&](const char* what, int32_t engine, const std::function<void(Case&)>& edit) {
        for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16}) {
            Case c = qwen_case(what, dtype);
            edit(c);
            make_valid(c);
            const Sample sample = make_sample(c);
            Call::Options options;
            options.engine = engine;
            const std::unique_ptr<Buffer> saved = save(sample, options);
            if (!saved) continue;  // not on this device
            bool kept = true;
            const uint8_t* const bytes = saved->download(kept);
            const std::vector<uint8_t> before(bytes, bytes + saved->bytes());
            options.op = FLASHQLA_OP_BACKWARD;
            Call alone(sample, options);
            if (alone.query().status == FLASHQLA_STATUS_UNSUPPORTED) continue;  // too few chunks to cut on request
            CHECK(alone.query().saved_bytes == saved->bytes());
            options.saved = saved.get();
            options.poison = c.seed;
            Call call(sample, options);
            const Outcome want = oracle_backward(sample);
            for (Call* each : {&alone, &call}) {
                const std::string wrong = run_and_report(*each, want);
                CHECK_MESSAGE(wrong.empty(), "engine ", engine, each == &call ? ", from what was saved " : " ", wrong);
            }
            const uint8_t* const after = saved->download(kept);
            CHECK_MESSAGE(kept, "guard bands of what was saved");
            CHECK_MESSAGE(std::equal(before.begin(), before.end(), after), "what was saved has changed");
            calls++, equal += call.bytes() == alone.bytes();
            if (session().quick) return;
        }
    };
    for (const int32_t engine : {FLASHQLA_ENGINE_AUTO, FLASHQLA_ENGINE_CHUNKED}) {
        check("ragged", engine, [](Case& c) { c.lengths = {130, 1, 0, 640, 64, 200}; });
        check("skipped rows", engine, [](Case& c) { c.lengths.assign(12, 150), c.states = States::special_slots, c.head_map = FLASHQLA_HEADS_TILED; });
        check("equal rows", engine, [](Case& c) { c.offsets = Offsets::none, c.lengths.assign(3, 500), c.extra = Extra::checkpoints; });
        check("full card", engine, [](Case& c) { c.key_heads = 8, c.value_heads = 16, c.lengths.assign(9, 100); });
    }
    for (const int32_t engine : {FLASHQLA_ENGINE_AUTO, FLASHQLA_ENGINE_CONTEXT_PARALLEL}) {
        check("a long row", engine, [](Case& c) { c.lengths = {6001}, c.extra = Extra::checkpoints, c.checkpoint_interval = 640; });
        check("long rows", engine, [](Case& c) { c.lengths = {3001, 0, 100, 2000}, c.states = States::special_slots; });
    }
    MESSAGE(calls, " calls, of which ", equal, " have the bits of the backward that recomputes");
}

TEST_SUITE_END();
