// What lies beside a row in memory must not reach it: tokens of the rows around it and of no row, whatever they hold, in every engine.
#include <algorithm>
#include <cstring>
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

// `longer` rows of `length` tokens, evenly among `shorter` ones of `few`.
std::vector<int64_t> mixed_lengths(int64_t longer, int64_t length, int64_t shorter, int64_t few) {
    std::vector<int64_t> lengths;
    for (int64_t n = 0; n < longer + shorter; n++) lengths.push_back((n + 1) * longer / (longer + shorter) > n * longer / (longer + shorter) ? length : few);
    return lengths;
}

// A forward whose rows have two engines on an H100 by the bounds alone, whatever lengths they turn out to have; longer ones `kernel`.
void check_mixed(Case c, const char* kernel = "") {
    const Sample sample = make_sample(c);
    Call call(sample, {});
    flashqla_device device{};
    device.struct_size = sizeof device;
    REQUIRE(flashqla_device_info(session().handle, &device) == FLASHQLA_STATUS_OK);
    if (device.compute_major == 9 && device.multiprocessors == 132 && !session().engine) {
        CHECK_MESSAGE(std::strstr(call.query().reason, "rows of up to 16 tokens"), call.query().reason);
        CHECK_MESSAGE(std::strstr(call.explain().c_str(), kernel), call.explain());
    }
    const std::string wrong = run_and_report(call, oracle_forward(sample));
    CHECK_MESSAGE(wrong.empty(), wrong);
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

TEST_CASE("prefill beside decode, with slots, pads and checkpoints") {
    Case c = qwen_case("mixed", FLASHQLA_DTYPE_BF16);
    c.key_heads = 2, c.value_heads = 4;
    c.states = States::special_slots;
    c.extra = Extra::checkpoints;
    c.lengths = mixed_lengths(1, 1200, 30, 1);
    for (const int64_t length : {0, 1, 2, 15, 16, 17, 63, 64, 65}) c.lengths.insert(c.lengths.begin() + length % 7, length);
    c.lengths.push_back(3);  // the longest row has a neighbour on either side
    c.checkpoint_interval = 320;
    for (const Offsets offsets : {Offsets::i64, Offsets::gaps}) {
        c.offsets = offsets;
        c.seed++;
        check_mixed(c);
    }
    c.states = States::separate, c.extra = Extra::none;
    const Sample sample = make_sample(c);
    const std::vector<int64_t>& offsets = sample.tables.offsets;
    const auto longest = static_cast<size_t>(std::max_element(c.lengths.begin(), c.lengths.end()) - c.lengths.begin());
    Outcome clean, got;
    REQUIRE(run(sample, FLASHQLA_OP_FORWARD, FLASHQLA_ENGINE_AUTO, clean));
    for (const size_t n : {longest - 1, longest, longest + 1}) {
        Sample spoilt = sample;
        spoil_token(spoilt, offsets[n]);
        REQUIRE(run(spoilt, FLASHQLA_OP_FORWARD, FLASHQLA_ENGINE_AUTO, got));
        CHECK_MESSAGE(changed_elsewhere(spoilt, got, clean, static_cast<int64_t>(n), static_cast<int64_t>(n) + 1) == 0, "from row ", n);
    }
}

TEST_CASE("prefill rows beside decode: more of either than the bounds let expect") {
    for (const int32_t norm : {FLASHQLA_NORM_L2, FLASHQLA_NORM_NONE}) {
        Case c = qwen_case("mixed heads", norm ? FLASHQLA_DTYPE_BF16 : FLASHQLA_DTYPE_F16);
        c.qk_norm = norm;
        c.key_heads = 4, c.value_heads = 8;
        c.states = States::in_place;
        c.lengths = mixed_lengths(9, 300, 91, 1);
        check_mixed(c);
        c.lengths = mixed_lengths(1, 300, 69, 17);
        check_mixed(c);
        c.key_heads = 2, c.value_heads = 4;
        c.lengths = mixed_lengths(1, 1200, 40, 17);
        check_mixed(c);
    }
}

// A long row by itself would be cut: so it is beside rows of few tokens. Where lengths make more of such rows than there is room for, none is.
TEST_CASE("prefill beside decode: rows that are cut") {
    Case c = qwen_case("mixed cut", FLASHQLA_DTYPE_BF16);
    c.qk_norm = FLASHQLA_NORM_L2;
    c.key_heads = 2, c.value_heads = 4;
    c.states = States::special_slots;
    c.extra = Extra::checkpoints;
    c.checkpoint_interval = 1600;
    for (const int64_t few : {1, 17}) {
        c.lengths = mixed_lengths(1, 5000, 40, few);
        c.offsets = few == 1 ? Offsets::gaps : Offsets::i64;
        c.seed++;
        check_mixed(c, "gdn_cut");
    }
}

// 33 clusters of three blocks take more (row, head) pairs than they are, of one to nineteen chunks, one after another.
TEST_CASE("prefill rows beside decode: more of them than clusters") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16}) {
        Case c = qwen_case("mixed units", dtype);
        c.qk_norm = FLASHQLA_NORM_L2;
        c.key_heads = 2, c.value_heads = 4;
        c.states = States::special_slots;
        c.lengths = mixed_lengths(1, 1200, 40, 17);
        for (size_t n = 0; n < c.lengths.size(); n += 3) c.lengths[n] += static_cast<int64_t>(n % 4) * 64;
        check_mixed(c, "_trio");
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
