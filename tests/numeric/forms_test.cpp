// Every form against the oracle: each engine that takes the call, each with poisoned outputs and workspace and guard bands.
#include <algorithm>
#include <functional>
#include <memory>

#include "case_space.h"
#include "check.h"

using namespace numeric;

namespace {

// AUTO must take the call; the others may answer UNSUPPORTED. Returns the calls made.
int run_engines(const Sample& sample, int32_t op, const Outcome& want) {
    int calls = 0;
    for (const int32_t engine : kEngines) {
        if ((!session().cuda() || session().engine) && engine != FLASHQLA_ENGINE_AUTO) break;  // the CPU has one
        Call::Options options;
        options.op = op;
        options.engine = engine;
        options.poison = sample.c.seed % 2 ? sample.c.seed : 0;
        // Every other backward reads what its forward saved, the others recompute it.
        std::unique_ptr<Buffer> saved;
        if (op == FLASHQLA_OP_BACKWARD && sample.c.seed / 2 % 2) saved = save(sample, options);
        options.saved = saved.get();
        Call call(sample, options);
        const int32_t status = call.run();
        if (status == FLASHQLA_STATUS_UNSUPPORTED && engine != FLASHQLA_ENGINE_AUTO) continue;
        calls++;
        const std::string wrong = status ? sample.c.text() + ": " + flashqla_status_name(status) + ": " + flashqla_last_error()
                                         : report(sample, call.read(), want, arithmetic_of(sample.c, call));
        CHECK_MESSAGE(wrong.empty(), (op ? "backward" : "forward"), ", engine ", engine, " ", wrong);
    }
    return calls;
}

// Every round covers all pairs anew, with other company.
void run_space(Space space, int rounds) {
    int calls = 0;
    size_t cases = 0;
    for (int round = 0; round < (session().rounds ? session().rounds : rounds); round++) {
        for (const Case& c : covering_cases(space, session().seed + static_cast<uint64_t>(round), session().quick ? 6 : 1)) {
            const Sample sample = make_sample(c);
            calls += run_engines(sample, FLASHQLA_OP_FORWARD, oracle_forward(sample));
            calls += run_engines(sample, FLASHQLA_OP_BACKWARD, oracle_backward(sample));
            cases++;
        }
    }
    MESSAGE(cases, " cases, ", calls, " calls");
}

using Lengths = std::vector<int64_t>;

// Bounded keys, unless `edit` says otherwise, on one engine, if this card has it.
void check_bounded(int32_t engine, const char* what, int32_t heads, const Lengths& lengths, const std::function<void(Case&)>& edit) {
    for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16}) {
        Case c = plain_case(what);
        c.key_heads = c.value_heads = heads, c.key_dim = c.value_dim = 128;
        c.lengths = lengths;
        c.dtype = dtype;
        c.flags = FLASHQLA_PROBLEM_KEYS_BOUNDED;
        edit(c);
        make_valid(c);
        const Sample sample = make_sample(c);
        Call::Options options;
        options.engine = engine;
        options.poison = sample.c.seed % 2 ? sample.c.seed : 0;
        Call call(sample, options);
        if (call.query().status == FLASHQLA_STATUS_UNSUPPORTED) {
            MESSAGE(what, ": not on this card");
            return;
        }
        const std::string wrong = run_and_report(call, oracle_forward(sample));
        CHECK_MESSAGE(wrong.empty(), call.query().launches, " launches, ", wrong);
        if (session().quick && engine != FLASHQLA_ENGINE_FUSED) return;  // its rows are short
    }
}

// As models have them.
void model_forms(Case& c) {
    c.key_heads = std::max(1, c.value_heads / 2), c.gate = FLASHQLA_GATE_RAW, c.beta = FLASHQLA_BETA_LOGIT, c.qk_norm = FLASHQLA_NORM_L2, c.flags = 0;
    c.state_layout = FLASHQLA_STATE_VK, c.states = States::in_place_slots, c.extra = Extra::checkpoints;
}

}  // namespace

TEST_SUITE_BEGIN("forms");

TEST_CASE("cpu: every pair of forms, forward and backward") { run_space(Space::cpu, 3); }
TEST_CASE("gpu: every pair of forms, forward and backward") { run_space(Space::gpu, 1); }
TEST_CASE("gpu: every pair of forms that tensor cores take") { run_space(Space::tensor, 1); }

// Twelve times sixteen (row, head) pairs: more than an H100 has multiprocessors, so that blocks that serve one pair after another do so. The space of
// pairs above has too few heads for that.
TEST_CASE("rows and heads that fill a card") {
    const bool few = !session().cuda() || session().quick;
    auto check = [&](const char* what, const std::function<void(Case&)>& edit) {
        for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16}) {
            Case c = plain_case(what);
            c.key_heads = 8, c.value_heads = 16, c.key_dim = c.value_dim = 128;
            c.lengths = few ? std::vector<int64_t>{130, 0, 65, 64, 1} : std::vector<int64_t>{300, 0, 65, 128, 1, 64, 200, 63, 129, 7, 448, 100};
            c.dtype = dtype;
            c.flags = FLASHQLA_PROBLEM_KEYS_BOUNDED;
            edit(c);
            make_valid(c);
            const Sample sample = make_sample(c);
            run_engines(sample, FLASHQLA_OP_FORWARD, oracle_forward(sample));
            if (few) break;
        }
    };
    check("as models have it", model_forms);
    // The state's scale is taken up seldom, sometimes, always.
    for (const Gates gates : {Gates::none, Gates::gentle, Gates::strong}) check("gates", [&](Case& c) { c.gates = gates; });
    check("rows that are skipped", [](Case& c) { c.states = States::special_slots, c.head_map = FLASHQLA_HEADS_TILED, c.state_dtype = FLASHQLA_DTYPE_BF16; });
    check("gaps", [](Case& c) { c.offsets = Offsets::gaps, c.strides = Strides::projection, c.gate_dtype = FLASHQLA_DTYPE_BF16; });
    check("equal rows, their ends ragged",
          [&](Case& c) { c.offsets = Offsets::none, c.lengths.assign(few ? 2 : 12, 100), c.gate = FLASHQLA_GATE_LINEAR, c.extra = Extra::checkpoints; });
    check("like keys, betas up to 2", [](Case& c) { c.keys = Keys::alike, c.qk_norm = FLASHQLA_NORM_L2, c.beta_scale = 2, c.flags = 0; });
    if (!few) check("many chunks of weak gates", [](Case& c) { c.lengths.assign(5, 2100), c.lengths[1] = 2047, c.gates = Gates::gentle; });
}

// For (row, head) pairs between a quarter and half of a card's multiprocessors chunk records are no choice, since there is no room for two segments of two
// blocks each; for fewer pairs only very long rows go without.
TEST_CASE("gpu: rows in segments that keep no chunk records") {
    const auto check = [](const char* what, int32_t heads, const Lengths& lengths, const std::function<void(Case&)>& edit) {
        check_bounded(FLASHQLA_ENGINE_CONTEXT_PARALLEL, what, heads, lengths, edit);
    };
    const auto skipped = [](Case& c) { c.states = States::special_slots, c.head_map = FLASHQLA_HEADS_TILED, c.state_dtype = FLASHQLA_DTYPE_BF16; };
    // Few enough (row, head) pairs that cutting pays: by summaries, by stretches that warm up, and both, as heads forget or do not.
    check("cut, as models have it", 4, {6000, 0, 2500}, model_forms);
    check("cut, weak gates", 2, {5000}, [](Case& c) { c.states = States::in_place, c.gates = Gates::none, c.extra = Extra::checkpoints; });
    check("cut, a part of the state left out", 4, {2600, 1500, 1},
          [](Case& c) { c.flags |= FLASHQLA_PROBLEM_APPROXIMATE_WARMUP, c.gates = Gates::gentle, c.states = States::in_place, c.extra = Extra::checkpoints; });
    for (const Lengths& lengths : {Lengths{1000, 130, 64, 1, 449}, Lengths{2900, 0, 700}}) {
        check("as models have it", 12, lengths, model_forms);
        check("bf16 states, rows that are skipped", 12, lengths, skipped);
        check("bf16 VK states in place", 12, lengths,
              [](Case& c) { c.states = States::in_place, c.state_layout = FLASHQLA_STATE_VK, c.state_dtype = FLASHQLA_DTYPE_BF16, c.gates = Gates::gentle; });
        check("gaps", 12, lengths, [](Case& c) {
            c.offsets = Offsets::gaps, c.strides = Strides::projection, c.gate_dtype = FLASHQLA_DTYPE_BF16, c.gates = Gates::strong, c.states = States::write;
        });
        check("equal rows, their ends ragged", 12, lengths, [&](Case& c) {
            c.offsets = Offsets::none, c.lengths.assign(lengths.size(), lengths[0] - 37), c.gate = FLASHQLA_GATE_LINEAR, c.extra = Extra::checkpoints;
        });
        check("like keys, betas up to 2", 12, lengths, [](Case& c) { c.keys = Keys::alike, c.qk_norm = FLASHQLA_NORM_L2, c.beta_scale = 2, c.flags = 0; });
        if (session().quick) return;
    }
    // With transitions: eight segments, five segments; so long that the planner takes them without records.
    check("many segments", 16, {9000}, [](Case& c) { c.states = States::in_place, c.gates = Gates::gentle, c.extra = Extra::checkpoints; });
    check("many segments as models have them", 16, {19000}, model_forms);
    check("five segments, rows that are skipped", 12, {12000, 500}, skipped);
}

// A third of the heads have gates that grow behind a deep drop: these must not forget, though sums over their chunks say so. As much growth as merges in half
// precision take.
TEST_CASE("gpu: heads whose gates grow, cut beside others") {
    Case c = plain_case("grows");
    c.key_heads = c.value_heads = 16, c.key_dim = c.value_dim = 128, c.dtype = FLASHQLA_DTYPE_BF16, c.qk_norm = FLASHQLA_NORM_L2;
    c.lengths = {8192}, c.gates = Gates::none, c.states = States::read;
    make_valid(c);
    Sample sample = make_sample(c);
    for (size_t token = 0; token < 8192; token++) {
        const size_t in_chunk = token % 64, grows = token / 64 == 20;
        for (size_t head = 0; head < 16; head++) sample.values.gate[token * 16 + head] = head % 3 || !grows ? -0.1 : in_chunk < 31 ? -40 : 0.25;
    }
    Call::Options options;
    options.engine = FLASHQLA_ENGINE_CONTEXT_PARALLEL;
    Call call(sample, options);
    if (call.query().status == FLASHQLA_STATUS_UNSUPPORTED) return;
    const std::string wrong = run_and_report(call, oracle_forward(sample));
    CHECK_MESSAGE(wrong.empty(), wrong);
}

// So few (row, head) pairs that a card has four multiprocessors for each.
TEST_CASE("gpu: few rows and heads by one kernel") {
    const auto check = [](const char* what, int32_t heads, const Lengths& lengths, const std::function<void(Case&)>& edit) {
        check_bounded(FLASHQLA_ENGINE_FUSED, what, heads, lengths, edit);
    };
    for (const int32_t heads : {1, 2, 4}) {
        check("a long row", heads, {1500}, [](Case& c) { c.states = States::in_place, c.gates = Gates::gentle, c.extra = Extra::checkpoints; });
        check("a long row as models have it", heads, {1500}, model_forms);
    }
    const Lengths lengths{449, 0, 64, 1, 130};
    check("as models have it", 4, lengths, model_forms);
    check("bf16 states, rows that are skipped", 4, lengths,
          [](Case& c) { c.states = States::special_slots, c.head_map = FLASHQLA_HEADS_TILED, c.state_dtype = FLASHQLA_DTYPE_BF16; });
    check("gaps", 4, lengths, [](Case& c) {
        c.offsets = Offsets::gaps, c.strides = Strides::projection, c.gate_dtype = FLASHQLA_DTYPE_BF16, c.gates = Gates::strong, c.states = States::write;
    });
    check("equal rows, their ends ragged", 4, {100, 100}, [](Case& c) { c.offsets = Offsets::none, c.gate = FLASHQLA_GATE_LINEAR; });
    check("like keys, betas up to 2", 4, lengths, [](Case& c) { c.keys = Keys::alike, c.qk_norm = FLASHQLA_NORM_L2, c.beta_scale = 2, c.flags = 0; });
    check("two blocks each, as models have it", 12, {100, 0, 65, 130}, model_forms);
}

TEST_CASE("scale and eps other than the defaults") {
    Case c = plain_case("scale");
    c.scale = -0.7;
    c.eps = 0.25;
    c.qk_norm = FLASHQLA_NORM_L2;
    check_forward(make_sample(c));
    check_backward(make_sample(c));
}

TEST_CASE("gradients one by one are those of all together, and d_final may be left out") {
    Case c = plain_case("one by one");
    c.gate = FLASHQLA_GATE_RAW;
    c.lengths = {33, 0, 5};
    Sample sample = make_sample(c);
    const Outcome want = oracle_backward(sample);
    for (const char* name : {"dq", "dk", "dv", "d_gate", "d_beta", "dA_log", "ddt_bias", "d_initial"}) {
        Call::Options options;
        options.op = FLASHQLA_OP_BACKWARD;
        options.wanted = {name};
        Call call(sample, options);
        const std::string wrong = report(sample, must_run(call), want, arithmetic_of(c, call), {name});
        CHECK_MESSAGE(wrong.empty(), wrong);
    }
    Call::Options options;
    options.op = FLASHQLA_OP_BACKWARD;
    options.d_final = false;
    Call call(sample, options);
    const Outcome got = must_run(call);
    std::fill(sample.values.d_final.begin(), sample.values.d_final.end(), 0.0);
    const std::string wrong = report(sample, got, oracle_backward(sample), arithmetic_of(c, call));
    CHECK_MESSAGE(wrong.empty(), wrong);
}

TEST_CASE("ten thousand rows, and more rows than a grid has in one direction") {
    Case c = plain_case("rows");
    c.key_heads = 1, c.value_heads = 2, c.key_dim = 16, c.value_dim = 16;
    c.states = States::in_place_slots;
    c.lengths.assign(session().quick ? 1000 : 10000, 1);
    check_forward(make_sample(c));
    c.lengths.resize(session().quick ? 300 : 3000);
    check_backward(make_sample(c));
    if (!session().cuda() || session().quick) return;
    c.value_heads = 1, c.key_dim = c.value_dim = 4;
    c.lengths.assign(70001, 1);
    check_forward(make_sample(c));
    check_backward(make_sample(c));
}

TEST_CASE("decode of more states than the L2 holds") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16, FLASHQLA_DTYPE_F32}) {
        if ((session().quick || !session().cuda()) && dtype != FLASHQLA_DTYPE_BF16) break;
        Case c = plain_case("large decode");
        c.dtype = dtype;
        c.key_heads = 4, c.value_heads = 8, c.key_dim = c.value_dim = 128;
        c.state_layout = FLASHQLA_STATE_VK;
        c.states = States::in_place;
        c.qk_norm = FLASHQLA_NORM_L2;
        c.lengths.assign(128, 1);
        check_forward(make_sample(c));
    }
}

// Rows that are empty take workspace too, and no time to check. Around where 8 GiB end, rows of several chunks lie close.
TEST_CASE("gpu: a backward that does not fit the workspace limit goes by segments") {
    if (session().quick) return;
    Case c = plain_case("segments");
    c.key_heads = 1, c.value_heads = 64, c.key_dim = 256, c.value_dim = 1;
    c.gate = FLASHQLA_GATE_RAW;
    c.lengths.assign(2400, 0);
    std::fill(c.lengths.begin() + 1850, c.lengths.begin() + 2010, 100);
    Call::Options options;
    options.op = FLASHQLA_OP_BACKWARD;
    options.bare_workspace = true;
    const Sample sample = make_sample(c);
    Call call(sample, options);
    CHECK(call.query().workspace_bytes > uint64_t{4} << 30);
    const std::string wrong = run_and_report(call, oracle_backward(sample));
    CHECK_MESSAGE(wrong.empty(), wrong);
    MESSAGE((call.query().workspace_bytes >> 20), " MiB, ", call.query().launches, " launches");
}

TEST_SUITE_END();
