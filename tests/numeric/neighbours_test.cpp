// What lies beside a row in memory must not reach it: tokens of the rows around it and of no row, whatever they hold, in every engine.
#include <limits>

#include "check.h"

using namespace numeric;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
// Tensor-core sizes, the norm inside, ragged rows, and tokens before the first row and behind the last.
Case ragged_case(const char* what) {
    Case c = plain_case(what);
    c.dtype = FLASHQLA_DTYPE_BF16;
    c.key_dim = c.value_dim = 128;
    c.key_heads = 2, c.value_heads = 4;
    c.qk_norm = FLASHQLA_NORM_L2;
    c.offsets = Offsets::gaps;
    c.lengths = {100, 1, 0, 63, 130, 33};
    return c;
}

void spoil_token(Sample& sample, int64_t token) {
    Values& x = sample.values;
    const auto each = [token](Numbers& numbers, int64_t width) {
        for (int64_t i = 0; i < width; i++) numbers[static_cast<size_t>(token * width + i)] = kNaN;
    };
    const Case& c = sample.c;
    each(x.q, c.key_heads * c.key_dim), each(x.k, c.key_heads * c.key_dim), each(x.v, c.value_heads * c.value_dim);
    each(x.gate, c.value_heads), each(x.beta, c.value_heads);
}

// Elements of `got` that are of other rows than those in [first, last) and not as in `clean`.
size_t changed_elsewhere(const Sample& sample, const Outcome& got, const Outcome& clean, int64_t first, int64_t last) {
    const std::vector<int64_t>& offsets = sample.tables.offsets;
    size_t changed = 0;
    for (size_t g = 0; g < got.grids.size(); g++) {
        const Grid &x = got.grids[g], &y = clean.grids[g];
        if (x.shape[0] == 1) continue;  // sums over all rows
        const bool by_row = x.shape.size() == 4;
        for (size_t i = 0; i < x.value.size(); i++) {
            const int64_t at = static_cast<int64_t>(i) / x.inner(1);
            const bool own = by_row ? at >= first && at < last : at >= offsets[static_cast<size_t>(first)] && at < offsets[static_cast<size_t>(last)];
            changed += !own && !same_bits({x.value[i]}, {y.value[i]});
        }
    }
    return changed;
}

bool run(const Sample& sample, int32_t op, int32_t engine, Outcome& out) {
    Call::Options options;
    options.op = op;
    options.engine = engine;
    Call call(sample, options);
    const int32_t status = call.run();
    if (status == FLASHQLA_STATUS_UNSUPPORTED && engine != FLASHQLA_ENGINE_AUTO) return false;
    CHECK_MESSAGE(status == FLASHQLA_STATUS_OK, flashqla_last_error());
    out = call.read();
    return true;
}

}  // namespace

TEST_SUITE_BEGIN("edges");

TEST_CASE("NaN in the tokens around a row stays out of it") {
    const Sample sample = make_sample(ragged_case("neighbours"));
    const std::vector<int64_t>& offsets = sample.tables.offsets;
    const int64_t rows = sample.c.rows();
    for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD})
        for (const int32_t engine : kEngines) {
            Outcome clean, got;
            if (!run(sample, op, engine, clean)) continue;
            CAPTURE(op);
            CAPTURE(engine);
            for (int64_t n = 0; n < rows; n++) {
                if (!sample.c.lengths[static_cast<size_t>(n)]) continue;
                Sample spoilt = sample;
                spoil_token(spoilt, offsets[static_cast<size_t>(n)]);
                REQUIRE(run(spoilt, op, engine, got));
                CHECK_MESSAGE(changed_elsewhere(spoilt, got, clean, n, n + 1) == 0, "from the first token of row ", n);
            }
            Sample spoilt = sample;
            for (int64_t t = 0; t < offsets.front(); t++) spoil_token(spoilt, t);
            for (int64_t t = offsets.back(); t < sample.tokens; t++) spoil_token(spoilt, t);
            REQUIRE(run(spoilt, op, engine, got));
            CHECK_MESSAGE(changed_elsewhere(spoilt, got, clean, rows, rows) == 0, "from tokens of no row");
        }
}

TEST_CASE("thousands of rows shorter than a chunk") {
    Case c = ragged_case("short rows");
    c.value_heads = 2;
    c.lengths.clear();
    const int64_t count = session().quick || !session().cuda() ? 40 : 1500;
    for (int64_t n = 0; n < count; n++) c.lengths.push_back((n * 37 + 5) % 130);
    const Sample sample = make_sample(c);
    const Outcome want = oracle_forward(sample);
    for (const int32_t engine : kEngines) {
        Call::Options options;
        options.engine = engine;
        Call call(sample, options);
        if (call.run() == FLASHQLA_STATUS_UNSUPPORTED && engine != FLASHQLA_ENGINE_AUTO) continue;
        const std::string wrong = report(sample, call.read(), want, arithmetic_of(c, call));
        CHECK_MESSAGE(wrong.empty(), "engine ", engine, " ", wrong);
    }
}

TEST_SUITE_END();
