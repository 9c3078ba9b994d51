// Values and tables at the edge of what is allowed, and beyond.
#include <cmath>
#include <limits>

#include "check.h"

using namespace numeric;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity(), kNaN = std::numeric_limits<double>::quiet_NaN();

int64_t row_of(const Sample& sample, int64_t token) {
    int64_t n = 0;
    while (token >= sample.tables.offsets[static_cast<size_t>(n) + 1]) n++;
    return n;
}

// All of `got` but row `row`'s elements of the value heads that read key head `key_head` (of that key head itself) are as in `clean`.
void check_confined(const Sample& sample, const Outcome& got, const Outcome& clean, int64_t row, int64_t key_head, int64_t value_head) {
    const Case& c = sample.c;
    CHECK(got.damage == "");
    for (size_t g = 0; g < got.grids.size(); g++) {
        const Grid &x = got.grids[g], &y = clean.grids[g];
        size_t changed = 0;
        const bool by_row = x.shape.size() == 4, by_key_head = x.shape[1] == c.key_heads && c.key_heads != c.value_heads;
        if (x.shape[0] == 1) continue;  // sums over all rows
        for (size_t i = 0; i < x.value.size(); i++) {
            const auto at = static_cast<int64_t>(i);
            const int64_t first = at / x.inner(1), head = at / x.inner(2) % x.shape[1], n = by_row ? first : row_of(sample, first);
            const bool hit = n == row && (by_key_head ? head == key_head : value_head < 0 ? c.key_head_of(head) == key_head : head == value_head);
            if (!hit) changed += !same_bits({x.value[i]}, {y.value[i]});
        }
        CHECK_MESSAGE(changed == 0, x.name, ": ", changed, " elements of other rows or heads changed");
    }
}

Outcome run(const Sample& sample, int32_t op) {
    Call::Options options;
    options.op = op;
    Call call(sample, options);
    return must_run(call);
}

}  // namespace

TEST_SUITE_BEGIN("edges");

TEST_CASE("NaN and infinity stay within their row and head") {
    Case c = plain_case("confined");
    c.key_heads = 2, c.value_heads = 4;
    c.key_dim = c.value_dim = 128;
    c.dtype = FLASHQLA_DTYPE_BF16;
    const Sample sample = make_sample(c);
    const int64_t token = sample.tables.offsets[2] + 70, key_head = 1, value_head = 2;  // grouped: head 2 reads key head 1
    for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) {
        const Outcome clean = run(sample, op);
        for (const double bad : {kNaN, kInfinity, -kInfinity}) {
            for (const int tensor : {0, 1, 2, 3, 4}) {
                Sample spoilt = sample;
                Values& x = spoilt.values;
                const bool key = tensor < 2;
                Numbers& to = tensor == 0 ? x.q : tensor == 1 ? x.k : tensor == 2 ? x.v : tensor == 3 ? x.gate : x.beta;
                const int64_t heads = key ? c.key_heads : c.value_heads, dim = tensor < 3 ? 128 : 1;
                to[static_cast<size_t>((token * heads + (key ? key_head : value_head)) * dim)] = bad;
                CAPTURE(op);
                CAPTURE(bad);
                CAPTURE(tensor);
                const Outcome got = run(spoilt, op);
                check_confined(spoilt, got, clean, 2, key_head, key ? -1 : value_head);
                // Nothing is swallowed either: what a bad v or beta reaches first is bad.
                if (op == FLASHQLA_OP_FORWARD && (tensor == 2 || tensor == 4) && std::isnan(bad))
                    CHECK(!std::isfinite(got.find("out")->value[static_cast<size_t>((token * c.value_heads + value_head) * 128)]));
            }
        }
    }
}

TEST_CASE("a spoilt start state stays within its row and head") {
    Case c = plain_case("spoilt state");
    const Sample sample = make_sample(c);
    Sample spoilt = sample;
    spoilt.values.pool[static_cast<size_t>((1 * c.value_heads + 3) * c.key_dim * c.value_dim + 5)] = kNaN;
    for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) check_confined(spoilt, run(spoilt, op), run(sample, op), 1, 1, 3);
}

TEST_CASE("gates from zero to minus infinity, alpha zero") {
    for (const int32_t gate : {FLASHQLA_GATE_LOG, FLASHQLA_GATE_LINEAR}) {
        Case c = plain_case("extreme gates");
        c.gate = gate;
        c.gates = Gates::strong;
        Sample sample = make_sample(c);
        for (size_t i = 0; i < sample.values.gate.size(); i += 3) sample.values.gate[i] = gate == FLASHQLA_GATE_LOG ? -kInfinity : 0;
        for (size_t i = 1; i < sample.values.gate.size(); i += 7) sample.values.gate[i] = gate == FLASHQLA_GATE_LOG ? -1000 : 1e-30;
        check_forward(sample);
        check_backward(sample);
        std::fill(sample.values.gate.begin(), sample.values.gate.end(), gate == FLASHQLA_GATE_LOG ? -kInfinity : 0.0);
        check_forward(sample);
        check_backward(sample);
    }
}

TEST_CASE("gates above zero are computed as they stand") {
    Case c = plain_case("growing");
    Sample sample = make_sample(c);
    for (double& g : sample.values.gate) g = static_cast<double>(static_cast<float>(-g / 64));
    check_forward(sample);
    check_backward(sample);
}

TEST_CASE("beta zero, one and two") {
    for (const double beta : {0.0, 1.0, 2.0}) {
        for (const Keys keys : {Keys::random, Keys::alike}) {
            Case c = plain_case("beta");
            c.keys = keys;
            c.beta_scale = beta == 2 ? 2 : 1;
            Sample sample = make_sample(c);
            std::fill(sample.values.beta.begin(), sample.values.beta.end(), beta == 0 ? 0.0 : 1.0);
            CAPTURE(beta);
            check_forward(sample);
            check_backward(sample);
        }
    }
}

TEST_CASE("rows of zeros through the L2 norm give zeros and finite gradients") {
    Case c = plain_case("zero keys");
    c.qk_norm = FLASHQLA_NORM_L2;
    Sample sample = make_sample(c);
    const auto K = static_cast<size_t>(c.key_dim), heads = static_cast<size_t>(c.key_heads);
    for (size_t row = 0; row < sample.values.k.size() / K; row += 2) {
        std::fill_n(sample.values.k.begin() + static_cast<int64_t>(row * K), K, 0.0);
        if (row / heads % 3 == 0) std::fill_n(sample.values.q.begin() + static_cast<int64_t>(row * K), K, 0.0);
    }
    check_forward(sample);
    check_backward(sample);
}

TEST_CASE("offsets that decrease or point outside are clamped") {
    Case c = plain_case("clamped");
    c.states = States::separate;
    for (const Offsets offsets : {Offsets::i32, Offsets::i64}) {
        c.offsets = offsets;
        c.lengths = {6, 14, 0, 0};
        const Sample want = make_sample(c);
        Sample wild = want;
        wild.tables.offsets = {-4, 6, 1000, 2000, 3};
        for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) {
            Call::Options options;
            options.op = op;
            Call call(wild, options);
            const std::string wrong = report(want, must_run(call), op ? oracle_backward(want) : oracle_forward(want), arithmetic_of(c, call));
            CHECK_MESSAGE(wrong.empty(), wrong);
        }
    }
}

TEST_CASE("a row longer than max_tokens is cut there") {
    Case c = plain_case("cut");
    c.lengths = {10, 3, 70};
    Sample sample = make_sample(c);
    sample.c.lengths = {4, 3, 4};
    for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) {
        Call::Options options;
        options.op = op;
        Call call(sample, options);
        CHECK(call.sequences.max_tokens == 4);
        const std::string wrong = run_and_report(call, op ? oracle_backward(sample) : oracle_forward(sample));
        CHECK_MESSAGE(wrong.empty(), wrong);
    }
}

TEST_SUITE_END();
