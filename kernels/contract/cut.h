// How rows are cut into stretches that run side by side: the one reckoning for the kernel that does it (cut.cu), the planner and tests.
//
// A head that forgets needs nothing of what came long before: a stretch of it starts from zero some chunks early, which warm the state up. What that drops is
// the state of then, times a decay below the caller's threshold and a transition that does not grow (bounded keys). A head that remembers is cut into pieces;
// each but the last has a summary, and their states are stitched together: nothing is dropped.
#pragma once
#include <stdint.h>

#include "divisor.h"

namespace fqla {

constexpr int kMostCutUnits = 128;       // (row, value head) pairs
constexpr int kMostCutChunks = 1 << 19;  // of a row: below it the divisions here are exact
// What is tried: passes of summaries and waves of stretches that the card takes one after another, summaries of a stretch.
constexpr int kCutPasses = 2, kCutWaves = 2, kCutPieces = 4;
constexpr int kCutTries = kCutPasses * kCutWaves * kCutPieces;
constexpr int kCutGatesThreads = 128, kCutThreads = 512, kCutBlocks = 8;
constexpr int kMostSummaries = 256, kMostStretches = 510;  // of all heads
constexpr int kTooManyStretches = kMostStretches + 1;

constexpr int kMostWarm = 128;  // chunks
// Shared memory of a block of gdn_cut: units, numbers of what is before each, rows, and for each warp 512 sums with a word behind each 16, and as much in front
// as the longest window may reach.
constexpr int kCutFront = kMostWarm + kMostWarm / 16, kCutPrefix = kCutFront + 512 + 32, kCutBytes = kMostCutUnits * 16 + kCutThreads / 32 * kCutPrefix * 4;

// What a block of fused_wide.cu works through.
struct Stretch {
    int32_t row, head;
    int32_t first, chunks;  // of the row's
    int32_t quiet;          // so many of them warm the state up: no output, no checkpoint
    int32_t from, to;       // matrices of segment_states: where it starts, kFromZero; where a summary ends
    int32_t last;           // it ends where the row does
};
constexpr int32_t kFromZero = -1;

// States that a stitch makes of summaries: matrices first .. first + count - 1.
struct StitchChain {
    int32_t first, count;
};

// Microseconds, from the planner's measurements (src/plan/cost.cpp).
struct CutCosts {
    float summary_chunk, summary_unit;  // a pass of summaries: each chunk of the longest, and once
    float stitch, hop;                  // once, and for each summary behind a head's first
    float chunk, unit;                  // a wave of stretches
    float uncut, uncut_chunk;           // all by the fused kernel instead: once, and each chunk of the longest row
};

// A row's head to be cut: its chunks, and how many of them warm up; kRemembers: none do.
struct CutUnit {
    int32_t chunks, warm;
};
constexpr int32_t kRemembers = -1;

// Of whole numbers up to 2^20, by floats: an integer division is about thirty instructions, one behind another. The half keeps quotients further from whole
// numbers than __fdividef may be wrong, two units in the last place.
FQLA_HD int cut_floor(int a, int b) {
    const float x = static_cast<float>(a) + 0.5f, y = static_cast<float>(b);
#ifdef __CUDA_ARCH__
    return static_cast<int>(__fdividef(x, y));
#else
    return static_cast<int>(x / y);
#endif
}
FQLA_HD int cut_ceil(int a, int b) { return cut_floor(a + b - 1, b); }

FQLA_HD float us_of(int n, float each) { return static_cast<float>(n) * each; }

struct CutLengths {
    int piece, pieces;  // chunks of a summary; summaries of a stretch
    int length;         // chunks of a stretch, at most
    float us;
};

// What cut.cu leaves for the kernels behind it, in device memory.
struct Cut {
    int32_t summaries, stretches, chains;
    int32_t uncut;  // the fused kernel behind them has it all
    StitchChain chain[kMostCutUnits];
    Stretch summary[kMostSummaries], stretch[kMostStretches];
    // Its blocks' own.
    CutUnit unit[kMostCutUnits];
    CutLengths tried[kCutTries];
};

// Stretches that a head takes, those that warm up with them.
FQLA_HD int stretches_of(const CutUnit& u, const CutLengths& x) {
    if (u.chunks == 0 || (u.chunks <= x.length && u.warm != kRemembers)) return 1;
    if (u.warm == kRemembers) return cut_ceil(u.chunks, x.pieces * x.piece);
    return x.length > u.warm ? 1 + cut_ceil(u.chunks - x.length, x.length - u.warm) : kTooManyStretches;
}

FQLA_HD int summaries_of(const CutUnit& u, const CutLengths& x) { return u.warm == kRemembers && u.chunks > x.piece ? cut_ceil(u.chunks, x.piece) - 1 : 0; }

// The shortest stretches of `attempt`: so many waves of them, so many summaries each, which take so many passes. sum(f) adds f(unit) over all units; numbers
// that are too many anyway are cut off, so that two sums fit into a word.
template <class Sum>
FQLA_HD CutLengths try_lengths(const CutCosts& cost, int blocks, int longest, int all_chunks, int attempt, Sum sum) {
    static_assert(kMostCutUnits * kTooManyStretches < 1 << 16, "half a word");
    const int pieces = attempt % kCutPieces + 1, passes = attempt / kCutPieces % kCutPasses + 1, waves = attempt / (kCutPieces * kCutPasses) + 1;
    const auto of_length = [&](int x) { return CutLengths{cut_floor(x, pieces), pieces, x, 0}; };
    const auto fits = [&](int x) {
        const CutLengths r = of_length(x);
        const auto least = [](int a) { return a < kTooManyStretches ? a : kTooManyStretches; };
        const auto both = static_cast<unsigned>(sum([&](const CutUnit& u) { return least(stretches_of(u, r)) << 16 | least(summaries_of(u, r)); }));
        return static_cast<int>(both >> 16) <= waves * blocks && static_cast<int>(both & 0xffff) <= passes * (blocks / 2);
    };
    // No shorter than an even share of all chunks; about, where those are past what divides exactly.
    const int share = cut_ceil(all_chunks, waves * blocks);
    int low = share > pieces ? share : pieces, high = longest > low ? longest : low;
    const bool possible = fits(high);
    while (low < high) {
        const int middle = cut_floor(low + high, 2);
        if (fits(middle))
            high = middle;
        else
            low = middle + 1;
    }
    CutLengths r = of_length(high);
    const int summaries = sum([&](const CutUnit& u) { return summaries_of(u, r) > 0; });
    r.us = possible ? us_of(waves, us_of(r.length, cost.chunk) + cost.unit) : 1e30f;
    if (summaries > 0)
        r.us += us_of(passes, us_of(r.piece, cost.summary_chunk) + cost.summary_unit) + cost.stitch + us_of(cut_ceil(longest, r.piece) - 2, cost.hop);
    return r;
}

// What the lists hold of a head beside its unit.
struct CutHead {
    int row, head;
    int start;      // matrix that the row starts from, kFromZero
    int summaries;  // the first one's matrix
};

// Stretch i of the `count` that stretches_of has. Of a head that forgets the first has `share` chunks, each other one as many with those that warm it up; no
// more than x.length, so that fewer would not reach the row's end, and each has some of its own.
FQLA_HD Stretch stretch_at(int i, int count, const CutUnit& u, const CutLengths& x, const CutHead& of) {
    const bool remembers = u.warm == kRemembers;
    const int warm = remembers ? 0 : u.warm, share = remembers ? x.pieces * x.piece : cut_ceil(u.chunks + (count - 1) * warm, count);
    const int first = i * (share - warm), left = u.chunks - first;
    const int from = i == 0 ? of.start : remembers ? of.summaries + i * x.pieces - 1 : kFromZero;
    return {of.row, of.head, first, left < share ? left : share, i > 0 ? warm : 0, from, 0, i == count - 1};
}

// Summary i of a head that remembers: all pieces but its last have one.
FQLA_HD Stretch summary_at(int i, const CutLengths& x, const CutHead& of) {
    return {of.row, of.head, i * x.piece, x.piece, 0, i > 0 ? kFromZero : of.start, of.summaries + i, 0};
}

}  // namespace fqla
