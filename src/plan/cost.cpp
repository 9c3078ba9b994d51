#include "cost.h"

#include <algorithm>

#include "layouts.h"

namespace fqla {
namespace {

// Each constant: microseconds, H100 80GB, 2026-11-23, from the rows of bench/results/h100.tsv and the parts in bench/LOG.md.
constexpr double kLaunch = 3;                 // one kernel in a graph
constexpr double kRecurrentToken = 0.75;      // a token of the recurrent engine's chain, 2/8 heads
constexpr double kRecurrentUnits = 264;       // (row, head) pairs that run side by side there: 8 warps each, 16 warps a multiprocessor
constexpr double kStateBytesPerUs = 2.9e6;    // states in and out
constexpr double kFusedChunk = 2.05;          // 2/8 32768: 0.986 ms for 512 chunks
constexpr double kFusedUnit = 3;              // between two units of a cluster: 16/64 1024x8, 0.287 ms for 8 units of 16 chunks
constexpr double kSolveStart = 9;             // 2/8 8192: 0.0196 ms for 256 chunks of key heads
constexpr double kSolveChunk = 0.0115;        // a chunk of a key head with the whole card on it, and 0.6 of that for each value head:
constexpr double kSolveShare = 0.6;           // 16/16 18.3 ns, 16/32 24.8, 16/48 31.4, 16/64 38 (32768 tokens)
constexpr double kForwardStart = 12;          // 16/64 2048: 0.0574 ms for 32 chunks
constexpr double kForwardChunk = 1.0;         // few blocks; 1.38 with 128 of 132 multiprocessors busy (16/64 8192: 0.177 ms for 128)
constexpr double kForwardCrowd = 0.4;
constexpr double kForwardWideChunk = 2.9;     // all of V on one multiprocessor: 16/64 8192x4, 2 x 128 chunks in 0.75 ms
constexpr double kSummaryChunk = 1.35;        // 2/8 32768 in 8 segments: 0.089 ms for 64 chunks
constexpr double kStitchStart = 12, kStitchHop = 1.2;  // 4 segments 0.0158 ms, 8 segments 0.0195 ms
constexpr double kReferenceMultiprocessors = 132;

struct Shape {
    double units;         // (row, value head) pairs
    double chunks;        // of the longest row
    double all_chunks;    // of all rows, at most
    double per_key;       // value heads of a key head
    double state_time;    // states in and out
    double card;          // multiprocessors over the reference's
};

double ceil_div(double a, double b) { return static_cast<double>(static_cast<int64_t>((a + b - 1) / b)); }

Shape shape_of(const Request& r, const Caps& caps) {
    const Form& f = r.problem.form;
    const Bounds& b = r.bounds;
    const auto rows = static_cast<double>(b.rows);
    const double state_bytes = rows * f.value_heads * f.key_dim * f.value_dim * (f.state_dtype == FLASHQLA_DTYPE_F32 ? 4 : 2);
    return {rows * f.value_heads,
            ceil_div(static_cast<double>(b.max_tokens), kChunk),
            static_cast<double>(chunk_slots(b.rows, b.tokens, b.max_tokens, b.offsets)),
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
    const double stitch = n < 3 ? 0 : kStitchStart + kStitchHop * segments;
    return solve_cost(r, s) + kLaunch + chunks * kSummaryChunk + stitch + kForwardStart + chunks * forward_chunk(blocks, caps) + s.state_time;
}

}  // namespace

double recurrent_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const double tokens = r.bounds.offsets ? static_cast<double>(r.bounds.tokens) : static_cast<double>(r.bounds.rows * r.bounds.max_tokens);
    const double side_by_side = tokens * r.problem.form.value_heads / (kRecurrentUnits * s.card);
    return kLaunch + std::max(kRecurrentToken * std::max(static_cast<double>(r.bounds.max_tokens), side_by_side), s.state_time);
}

double fused_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const double clusters = std::max(1, caps.multiprocessors / 2), passes = ceil_div(s.units, clusters);
    const double mean_chunks = s.all_chunks * r.problem.form.value_heads / s.units;
    return kLaunch + std::max(s.chunks * kFusedChunk, passes * (mean_chunks * kFusedChunk + kFusedUnit)) + s.state_time / 4;
}

double chunked_cost(const Request& r, const Caps& caps) {
    const Shape s = shape_of(r, caps);
    const double blocks = 2 * s.units;
    if (blocks <= caps.multiprocessors) return solve_cost(r, s) + kForwardStart + s.chunks * forward_chunk(blocks, caps) + s.state_time;
    const double side_by_side = s.all_chunks * r.problem.form.value_heads / caps.multiprocessors;
    return solve_cost(r, s) + kForwardStart + std::max(s.chunks, side_by_side) * kForwardWideChunk + s.state_time / 4;
}

double context_parallel_cost(const Request& r, const Caps& caps) { return segments_cost(r, caps, best_segments(r, caps)); }

int64_t best_segments(const Request& r, const Caps& caps) {
    const int64_t units = r.bounds.rows * r.problem.form.value_heads, chunks = (r.bounds.max_tokens + kChunk - 1) / kChunk;
    const int64_t most = units > 0 ? std::min<int64_t>(caps.multiprocessors / (2 * units), chunks) : 0;
    int64_t best = most < 2 ? 0 : 2;
    for (int64_t n = 3; n <= most; n++)
        if (segments_cost(r, caps, n) < segments_cost(r, caps, best)) best = n;
    return best;
}

}  // namespace fqla
