// The stretches that a cut has made of rows (cut.h), as fused_wide.cu walks through them: what Units is for whole rows.
#pragma once
#include "recurrence.cuh"

namespace fqla::sm90 {

// A block's share, found anew when asked for: summaries go to two blocks each.
template <bool kSummaries>
struct Stretches {
    static constexpr int kParts = kSummaries ? 2 : 1;
    __device__ __forceinline__ int first() const { return blockIdx.x / kParts; }
    __device__ __forceinline__ int step() const { return static_cast<int>(gridDim.x) / kParts; }
};
template <bool kSummaries>
__device__ __forceinline__ int before_first(const Stretches<kSummaries>& s) {
    return s.first() - s.step();
}
template <bool kSummaries>
__device__ __forceinline__ bool next_unit(const Sm90ForwardParams& p, const Stretches<kSummaries>& s, int& unit) {
    unit += s.step();
    return unit < (kSummaries ? p.cut->summaries : p.cut->stretches);
}
template <bool kSummaries>
__device__ __forceinline__ Work find_work(const Sm90ForwardParams& p, const Stretches<kSummaries>&, int unit) {
    const Stretch x = kSummaries ? p.cut->summary[unit] : p.cut->stretch[unit];
    Work w{};
    w.part = blockIdx.x % Stretches<kSummaries>::kParts;
    w.row = x.row, w.head = x.head;
    w.first = x.first;
    w.from = x.from, w.to = x.to, w.quiet = x.quiet;
    w.last = x.last;
    w.skip = row_slots(p.state, w.row).skip;
    w.tokens = row_tokens(p.rows, w.row);
    w.chunks = __shfl_sync(~0u, x.chunks, 0);  // a trip count that ptxas sees to be uniform
    return w;
}

// Whether a list has stretches, or units that are a row's head each.
template <class List>
constexpr bool kOfStretches = false;
template <bool kSummaries>
inline constexpr bool kOfStretches<Stretches<kSummaries>> = true;

}  // namespace fqla::sm90
