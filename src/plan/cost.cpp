#include "cost.h"

#include <algorithm>
#include <cmath>

#include "engines.h"
#include "layouts.h"

namespace fqla {
namespace {

// Microseconds on an H100 80GB, 2026-11-23: fitted to 140 rows of bench/regret.py (seven head counts; 8 to 32768 tokens; 1 to 64 rows; ragged
// ones), each timed with every engine, for the least regret first and the least error second. kHeadUnit, kStitch: anew, 2026-11-24.
constexpr double kStateBytesPerUs = 2.9e6;  // states in and out
// recurrent: a token of the chain costs the more the more (row, head) pairs share a multiprocessor
constexpr double kRecurrentStart = 6, kRecurrentToken = 0.58;
constexpr double kRecurrentCrowdedToken = 0.31, kRecurrentTokenUnit = 0.0046;
// fused: one cluster of two blocks a (row, head) pair
constexpr double kFusedStart = 11.9, kFusedChunk = 1.7, kFusedCrowd = 0.39, kFusedUnit = 3, kFusedStates = 0.35;
// fused, a cluster of three blocks a pair: 2 to 512 chunks, 8 to 32 pairs
constexpr double kTrioStart = 11.5, kTrioChunk = 1.05, kTrioCrowd = 0.28;
constexpr double kTrioNorms = 0.14;
// fused, one block a (row, head) pair: rows of 1024 and 8192 tokens, 128 to 512 pairs
constexpr double kHeadStart = 12, kHeadChunk = 2.45, kHeadUnit = 5.8;
// the same in stretches, and their summaries
constexpr double kCutStart = 16, kStretchChunk = 2.42, kStretchUnit = 9, kHeadSummaryChunk = 1.95, kHeadSummaryUnit = 13, kStitchStart = 4, kStitchHop = 1;
// What the host reckons with, which cannot see the gates: so many of the heads remember, the others forget in so many chunks.
constexpr double kRememberingHeads = 0.25;
constexpr int kForgettingChunks = 13, kWarmPart = 8;  // of the longest row
constexpr int64_t kLeastCutChunks = 32;               // for which it is reckoned with beside segments
constexpr double kWorthCut = 0.85;                    // of the time without: the gates may say otherwise
// solve: a chunk of a key head with the whole card on it, and a share of that for each of its value heads
constexpr double kSolveStart = 8.3, kSolveChunk = 0.0119, kSolveShare = 0.49;
// forward, 64 rows of V a multiprocessor: few blocks, and what a card full of them adds
constexpr double kForwardStart = 6.9, kForwardChunk = 0.92, kForwardCrowd = 0.49;
// forward, all of V on a multiprocessor: a full card; the longest row alone
constexpr double kV128Chunk = 3.65, kV128LoneChunk = 1.8;
constexpr double kForwardStates = 0.93;
// summary and stitch of context parallelism
constexpr double kSegmentsStart = 8, kSummaryChunk = 0.9, kStitch = 11;
// portable backward: a token of the longest row, and a share of it for each head that a multiprocessor has
constexpr double kPortableStart = 15, kPortableToken = 0.7, kPortableShare = 1.5;
// Hopper backward, H100, 2026-11-23, 16 rows of bench/compare.py within 25%: a chunk of the longest row; of a head by its bytes, in the chains and behind
constexpr double kChainsStart = 25, kChainChunk = 1.25, kChainsShare = 0.074, kGradientsShare = 0.059;
constexpr double kReverseBytes = 97. / (97 + 81);  // of a chunk's bytes in both chains, those of D's: where the forward has saved S and U
constexpr double kChainSummaryChunk = 1.1, kChainSegmentsStart = 12, kChainHop = 4;
constexpr double kWorthSegments = 0.85;  // of the time without: their bytes cost too
constexpr double kReferenceMultiprocessors = 132;

struct Shape {
    double units;       // (row, value head) pairs
    double full_units;  // as many of the longest row's length have all tokens
    double chunks;      // of the longest row
    double all_chunks;  // of all rows, about
    double per_key;     // value heads of a key head
    double state_time;  // states in and out
    double card;        // multiprocessors over the reference's
};

double ceil_div(double a, double b) { return static_cast<double>(static_cast<int64_t>((a + b - 1) / b)); }

Shape shape_of(const Request& r, const Caps& caps) {
    const Form& f = r.problem.form;
    const Bounds& b = r.bounds;
    const auto rows = static_cast<double>(r.engine_rows()), tokens = b.offsets ? static_cast<double>(b.tokens) : rows * static_cast<double>(b.max_tokens);
    const double state_bytes = rows * static_cast<double>(state_elements(f) * element_bytes(f.state_dtype));
    const double chunks = ceil_div(static_cast<double>(b.max_tokens), kChunk);
    return {rows * f.value_heads,
            tokens * f.value_heads / static_cast<double>(std::max<int64_t>(1, b.max_tokens)),
            chunks,
            r.engine_rows() == 1 ? chunks : std::max(rows, tokens / kChunk + rows / 2),
            static_cast<double>(f.value_heads) / f.key_heads,
            ((r.state.read ? 1 : 0) + (r.state.write ? 1 : 0)) * state_bytes / kStateBytesPerUs,
            caps.multiprocessors / kReferenceMultiprocessors};
}

double solve_cost(const Request& r, const Shape& s) {
    return kSolveStart + kSolveChunk * (1 + kSolveShare * s.per_key) * s.all_chunks * r.problem.form.key_heads / s.card;
}

// A chunk of 64 rows of V when `blocks` of them run.
double forward_chunk(double blocks, const Caps& caps) { return kForwardChunk + kForwardCrowd * std::min(1.0, blocks / caps.multiprocessors); }

double segments_cost(const Request& r, const Caps& caps, int64_t n) {
    const Shape s = shape_of(r, caps);
    const double segments = static_cast<double>(n), chunks = ceil_div(s.chunks, segments), blocks = 2 * s.units * segments;
    return solve_cost(r, s) + kSegmentsStart + chunks * kSummaryChunk + (n < 3 ? 0 : kStitch) + kForwardStart + chunks * forward_chunk(blocks, caps) +
           kForwardStates * s.state_time;
}

// Without records, as the card will cut them if the gates are as the host thinks.
double cut_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const CutCosts costs = cut_costs(r, caps);
    const int units = static_cast<int>(s.units), chunks = static_cast<int>(s.chunks);
    const bool forgets = kForgettingChunks <= most_warm_chunks(r);
    const int remembering = forgets ? static_cast<int>(std::ceil(s.units * kRememberingHeads)) : units;
    const auto sum = [&](auto f) { return remembering * f(CutUnit{chunks, kRemembers}) + (units - remembering) * f(CutUnit{chunks, kForgettingChunks}); };
    float least = costs.uncut + us_of(chunks, costs.uncut_chunk);
    for (int i = 0; i < kCutTries; i++) least = std::min(least, try_lengths(costs, caps.multiprocessors, chunks, units * chunks, i, sum).us);
    return kCutStart + static_cast<double>(least) + kFusedStates * s.state_time;
}

// The chains of the backward in n segments, one after another what is on the longest row's way.
double chains_cost(double chunks, int64_t n) {
    if (n == 1) return chunks * kChainChunk;
    const auto segments = static_cast<double>(n);
    return ceil_div(chunks, segments) * (kChainChunk + kChainSummaryChunk) + kChainSegmentsStart + kChainHop * (segments - 2);
}

double backward_cost(const Request& r, const Caps& caps, int64_t segments) {
    const Shape s = shape_of(r, caps);
    const double all_chunks = s.all_chunks * r.problem.form.value_heads / s.card;
    const double solve = r.saved ? 0 : solve_cost(r, s), bytes = all_chunks * kChainsShare * (r.saved ? kReverseBytes : 1);
    const auto windows = static_cast<double>(backward_windows(r.problem.form, static_cast<int64_t>(s.all_chunks)));
    const double ends = windows > 1 ? solve + s.chunks * kChainChunk + 2 * windows * kChainsStart : 0;  // S at the ends of windows, by the longest row
    return ends + solve + kChainsStart + std::max(chains_cost(s.chunks, segments), bytes) + all_chunks * kGradientsShare;
}

// Segments of one wave of blocks with records, or, where that may be and is less, a cut.
RowCut forward_cut(const Request& r, const Caps& caps, int64_t units, int64_t chunks) {
    RowCut best{};
    double least = 0;
    const int64_t most = r.long_rows || refuses_chunked(r, caps) ? 0 : std::min<int64_t>(caps.multiprocessors / (2 * units), chunks);
    for (int64_t n = 2; n <= most; n++)
        if (const double cost = segments_cost(r, caps, n); !best.segments || cost < least) best.segments = n, least = cost;
    const bool may_cut = keys_are_bounded(r) && !r.saved && chunks >= 2 && chunks <= kMostCutChunks && fits_cut(units, caps);
    if (!may_cut || (best.segments && chunks < kLeastCutChunks)) return best;
    best.cut_us = cut_cost(r, caps);
    best.cut = !best.segments || best.cut_us < least;
    return best;
}

// The same of the chains, one or (S and D) two of them; 1 where segments do not pay.
int64_t backward_segments(const Caps& caps, int64_t chains, int64_t units, int64_t chunks) {
    const auto fit = [&](int64_t n) { return 2 * chains * units * n <= caps.multiprocessors && 2 * (chains + 1) * units * (n - 1) <= caps.multiprocessors; };
    int64_t best = 1;
    double least = kWorthSegments * chains_cost(static_cast<double>(chunks), 1);
    for (int64_t n = 2; n <= chunks && fit(n); n++)
        if (const double cost = chains_cost(static_cast<double>(chunks), n); cost < least) best = n, least = cost;
    return best;
}

}  // namespace

double recurrent_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const double token = std::max(kRecurrentToken, kRecurrentCrowdedToken + kRecurrentTokenUnit * s.full_units / s.card);
    return kRecurrentStart + s.state_time + static_cast<double>(r.bounds.max_tokens) * token;
}

// A block or cluster that has one of the longest rows has its turn of the others too: of these each takes a chunk's time at least.
double fused_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const double units_chunks = s.all_chunks * r.problem.form.value_heads / s.units;
    const int blocks = fused_blocks(r, caps);
    const double norms = r.problem.form.qk_norm == FLASHQLA_NORM_NONE ? 0 : kTrioNorms;
    if (blocks == 3) return kTrioStart + s.chunks * (kTrioChunk + norms + kTrioCrowd * 3 * s.units / caps.multiprocessors) + kFusedStates * s.state_time;
    if (blocks == 1) {
        const double passes = ceil_div(s.units, std::max(1, caps.multiprocessors)), longest = s.chunks * kHeadChunk + kHeadUnit;
        const double with_longest = longest + (passes - 1) * (kHeadChunk + kHeadUnit);
        return kHeadStart + std::max(with_longest, passes * (units_chunks * kHeadChunk + kHeadUnit)) + kFusedStates * s.state_time;
    }
    const double clusters = std::max(1, caps.multiprocessors / 2), passes = ceil_div(s.units, clusters);
    const double chunk = kFusedChunk + kFusedCrowd * std::min(1.0, s.units / clusters);
    const double with_longest = s.chunks * chunk + (passes - 1) * (chunk + kFusedUnit), in_turn = passes > 1 ? passes * (units_chunks * chunk + kFusedUnit) : 0;
    return kFusedStart + std::max(with_longest, in_turn) + kFusedStates * s.state_time;
}

double chunked_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const double blocks = 2 * s.units, side_by_side = s.all_chunks * r.problem.form.value_heads / caps.multiprocessors;
    const double forward =
        blocks <= caps.multiprocessors ? s.chunks * forward_chunk(blocks, caps) : std::max(s.chunks * kV128LoneChunk, side_by_side * kV128Chunk);
    return solve_cost(r, s) + kForwardStart + forward + kForwardStates * s.state_time;
}

CutCosts cut_costs(const Request& r, const Caps& caps) {
    const auto us = [](double x) { return static_cast<float>(x); };
    // The fused kernel by its longest row, which may be shorter than the bounds let it be.
    Request fused = r;
    fused.state = {};
    const auto of_chunks = [&](int64_t n) {
        fused.bounds.max_tokens = n * kChunk, fused.bounds.tokens = fused.engine_rows() * n * kChunk;
        return fused_cost(fused, caps);
    };
    const double one = of_chunks(1), chunk = of_chunks(2) - one;
    return {us(kHeadSummaryChunk), us(kHeadSummaryUnit), us(kStitchStart), us(kStitchHop), us(kStretchChunk), us(kStretchUnit), us(one - chunk), us(chunk)};
}

int most_warm_chunks(const Request& r) { return static_cast<int>(std::min<int64_t>((r.bounds.max_tokens + kChunk - 1) / kChunk / kWarmPart, kMostWarm)); }

double portable_backward_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const auto longest = static_cast<double>(r.bounds.max_tokens);
    return kPortableStart + longest * (kPortableToken + kPortableShare * s.full_units / kReferenceMultiprocessors / s.card);
}

double chunked_backward_cost(const Request& r, const Caps& caps) { return backward_cost(r, caps, 1); }

double context_parallel_backward_cost(const Request& r, const Caps& caps) { return backward_cost(r, caps, r.segments); }

// A cut that is to stand in for segments must promise no more than they do.
double context_parallel_cost(const Request& r, const Caps& caps) {
    const double segments = r.segments ? segments_cost(r, caps, r.segments) : HUGE_VAL;
    return r.cut ? std::min(r.cut_us / kWorthCut, segments) : segments;
}

RowCut best_cut(const Request& r, const Caps& caps) {
    const int64_t units = r.engine_rows() * r.problem.form.value_heads, chunks = (r.bounds.max_tokens + kChunk - 1) / kChunk;
    if (units == 0) return {};
    if (r.op == FLASHQLA_OP_FORWARD) return forward_cut(r, caps, units, chunks);
    return {backward_segments(caps, r.saved ? 1 : 2, units, chunks), false, 0};
}

}  // namespace fqla
