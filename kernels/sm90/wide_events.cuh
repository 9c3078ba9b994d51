// The events between the roles of fused_wide.cu, and where the two blocks of its summary share out their work.
#pragma once
#include "layouts.h"
#include "tma.cuh"

namespace fqla::sm90 {

using Wide = WideLayout;

// Of a summary: 0 carries the state, 1 the transition.
__device__ __forceinline__ int rank_in_pair() { return static_cast<int>(blockIdx.x % 2); }
template <bool kSummary>
__device__ __forceinline__ bool is_own(int c) {
    return !kSummary || (c & 1) == rank_in_pair();
}
// The number of a chunk of this block's own among them.
template <bool kSummary>
__device__ __forceinline__ int own_number(int c) {
    return kSummary ? c >> 1 : c;
}
template <bool kSummary>
__device__ __forceinline__ uint32_t record_at(uint32_t smem, int c) {
    return kSummary ? smem + Wide::kSummaryRecords + (c & 3) * Wide::kSummaryRecordStride : smem + Wide::kRecords + (c & 1) * Wide::kRecordStride;
}

// An event has two slots, of even and of odd chunks; a slot's phase changes every second chunk. c counts the chunks of all units. In a summary the two of
// records have four slots, those of the solve count the block's own chunks.
template <bool kSummary>
struct WideEvents {
    enum Event { record_ready, record_free, solve_free, lower_ready, lower_free, tables_ready, tables_free, norms_ready, values_ready, output_ready };
    static_assert(output_ready + 1 == Wide::kEvents, "barriers of all events");
    uint32_t base;

    __device__ __forceinline__ static constexpr bool has_four(Event e) { return kSummary && (e == record_ready || e == record_free); }
    __device__ __forceinline__ uint32_t at(Event e, int c) const {
        const int place = has_four(e) && (c & 2) ? Wide::kEvents + (e == record_free) : e;
        return base + 16 * place + 8 * (c & 1);
    }
    __device__ __forceinline__ void init() const {
        constexpr int arrivals[Wide::kEvents] = {(kSummary ? 0 : 4) + 1 + 1, kSummary ? 16 : 8, 8, 4, 1, 1, 4, 4, 1, 8};  // warps
        for (int e = 0; e < Wide::kEvents; ++e)
            for (int c = 0; c < (has_four(static_cast<Event>(e)) ? 4 : 2); ++c)  // what the other block brings: one that expects it
                barrier_init(at(static_cast<Event>(e), c), e == record_ready && !is_own<kSummary>(c) ? 1 : arrivals[e]);
    }
    __device__ __forceinline__ uint32_t phase(Event e, int c) const { return (has_four(e) ? c >> 2 : c >> 1) & 1; }
    __device__ __forceinline__ void wait(Event e, int c) const { barrier_wait(at(e, c), phase(e, c)); }
    // Of what is free before its first use.
    __device__ __forceinline__ void wait_free(Event e, int c) const { barrier_wait(at(e, c), phase(e, c) ^ 1); }
    // By a whole warp, whatever its lanes have done before.
    __device__ __forceinline__ void announce(Event e, int c) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(at(e, c));
    }
};

// A part of a record that this thread's warp, or warps, have made and fenced, to the other block.
__device__ __forceinline__ void hand_over(const WideEvents<true>& events, int c, uint32_t from, uint32_t bytes) {
    const int other = rank_in_pair() ^ 1;
    push_bytes(remote_address(from, other), from, bytes, remote_address(events.at(WideEvents<true>::record_ready, c), other));
}

}  // namespace fqla::sm90
