// Where rows are cut for context parallelism without chunk records: cut.h says how, the gates decide here, on the card.
//
//   kernel         a block                          steps
//   gdn_cut_gates  a chunk, all heads; 128 threads  the sum of its log2 decays for each head
//                  64 rows of V of a head's state   a copy of what the row starts from: a row's last stretch may store where its first one reads
//   gdn_cut        a cluster of eight, 512 threads  how many chunks each head needs to forget; lengths; lists of stretches, summaries, chains
#include "recurrence.cuh"
#include "solve_steps.cuh"

namespace fqla::sm90 {
namespace {

constexpr int kQuarter = kChunk / 4;             // tokens of a warp
constexpr int kWarps = kCutThreads / 32;         // of a block of gdn_cut
constexpr int kShare = 16, kTile = 32 * kShare;  // chunks of a lane, of a warp
static_assert(kWarps * kCutBlocks >= kMostCutUnits && kWarps * kCutBlocks >= kCutTries && kCutTries <= 32, "a warp each");

__device__ __forceinline__ void sum_chunk(const Sm90CutParams& p, int64_t slot) {
    __shared__ float parts[4][32];
    const ChunkPlace at = place_of(p.forward.rows, slot);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, heads = p.forward.value_heads;
    for (int first = 0; first < heads; first += 32) {
        const int head = min(first + lane, heads - 1);
        float sum = 0;
        if (at.row >= 0 && serves(p.forward.rows, at.tokens.length)) {
            const int64_t t = at.chunk * kChunk + warp * kQuarter, from = element_offset(p.forms.gate, at.row, at.tokens, t, head);
            const int valid = static_cast<int>(min(at.tokens.length - t, static_cast<int64_t>(kQuarter)));
            float raw[kQuarter];
#pragma unroll
            for (int i = 0; i < kQuarter; ++i) raw[i] = i < valid ? load_scalar(p.forms.gate, from + i * p.forms.gate.token) : 0.f;
#pragma unroll 1
            for (int i = 0; i < kQuarter; ++i) {
                float x = raw[0];
#pragma unroll
                for (int j = 1; j < kQuarter; ++j) x = i == j ? raw[j] : x;
                // Where one grows, that a window forgets says little of longer ones or of its tokens: as NaN, the head remembers.
                const float gate = log2_gate(p.forms, x, head);
                if (i < valid) sum += gate > 0.f ? NAN : gate;
            }
        }
        parts[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && first + lane < heads) p.gate_sums[head * p.slots + slot] = parts[0][lane] + parts[1][lane] + parts[2][lane] + parts[3][lane];
        __syncthreads();
    }
}

__device__ __forceinline__ void copy_start(const Sm90CutParams& p, int unit, int part) {
    const Rows& rows = p.forward.rows;
    const int number = unit / p.forward.value_heads, head = unit - number * p.forward.value_heads,
              row = serves_all(rows) ? number : served_row(rows, 0, number);
    if (row >= rows.count) return;
    const int64_t slot = row_slots(p.forward.state, row).read;
    const Thread me = thread_of_warpgroup();
    const StateAt at{64 * part + me.row, me.pair};
    float S[64] = {};
    if (slot != kNoSlot) load_state(S, p.forward, slot, head, at);
    store_matrix(S, p.forward.segment_states + static_cast<int64_t>(unit) * (kHeadDim * kHeadDim), at);
}

// Where chunk c of a tile stands: a lane's share one behind another, a word between shares, so that lanes find theirs in different banks. Another 32 chunks on
// is kStride words on.
__device__ __forceinline__ int place_of_sum(int c) { return c + (c >> 4); }
constexpr int kStride = 32 + 32 / kShare;
static_assert(kShare == 1 << 4, "place_of_sum");

// Sums of `count` numbers up to each, by a warp.
__device__ __forceinline__ void sum_up(float* to, const float* from, int count) {
    const int lane = threadIdx.x % 32;
    float x[kShare];
#pragma unroll
    for (int i = 0; i < kShare; ++i) x[i] = 32 * i + lane < count ? from[32 * i + lane] : 0.f;
#pragma unroll
    for (int i = 0; i < kShare; ++i) to[place_of_sum(lane) + i * kStride] = x[i];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kShare; ++i) x[i] = to[(kShare + 1) * lane + i] + (i > 0 ? x[i - 1] : 0.f);
    float before = x[kShare - 1];
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const float y = __shfl_up_sync(~0u, before, d);
        if (lane >= d) before += y;
    }
    before = __shfl_up_sync(~0u, before, 1);
    if (lane == 0) before = 0.f;
#pragma unroll
    for (int i = 0; i < kShare; ++i) to[(kShare + 1) * lane + i] = before + x[i];
    __syncwarp();
}

// Whether all windows of `warm` chunks forget whose last chunk is one of the tile's from `first` on. One that begins before the row does has nothing to forget;
// NaN forgets nothing.
__device__ __forceinline__ bool forgets(const float* prefix, int first, int count, int warm, float forgotten) {
    const int lane = threadIdx.x % 32, least = max(first, warm);
    const float *end = prefix + place_of_sum(lane), *before = prefix + place_of_sum(lane - warm);
    bool all = true;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {  // all are loaded, wanted or not: branches took ten times as long
        const int c = 32 * i + lane;
        const float sum = end[i * kStride] - before[i * kStride];
        all &= c < least || c >= count || sum <= forgotten;
    }
    return !__any_sync(~0u, !all);
}

// Chunks that each stretch of the head must start before what it is to give: all windows of so many forget. `sums` of the row's chunks; by a warp.
__device__ __forceinline__ int forgetting_chunks(const float* sums, int chunks, int most, float forgotten, float* prefix) {
    int warm = 1;
#pragma unroll 1
    for (int begin = 0; begin == 0 || begin + most < chunks; begin += kTile - most) {
        const int count = min(kTile, chunks - begin), first = begin > 0 ? most : 0;  // windows of the first ones the tile before has seen
        sum_up(prefix, sums + begin, count);
        if (most < 1 || !forgets(prefix, first, count, most, forgotten)) return kRemembers;
        for (int high = most; warm < high;) {
            const int middle = (warm + high) / 2;
            if (forgets(prefix, first, count, middle, forgotten))
                high = middle;
            else
                warm = middle + 1;
        }
        __syncwarp();
    }
    return warm;
}

// The rows that this launch serves, in order, as many of them as can have units; how many there are, up to one more. By a block.
__device__ __forceinline__ int list_served(const Rows& rows, int* list) {
    __shared__ int found[kWarps];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int all = 0;
#pragma unroll 1
    for (int first = 0; first < rows.count && all <= kMostCutUnits; first += kCutThreads) {
        const int row = first + static_cast<int>(threadIdx.x);
        const bool own = row < rows.count && serves(rows, row_tokens(rows, row).length);
        const uint32_t of_warp = __ballot_sync(~0u, own);
        if (lane == 0) found[warp] = __popc(of_warp);
        __syncthreads();
        int place = all + __popc(of_warp & ((1u << lane) - 1));
        for (int i = 0; i < kWarps; ++i) {
            if (i < warp) place += found[i];
            all += found[i];
        }
        if (own && place < kMostCutUnits) list[place] = row;
        __syncthreads();
    }
    return min(all, kMostCutUnits + 1);
}

// f(unit) over all units, by a warp.
struct SumUnits {
    const CutUnit* units;
    int count;
    template <class F>
    __device__ __forceinline__ int operator()(F f) const {
        int sum = 0;
        for (int i = threadIdx.x % 32; i < count; i += 32) sum += f(units[i]);
        return __reduce_add_sync(~0u, sum);
    }
};

// Numbers of a unit's summaries, stretches and chains, or of all units before it, in one word.
struct Counts {
    uint32_t word;
    static __device__ __forceinline__ Counts of(const CutUnit& u, const CutLengths& x) {
        const uint32_t summaries = summaries_of(u, x), stretches = stretches_of(u, x);
        return {summaries | stretches << 11 | (summaries > 0 ? 1u << 22 : 0)};
    }
    __device__ __forceinline__ int summaries() const { return word & 2047; }
    __device__ __forceinline__ int stretches() const { return word >> 11 & 2047; }
    __device__ __forceinline__ int chains() const { return word >> 22; }
};

// A row's head is a warp's; a way to cut them all, too. What blocks of the cluster must know of each other goes through the result.
__device__ __forceinline__ void cut_rows(const Sm90CutParams& p) {
    FQLA_DYNAMIC_SHARED(memory);
    CutUnit* const units = reinterpret_cast<CutUnit*>(memory);
    Counts* const before = reinterpret_cast<Counts*>(units + kMostCutUnits);
    int* const served = reinterpret_cast<int*>(before + kMostCutUnits);
    float* const prefix = reinterpret_cast<float*>(served + kMostCutUnits);
    Cut& cut = *p.result;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, own = warp * kCutBlocks + static_cast<int>(blockIdx.x);
    const Rows& rows = p.forward.rows;
    const bool all_served = serves_all(rows);
    const int heads = p.forward.value_heads, count = (all_served ? rows.count : list_served(rows, served)) * heads;
    if (count > p.units) {
        if (own == 0 && lane == 0) cut.summaries = cut.stretches = cut.chains = 0, cut.uncut = 1;
        return;
    }
    const auto place = [&](int unit, int& head) {
        const int number = unit / heads;
        head = unit - number * heads;
        return all_served ? number : served[number];
    };
    if (own < count) {
        int head;
        const int row = place(own, head);
        const RowTokens tokens = row_tokens(rows, row);
        const int chunks = static_cast<int>(chunks_of(tokens.length));
        const int warm = forgetting_chunks(p.gate_sums + head * p.slots + first_slot(rows, row, tokens), chunks, p.most_warm, p.forgotten,
                                           prefix + warp * kCutPrefix + kCutFront);
        if (lane == 0) cut.unit[own] = {chunks, warm};
    }
    __syncwarp();
    sync_cluster();
    if (threadIdx.x < count) units[threadIdx.x] = cut.unit[threadIdx.x];
    __syncthreads();
    int longest = 1;
    for (int i = lane; i < count; i += 32) longest = max(longest, units[i].chunks);
    longest = __reduce_max_sync(~0u, longest);
    if (own < kCutTries) {
        const SumUnits sum{units, count};
        const CutLengths r = try_lengths(p.costs, p.blocks, longest, sum([](const CutUnit& u) { return u.chunks; }), own, sum);
        if (lane == 0) cut.tried[own] = r;
    }
    __syncwarp();
    sync_cluster();
    float us = cut.tried[lane % kCutTries].us;
    int which = lane % kCutTries;
#pragma unroll
    for (int d = kCutTries / 2; d > 0; d /= 2) {
        const float other = __shfl_xor_sync(~0u, us, d);
        const int its = __shfl_xor_sync(~0u, which, d);
        if (other < us || (other == us && its < which)) us = other, which = its;
    }
    const CutLengths best = cut.tried[which];
    const bool uncut = p.costs.uncut + us_of(longest, p.costs.uncut_chunk) < us;
    if (warp == 0) {
        uint32_t all = 0;
        for (int i = lane; i - lane < count; i += 32) {
            const uint32_t of_unit = i < count ? Counts::of(units[i], best).word : 0;
            uint32_t sum = of_unit;
#pragma unroll
            for (int d = 1; d < 32; d *= 2) {
                const uint32_t y = __shfl_up_sync(~0u, sum, d);
                if (lane >= d) sum += y;
            }
            if (i < count) before[i] = {all + sum - of_unit};
            all += __shfl_sync(~0u, sum, 31);
        }
        const Counts c{uncut ? 0 : all};
        if (own == 0 && lane == 0) cut.summaries = c.summaries(), cut.stretches = c.stretches(), cut.chains = c.chains(), cut.uncut = uncut;
    }
    __syncthreads();
    if (uncut || own >= count) return;
    const CutUnit unit = units[own];
    CutHead head{0, 0, p.forward.state.read.data ? own : kFromZero, count + before[own].summaries()};
    head.row = place(own, head.head);
    const int stretches = stretches_of(unit, best), summaries = summaries_of(unit, best);
    for (int i = lane; i < stretches; i += 32) cut.stretch[before[own].stretches() + i] = stretch_at(i, stretches, unit, best, head);
    for (int i = lane; i < summaries; i += 32) cut.summary[before[own].summaries() + i] = summary_at(i, best, head);
    if (lane == 0 && summaries > 0) cut.chain[before[own].chains()] = {head.summaries, summaries};
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::kCutGatesThreads) gdn_cut_gates(const __grid_constant__ fqla::Sm90CutParams p) {
    using namespace fqla::sm90;
    let_successor_start();
    if (blockIdx.x < p.slots) {
        sum_chunk(p, blockIdx.x);
    } else {
        const int half = static_cast<int>(blockIdx.x - p.slots);
        copy_start(p, half / 2, half % 2);
    }
}

extern "C" __global__ void __cluster_dims__(8, 1, 1) __launch_bounds__(fqla::kCutThreads, 1) gdn_cut(const __grid_constant__ fqla::Sm90CutParams p) {
    fqla::sm90::let_successor_start();
    fqla::sm90::wait_for_predecessor();
    fqla::sm90::cut_rows(p);
}
