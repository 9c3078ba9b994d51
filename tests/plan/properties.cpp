// What holds for every plan: the workspace told serves every smaller call, grids are ones that a card takes, nothing depends on chance.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <sstream>
#include <string>

#include "cards.h"
#include "plan.h"
#include "row_split.h"

namespace {

using fqla::Bounds;
using fqla::Plan;
using fqla::Request;

class Dice {
public:
    explicit Dice(uint32_t seed) : random_(seed) {}
    int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_); }
    bool coin() { return between(0, 1) == 1; }
    int64_t one_of(std::initializer_list<int64_t> values) { return values.begin()[between(0, static_cast<int64_t>(values.size()) - 1)]; }
    // Small and large numbers alike: uniform in the number of bits.
    int64_t sized(int64_t most) {
        int bits = 0;
        while (most >> bits) bits++;
        return std::min(most, between(0, (int64_t{1} << between(0, bits)) - 1));
    }

private:
    std::mt19937_64 random_;
};

// As src/api admits them: bounds past which products leave int64 are refused there.
bool admitted(const fqla::Form& f, const Bounds& b) {
    const double per_token = static_cast<double>(f.value_heads) * std::max(f.key_dim, f.value_dim) * 64;
    return static_cast<double>(b.tokens) * per_token < 9e18 && static_cast<double>(b.rows) * per_token * 256 < 9e18;
}

Bounds with_or_without_offsets(const Bounds& b) {
    if (b.offsets || b.rows == 0) return b;
    return {b.rows, b.rows * b.max_tokens, b.max_tokens, false};
}

Request any_request(Dice& dice) {
    Request r{};
    r.op = dice.coin() ? FLASHQLA_OP_FORWARD : FLASHQLA_OP_BACKWARD;
    fqla::Form& f = r.problem.form;
    f.key_heads = static_cast<int32_t>(dice.one_of({1, 2, 4, 16, 1 << 10}));
    f.value_heads = f.key_heads * static_cast<int32_t>(dice.one_of({1, 2, 4, 3}));
    f.key_dim = static_cast<int32_t>(dice.one_of({128, 128, 64, 1, 100, 256}));
    f.value_dim = static_cast<int32_t>(dice.one_of({128, 128, 64, 1, 100, 256}));
    f.dtype = static_cast<int32_t>(dice.one_of({FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16}));
    f.state_dtype = static_cast<int32_t>(dice.one_of({FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16}));
    f.head_map = static_cast<int32_t>(dice.between(0, 1));
    f.gate = static_cast<int32_t>(dice.between(0, 2));
    f.beta = static_cast<int32_t>(dice.between(0, 1));
    f.qk_norm = static_cast<int32_t>(dice.between(0, 1));
    f.state_layout = static_cast<int32_t>(dice.between(0, 1));
    f.beta_scale = 1, f.scale = 0.1, f.eps = 1e-6;
    r.problem.flags = static_cast<uint64_t>(dice.between(0, 15));
    r.problem.engine = static_cast<int32_t>(dice.one_of({0, 0, 0, 1, 2, 3, 4}));
    do {
        const bool offsets = dice.coin();
        r.bounds = {dice.sized(INT32_MAX), dice.sized(int64_t{1} << 33), 0, offsets};
        r.bounds.max_tokens = offsets ? dice.sized(r.bounds.tokens) : dice.sized(1 << 20);
        r.bounds = with_or_without_offsets(r.bounds);
    } while (!admitted(f, r.bounds));
    r.state = {dice.coin(), dice.coin(), dice.coin(), dice.coin()};
    r.aligned_16_bytes = dice.coin();
    r.decode_reaches = dice.coin();
    return r;
}

// The same with `saved` given, where there is anything to save.
Request saving(Request r, const fqla::Caps& caps) {
    r.saved = fqla::saved_bytes(r, caps) > 0;
    return r;
}

// A call within the bounds of `large`, with whatever alignment and state options.
Request any_within(Dice& dice, const Request& large) {
    Request r = large;
    r.bounds.rows = dice.between(0, large.bounds.rows);
    r.bounds.tokens = dice.between(0, large.bounds.tokens);
    r.bounds.max_tokens = dice.between(0, large.bounds.max_tokens);
    if (r.bounds.offsets) r.bounds.max_tokens = std::min(r.bounds.max_tokens, r.bounds.tokens);
    r.bounds = with_or_without_offsets(r.bounds);
    r.state = {dice.coin(), dice.coin(), dice.coin(), dice.coin()};
    r.aligned_16_bytes = dice.coin();
    r.decode_reaches = dice.coin();
    return r;
}

std::string text_of(const Request& r) {
    const fqla::Form& f = r.problem.form;
    std::ostringstream s;
    s << "op " << r.op << " engine " << r.problem.engine << " flags " << r.problem.flags << " heads " << f.key_heads << '/' << f.value_heads << " dims "
      << f.key_dim << 'x' << f.value_dim << " dtype " << f.dtype << " gate " << f.gate << " rows " << r.bounds.rows << " tokens " << r.bounds.tokens << " max "
      << r.bounds.max_tokens << " offsets " << r.bounds.offsets << " aligned " << r.aligned_16_bytes << " decode " << r.decode_reaches;
    return s.str();
}

// What is wrong with a step, or null.
const char* fault_of(const fqla::Step& step, const fqla::Caps& caps) {
    if (static_cast<int>(step.kernel) >= fqla::kKernelCount) return "no such kernel";
    for (const uint32_t extent : step.grid)
        if (extent == 0) return "empty grid";
    if (step.grid[0] > 0x7FFFFFFF || step.grid[1] > 65535 || step.grid[2] > 65535) return "grid past the card's";
    if (step.threads < 32 || step.threads > 1024 || step.threads % 32) return "threads";
    return step.shared_bytes > caps.shared_memory_bytes ? "shared memory" : nullptr;
}

const char* fault_of(const Plan& plan, const Request& r, const fqla::Caps& caps) {
    const Plan again = fqla::make_plan(r, caps);
    if (std::memcmp(&plan, &again, sizeof plan) != 0) return "not the same twice";
    if (!std::memchr(plan.reason, 0, sizeof plan.reason) || !plan.reason[0]) return "no reason";
    if (plan.status != FLASHQLA_STATUS_OK && plan.status != FLASHQLA_STATUS_UNSUPPORTED) return "status";
    if (plan.segments < 1 || plan.launches() < 0) return "segments";
    if (plan.step_count < 0 || plan.step_count > Plan::kMaxSteps) return "steps";
    if (plan.workspace.total_bytes() % fqla::Workspace::kAlignment) return "workspace";
    if (plan.status == FLASHQLA_STATUS_OK && caps.cuda && r.bounds.rows > 0 && plan.step_count == 0) return "does nothing";
    for (int s = 0; s < plan.step_count; s++)
        if (const char* fault = fault_of(plan.steps[s], caps)) return fault;
    return nullptr;
}

}  // namespace

TEST_SUITE("properties") {
    TEST_CASE("the workspace told for the largest call serves every call within its bounds") {
        Dice dice(1);
        for (const Card& card : kCards)
            for (int i = 0; i < 3000; i++) {
                const Request large = any_request(dice);
                const uint64_t most = fqla::most_workspace_bytes(large, card.caps);
                for (int j = 0; j < 4; j++) {
                    Request small = any_within(dice, large);
                    if (dice.coin()) small = saving(small, card.caps);
                    const bool serves = fqla::make_plan(small, card.caps).workspace.total_bytes() <= most;
                    const bool grows = fqla::most_workspace_bytes(small, card.caps) <= most;
                    if (serves && grows) continue;
                    FAIL_CHECK((std::string(card.name) + ": " + std::to_string(most) + " bytes told for " + text_of(large) + "; " +
                                std::to_string(fqla::make_plan(small, card.caps).workspace.total_bytes()) + " wanted and " +
                                std::to_string(fqla::most_workspace_bytes(small, card.caps)) + " told for " + text_of(small)));
                    return;
                }
            }
    }

    TEST_CASE("plans are well formed") {
        Dice dice(2);
        for (const Card& card : kCards)
            for (int i = 0; i < 3000; i++) {
                Request r = any_request(dice);
                if (dice.coin()) r = saving(r, card.caps);
                const Plan plan = fqla::make_plan(r, card.caps);
                const char* fault = fault_of(plan, r, card.caps);
                if (!fault) continue;
                FAIL_CHECK((std::string(card.name) + ": " + fault + " in " + text_of(r) + ": " + plan.reason));
                return;
            }
    }

    TEST_CASE("an engine that is asked for serves or says why, never another") {
        Dice dice(3);
        for (const Card& card : kCards)
            for (int i = 0; i < 2000; i++) {
                const Request r = any_request(dice);
                const Plan plan = fqla::make_plan(r, card.caps);
                if (r.problem.engine != FLASHQLA_ENGINE_AUTO) CHECK(plan.engine == r.problem.engine);
                if (plan.status) CHECK(std::strlen(plan.reason) > 10);
            }
    }

    TEST_CASE("rows of few tokens beside long ones go to the recurrent kernel, and only where they may") {
        Dice dice(5);
        int split = 0;
        for (const Card& card : kCards)
            for (int i = 0; i < 2000; i++) {
                Request r = any_request(dice);
                fqla::Form& f = r.problem.form;
                f.key_heads = static_cast<int32_t>(dice.one_of({1, 2, 8, 16})), f.value_heads = f.key_heads * static_cast<int32_t>(dice.one_of({1, 2, 4}));
                f.key_dim = f.value_dim = 128;
                f.dtype = dice.coin() ? FLASHQLA_DTYPE_BF16 : FLASHQLA_DTYPE_F16;
                const int64_t longer = dice.between(1, 4), shorter = dice.between(32, 256), most = dice.between(512, 4096);
                r.bounds = {longer + shorter, longer * most + shorter, most, dice.between(0, 7) > 0};
                if (!r.bounds.offsets) r.bounds.tokens = r.bounds.rows * most;
                if (dice.coin()) {  // serving
                    r.op = FLASHQLA_OP_FORWARD, r.problem.engine = FLASHQLA_ENGINE_AUTO, r.problem.flags = 0;
                    r.state.token_states = false, r.aligned_16_bytes = true;
                } else if (dice.coin()) {
                    r = saving(r, card.caps);
                }
                const Plan plan = fqla::make_plan(r, card.caps);
                const bool may = card.caps.image == fqla::Image::sm_90a && r.op == FLASHQLA_OP_FORWARD && r.problem.engine == FLASHQLA_ENGINE_AUTO &&
                                 !(r.problem.flags & FLASHQLA_PROBLEM_BATCH_INVARIANT) && !r.saved && !r.state.token_states && r.aligned_16_bytes &&
                                 r.bounds.offsets;
                CAPTURE(text_of(r));
                if (!may) CHECK(plan.short_tokens == 0);
                CHECK(plan.workspace.total_bytes() <= fqla::most_workspace_bytes(r, card.caps));
                if (!plan.short_tokens) continue;
                split++;
                CHECK(plan.short_tokens == fqla::kShortTokens);
                CHECK(plan.engine != FLASHQLA_ENGINE_RECURRENT);
                const auto source = [&](int s) { return std::string(fqla::kKernels[static_cast<size_t>(plan.steps[s].kernel)].source); };
                CHECK(source(0) == "recurrent");
                CHECK(!plan.steps[1].overlaps);  // its results are not waited for by those behind
                for (int s = 1; s < plan.step_count; s++) CHECK(source(s) != "recurrent");
                CHECK(plan.launches() == plan.step_count);
                // Any row may be of any length: all are in each step's reach.
                CHECK(static_cast<int64_t>(plan.steps[0].grid[1]) * plan.steps[0].grid[2] >= r.bounds.rows);
            }
        CHECK(split > 200);
    }

    TEST_CASE("rows of one token that the host knows of are decode, however many; few rows of some tokens have a kernel too") {
        Dice dice(6);
        int decode = 0, shorts = 0;
        for (const Card& card : kCards) {
            if (!card.caps.cuda) continue;
            for (int i = 0; i < 2000; i++) {
                Request r = any_request(dice);
                fqla::Form& f = r.problem.form;
                if (dice.between(0, 7)) r.op = FLASHQLA_OP_FORWARD, f.key_dim = f.value_dim = 128, f.state_layout = FLASHQLA_STATE_VK;
                if (dice.between(0, 7)) r.bounds = with_or_without_offsets({dice.sized(1 << 17), 0, 1, false});
                if (dice.between(0, 3) == 0)
                    r.bounds = with_or_without_offsets({dice.between(1, 9), 0, dice.between(2, 9), false}), f.key_heads = 1, f.value_heads = 8;
                if (dice.between(0, 3)) r.state = {true, true, false, false}, r.aligned_16_bytes = r.decode_reaches = true;
                const Plan plan = fqla::make_plan(r, card.caps);
                const bool small = f.key_dim == 128 && f.value_dim == 128 && f.state_layout == FLASHQLA_STATE_VK && f.dtype != FLASHQLA_DTYPE_F32;
                const bool reached =
                    small && r.decode_reaches && r.aligned_16_bytes && r.state.read && r.state.write && !r.state.checkpoints && !r.bounds.offsets;
                const bool one = reached && !r.state.token_states && r.bounds.max_tokens == 1 && r.bounds.rows <= 65535;
                const bool few = reached && r.bounds.max_tokens >= 2 && r.bounds.max_tokens <= 8 && r.bounds.rows * f.value_heads <= 64;
                CAPTURE(text_of(r));
                const auto has = [&](const char* source) {
                    for (int s = 0; s < plan.step_count; s++)
                        if (!std::strcmp(fqla::kKernels[static_cast<size_t>(plan.steps[s].kernel)].source, source)) return true;
                    return false;
                };
                if (has("decode")) CHECK(one);
                if (has("short_rows")) CHECK(few);
                if (plan.step_count == 0 || plan.engine != FLASHQLA_ENGINE_RECURRENT || r.op != FLASHQLA_OP_FORWARD) continue;
                CHECK(has("decode") == one);
                CHECK(has("short_rows") == few);
                if (!one && !few) continue;
                decode += one, shorts += few;
                CHECK(plan.step_count == 1);
                const fqla::Step& step = plan.steps[0];
                CHECK(step.grid[0] * step.threads == 32 * (one ? 8 : 16));  // a warp for 16, or 8, of 128 columns
                CHECK(step.grid[1] == static_cast<uint32_t>(f.value_heads));
                CHECK(step.grid[2] == static_cast<uint32_t>(r.bounds.rows));
            }
        }
        CHECK(decode > 1000);
        CHECK(shorts > 100);
    }

    TEST_CASE("forward and backward agree on what is saved, and both can use it") {
        Dice dice(4);
        int saved = 0;
        for (const Card& card : kCards)
            for (int i = 0; i < 2000; i++) {
                Request r = any_request(dice);
                r.aligned_16_bytes = true;
                r.problem.form.key_dim = r.problem.form.value_dim = 128;
                r.problem.form.dtype = dice.coin() ? FLASHQLA_DTYPE_BF16 : FLASHQLA_DTYPE_F16;
                r.bounds = with_or_without_offsets({dice.between(1, 20), dice.sized(1 << 16), dice.sized(1 << 14), dice.coin()});
                const uint64_t bytes = fqla::saved_bytes(r, card.caps);
                r.op = FLASHQLA_OP_BACKWARD;
                CHECK(fqla::saved_bytes(r, card.caps) == bytes);
                r.op = FLASHQLA_OP_FORWARD;
                CHECK(fqla::saved_bytes(r, card.caps) == bytes);
                if (!bytes) continue;
                const Plan forward = fqla::make_plan(saving(r, card.caps), card.caps);
                r.op = FLASHQLA_OP_BACKWARD;
                const Plan backward = fqla::make_plan(saving(r, card.caps), card.caps);
                if (forward.status || backward.status) continue;  // context parallelism asked for, and too little of a row to cut
                CHECK(forward.saved.total_bytes() == bytes);
                CHECK(backward.saved.total_bytes() == bytes);
                saved++;
            }
        CHECK(saved > 50);
    }

    TEST_CASE("every kernel of the table has a name of its own") {
        for (int i = 0; i < fqla::kKernelCount; i++)
            for (int j = 0; j < i; j++) CHECK(std::strcmp(fqla::kKernels[i].symbol, fqla::kKernels[j].symbol) != 0);
    }
}
