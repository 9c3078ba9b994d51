// How rows are cut (cut.h), on the CPU: whatever the units, stretches are the row once and start from what they need; and who is given such a cut.
#include "cut.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "cards.h"
#include "plan.h"

namespace {

using fqla::CutHead;
using fqla::CutLengths;
using fqla::CutUnit;
using fqla::kFromZero;
using fqla::kRemembers;
using fqla::Stretch;

class Dice {
public:
    explicit Dice(uint32_t seed) : random_(seed) {}
    int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
    bool one_in(int n) { return between(1, n) == 1; }

private:
    std::mt19937 random_;
};

constexpr fqla::CutCosts kCosts{1.95F, 13, 4, 1, 2.42F, 9, 15, 1.2F};
constexpr float kImpossible = 1e30F;  // what try_lengths gives for lengths that do not fit

struct Units {
    std::vector<CutUnit> all;
    int blocks, longest = 1, chunks = 0;

    template <class F>
    int sum(F f) const {
        uint32_t words = 0;  // two halves, as the card adds them: past the sign
        for (const CutUnit& u : all) words += static_cast<uint32_t>(f(u));
        return static_cast<int>(words);
    }
    CutLengths lengths(int attempt) const {
        return fqla::try_lengths(kCosts, blocks, longest, chunks, attempt, [this](auto f) { return sum(f); });
    }
};

// As many units as fits_cut lets through; all warm up within what the longest row allows, which may be more than their own row.
Units any_units(Dice& dice, int blocks) {
    Units units{{}, blocks};
    units.all.resize(static_cast<size_t>(dice.between(1, dice.one_in(3) ? 4 : blocks / 2)));
    const int most = dice.one_in(4)   ? 100000
                     : dice.one_in(4) ? 3000
                     : dice.one_in(2) ? 300
                                      : 20,
              remember = dice.between(0, 3), equal = dice.one_in(2) ? most : 0;
    for (CutUnit& u : units.all) {
        u.chunks = equal ? equal : dice.one_in(8) ? 0 : most > 3000 && !dice.one_in(8) ? dice.between(0, 3000) : dice.between(0, most);
        units.longest = std::max(units.longest, u.chunks), units.chunks += u.chunks;
    }
    const int most_warm = std::min(units.longest / 8, fqla::kMostWarm), least_warm = dice.one_in(4) ? most_warm : 1;
    for (CutUnit& u : units.all) u.warm = most_warm < 1 || dice.between(1, 3) <= remember ? kRemembers : dice.between(least_warm, most_warm);
    return units;
}

// What is wrong with a summary of a head that remembers, or null.
const char* fault_of_summary(const Stretch& s, int j, const CutUnit& u, const CutLengths& x, const CutHead& of) {
    if (s.row != of.row || s.head != of.head) return "a summary of another head";
    if (s.first != j * x.piece || s.chunks != x.piece || s.first + s.chunks >= u.chunks) return "summaries are whole pieces, and not the last";
    if (s.quiet != 0 || s.last) return "a summary has no output";
    return s.from == (j > 0 ? kFromZero : of.start) && s.to == of.summaries + j ? nullptr : "matrices of a summary";
}

// The same of a stretch, of which chunks up to `done` are others'.
const char* fault_of(const Stretch& s, int done, const CutUnit& u, const CutLengths& x, const CutHead& of) {
    if (s.row != of.row || s.head != of.head) return "another head";
    if (s.first < 0 || s.chunks < 0 || s.quiet < 0 || s.first + s.chunks > u.chunks) return "past the row";
    if (s.chunks > x.length) return "longer than reckoned with";
    if (s.quiet >= s.chunks && u.chunks > 0) return "gives nothing";
    if (s.first + s.quiet != done) return "chunks are given once, in order";
    if (s.last != (s.first + s.chunks == u.chunks)) return "the last ends where the row does";
    if (s.first == 0) return s.quiet == 0 && s.from == of.start ? nullptr : "the first starts as the row does";
    if (u.warm != kRemembers) return s.quiet == u.warm && s.from == kFromZero ? nullptr : "warms up from zero";
    if (s.quiet != 0) return "a head that remembers does not warm up";
    const int j = s.from - of.summaries;
    if (j < 0 || j >= fqla::summaries_of(u, x)) return "starts from no summary of its head";
    const Stretch before = fqla::summary_at(j, x, of);
    return before.first + before.chunks == s.first && before.to == s.from ? nullptr : "starts from a summary that ends elsewhere";
}

const char* fault_of(const CutUnit& u, const CutLengths& x, const CutHead& of, int stretches, int summaries) {
    for (int j = 0; j < summaries; j++)
        if (const char* fault = fault_of_summary(fqla::summary_at(j, x, of), j, u, x, of)) return fault;
    int done = 0, last = 0;
    for (int i = 0; i < stretches; i++) {
        const Stretch s = fqla::stretch_at(i, stretches, u, x, of);
        if (const char* fault = fault_of(s, done, u, x, of)) return fault;
        done = s.first + s.chunks, last += s.last;
    }
    return done != u.chunks ? "chunks are left over" : last != 1 ? "one is the last" : nullptr;
}

// What is wrong with a cut of all units, or nothing.
std::string fault_of(const Units& units, const CutLengths& x, int attempt) {
    int stretches = 0, summaries = 0;
    for (size_t i = 0; i < units.all.size(); i++) {
        const CutUnit& u = units.all[i];
        const auto own = static_cast<int>(i), count = static_cast<int>(units.all.size());
        const CutHead of{own / 8, own % 8, own % 3 ? own : kFromZero, count + summaries};
        const int its = fqla::stretches_of(u, x), its_summaries = fqla::summaries_of(u, x);
        if (const char* fault = fault_of(u, x, of, its, its_summaries))
            return fault + (": " + std::to_string(u.chunks)) + " chunks, warm " + std::to_string(u.warm) + ", stretches " + std::to_string(its);
        stretches += its, summaries += its_summaries;
    }
    const int passes = attempt / fqla::kCutPieces % fqla::kCutPasses + 1, waves = attempt / (fqla::kCutPieces * fqla::kCutPasses) + 1;
    if (stretches > waves * units.blocks || stretches > fqla::kMostStretches) return "too many stretches";
    return summaries > passes * (units.blocks / 2) || summaries > fqla::kMostSummaries ? "too many summaries" : "";
}

fqla::Request request_of(int32_t value_heads, const fqla::Bounds& bounds, uint64_t flags) {
    fqla::Request r{};
    r.op = FLASHQLA_OP_FORWARD;
    fqla::Form& f = r.problem.form;
    f.key_heads = f.value_heads = value_heads;
    f.key_dim = f.value_dim = 128;
    f.dtype = FLASHQLA_DTYPE_BF16, f.state_dtype = FLASHQLA_DTYPE_F32;
    f.beta_scale = 1, f.scale = 0.1, f.eps = 1e-6;
    r.problem.flags = flags;
    r.bounds = bounds;
    r.aligned_16_bytes = true;
    return r;
}

bool has(const fqla::Plan& plan, fqla::KernelId kernel) {
    return std::any_of(plan.steps, plan.steps + plan.step_count, [&](const fqla::Step& s) { return s.kernel == kernel; });
}

}  // namespace

TEST_SUITE("cut") {
    TEST_CASE("stretches are each row once, and start from what they need, of as many as an attempt may take") {
        Dice dice(1);
        int possible = 0, remembering = 0, forgetting = 0;
        for (const int blocks : {255, 132, 78, 16, 2})
            for (int i = 0; i < 2000; i++) {
                const Units units = any_units(dice, blocks);
                for (int attempt = 0; attempt < fqla::kCutTries; attempt++) {
                    const CutLengths x = units.lengths(attempt);
                    if (x.us >= kImpossible) continue;
                    possible++;
                    remembering += units.sum([&](const CutUnit& u) { return fqla::summaries_of(u, x) > 0; }) > 0;
                    forgetting += units.sum([&](const CutUnit& u) { return u.warm != kRemembers && fqla::stretches_of(u, x) > 1; }) > 0;
                    const std::string fault = fault_of(units, x, attempt);
                    if (fault.empty()) continue;
                    FAIL_CHECK(fault << "; attempt " << attempt << " of " << units.all.size() << " units on " << blocks << " blocks: length " << x.length
                                     << ", pieces " << x.pieces << " of " << x.piece);
                    return;
                }
            }
        CHECK(possible > 50000);
        CHECK(remembering > 10000);
        CHECK(forgetting > 10000);
    }

    TEST_CASE("divisions by floats are exact") {
        Dice dice(2);
        int wrong = 0;
        const auto check = [&wrong](int a, int b) { wrong += fqla::cut_floor(a, b) != a / b || fqla::cut_ceil(a, b) != (a + b - 1) / b; };
        for (int i = 0; i < 1000000; i++) check(dice.between(0, (1 << 20) - 1), dice.between(1, 1 << dice.between(0, 20)));
        for (int i = 0; i < 1000000; i++) {
            const int b = dice.between(1, 1 << dice.between(0, 20)), multiple = dice.between(0, (1 << 20) / b) * b;
            for (int a = std::max(0, multiple - 1); a <= multiple + 1; a++) check(a, b);
        }
        CHECK(wrong == 0);
    }

    TEST_CASE("a long row of few heads with bounded keys is cut on the card") {
        const auto plan_of = [](uint64_t flags) { return fqla::make_plan(request_of(16, {1, 32768, 32768, false}, flags), kCards[3].caps); };
        const fqla::Plan cut = plan_of(FLASHQLA_PROBLEM_KEYS_BOUNDED), any_keys = plan_of(0);
        const fqla::Plan invariant = plan_of(FLASHQLA_PROBLEM_KEYS_BOUNDED | FLASHQLA_PROBLEM_BATCH_INVARIANT);
        REQUIRE(kCards[3].caps.image == fqla::Image::sm_90a);
        CHECK(cut.engine == FLASHQLA_ENGINE_CONTEXT_PARALLEL);
        CHECK(has(cut, fqla::KernelId::gdn_cut));
        CHECK(cut.step_count < fqla::Plan::kMaxSteps);
        CHECK(cut.workspace.bytes(fqla::Region::records) == 0);
        CHECK(!has(any_keys, fqla::KernelId::gdn_cut));
        CHECK(invariant.engine == FLASHQLA_ENGINE_RECURRENT);
        CHECK(!has(invariant, fqla::KernelId::gdn_cut));
    }

    TEST_CASE("lists and workspace have room for every cut that is planned") {
        Dice dice(3);
        int cuts = 0;
        for (const Card& card : kCards)
            for (int i = 0; i < 3000; i++) {
                const auto tokens_below = [&](int bits) { return int64_t{dice.between(1, 1 << dice.between(1, bits))}; };
                const auto bounds = [&](int64_t rows, int64_t tokens, bool offsets) { return fqla::Bounds{rows, rows * tokens, tokens, offsets}; };
                fqla::Request large =
                    request_of(dice.between(1, 80), bounds(dice.between(1, 6), tokens_below(21), dice.one_in(2)), FLASHQLA_PROBLEM_KEYS_BOUNDED);
                large.problem.engine = dice.one_in(2) ? FLASHQLA_ENGINE_AUTO : FLASHQLA_ENGINE_CONTEXT_PARALLEL;
                fqla::Request small = large;
                small.bounds =
                    bounds(dice.between(1, static_cast<int>(large.bounds.rows)), std::min(large.bounds.max_tokens, tokens_below(21)), dice.one_in(2));
                small.state = {dice.one_in(2), dice.one_in(2), dice.one_in(2), false};
                const fqla::Plan plan = fqla::make_plan(small, card.caps);
                CHECK(plan.workspace.total_bytes() <= fqla::most_workspace_bytes(large, card.caps));
                if (!has(plan, fqla::KernelId::gdn_cut)) continue;
                cuts++;
                CHECK(small.bounds.rows * small.problem.form.value_heads <= fqla::kMostCutUnits);
                CHECK(fqla::kCutWaves * plan.sm90.cut_blocks <= fqla::kMostStretches);
                CHECK(fqla::kCutPasses * (plan.sm90.cut_blocks / 2) <= fqla::kMostSummaries);
                CHECK(plan.sm90.most_warm <= fqla::kMostWarm);
                CHECK(plan.workspace.bytes(fqla::Region::cut) == sizeof(fqla::Cut));
            }
        CHECK(cuts > 200);
    }
}
