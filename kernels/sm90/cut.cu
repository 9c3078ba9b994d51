// Where rows are cut for context parallelism without chunk records: cut.h says how, the gates decide here, on the card.
//
//   kernel         a block                          steps
//   gdn_cut_gates  a chunk, all heads; 128 threads  the sum of its log2 decays for each head
//                  64 rows of V of a head's state   a copy of what the row starts from: a row's last stretch may store where its first one reads
//   gdn_cut        one; 512 threads                 how many chunks each head needs to forget; lengths; lists of stretches, summaries, chains
#include "recurrence.cuh"
#include "solve_steps.cuh"

namespace fqla::sm90 {
namespace {

constexpr int kQuarter = kChunk / 4;      // tokens of a warp
constexpr int kWarps = kCutThreads / 32;  // of gdn_cut
constexpr int kShare = 16, kTile = 32 * kShare;  // chunks of a lane, of a warp
constexpr int kMostWarm = 128;  // chunks

__device__ __forceinline__ void sum_chunk(const Sm90CutParams& p, int64_t slot) {
    __shared__ float parts[4][32];
    const ChunkPlace at = place_of(p.forward.rows, slot);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, heads = p.forward.value_heads;
    for (int first = 0; first < heads; first += 32) {
        const int head = min(first + lane, heads - 1);
        float sum = 0;
        if (at.row >= 0) {
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
                if (i < valid) sum += log2_gate(p.forms, x, head);
            }
        }
        parts[warp][lane] = sum;
        __syncthreads();
        if (warp == 0 && first + lane < heads) p.gate_sums[head * p.slots + slot] = parts[0][lane] + parts[1][lane] + parts[2][lane] + parts[3][lane];
        __syncthreads();
    }
}

__device__ __forceinline__ void copy_start(const Sm90CutParams& p, int unit, int part) {
    const int row = unit / p.forward.value_heads, head = unit - row * p.forward.value_heads;
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
    const int lane = threadIdx.x % 32;
    const float *end = prefix + place_of_sum(lane), *before = prefix + place_of_sum(lane - warm);
    bool all = true;
#pragma unroll
    for (int i = 0; i < kShare; ++i) {
        const int c = 32 * i + lane;
        if (c >= max(first, warm) && c < count) all &= end[i * kStride] - before[i * kStride] <= forgotten;
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

// f(unit) over all units, by a warp.
struct SumUnits {
    const CutUnit* units;
    int count;
    template <class F>
    __device__ __forceinline__ int operator()(F f) const {
        int sum = 0;
        for (int i = threadIdx.x % 32; i < count; i += 32) sum += units[i].chunks < 0 ? 0 : f(units[i]);
        return __reduce_add_sync(~0u, sum);
    }
};

// The first stretch of a head that forgets has `share` chunks, each other one as many with those that warm it up; by a warp, a lane a stretch.
__device__ __forceinline__ void list_stretches(Stretch* to, const CutUnit& u, const CutLengths& x, int row, int head, int start, int first_matrix) {
    const bool remembers = u.warm == kRemembers;
    const int warm = remembers ? 0 : u.warm, count = stretches_of(u, x), share = remembers ? x.pieces * x.piece : cut_ceil(u.chunks + (count - 1) * warm, count);
    for (int i = threadIdx.x % 32; i < count; i += 32) {
        // Rounding may leave nothing for the last ones.
        const int begin = min(u.chunks, i * (share - warm) + (i > 0 ? warm : 0)), end = min(u.chunks, (i + 1) * (share - warm) + warm);
        const int first = i > 0 && begin == end ? end : max(0, begin - warm);
        const int from = first == 0 ? start : remembers ? first_matrix + i * x.pieces - 1 : kFromZero;
        to[i] = {row, head, first, end - first, begin - first, from, 0, end == u.chunks && (i == 0 || begin < end)};
    }
}

__device__ __forceinline__ void list_summaries(Stretch* to, StitchChain* chain, int count, int piece, int row, int head, int start, int first_matrix) {
    for (int i = threadIdx.x % 32; i < count; i += 32) to[i] = {row, head, i * piece, piece, 0, i > 0 ? kFromZero : start, first_matrix + i, 0};
    if (threadIdx.x % 32 == 0) *chain = {first_matrix, count};
}

// Numbers of a unit's summaries, stretches and chains, or of all units before it, in one word.
struct Counts {
    uint32_t word;
    static __device__ __forceinline__ Counts of(const CutUnit& u, const CutLengths& x) {
        if (u.chunks < 0) return {0};
        const uint32_t summaries = summaries_of(u, x), stretches = stretches_of(u, x);
        return {summaries | stretches << 11 | (summaries > 0 ? 1u << 22 : 0)};
    }
    __device__ __forceinline__ int summaries() const { return word & 2047; }
    __device__ __forceinline__ int stretches() const { return word >> 11 & 2047; }
    __device__ __forceinline__ int chains() const { return word >> 22; }
};

__device__ __forceinline__ void cut_rows(const Sm90CutParams& p) {
    __shared__ CutUnit units[kMostCutUnits];
    __shared__ Counts before[kMostCutUnits];
    __shared__ float prefix[kWarps][kTile + 32];
    __shared__ CutLengths tried[kCutTries];
    __shared__ int longest;
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0), lane = threadIdx.x % 32, heads = p.forward.value_heads, count = p.forward.rows.count * heads;
    if (threadIdx.x == 0) longest = 1;
    __syncthreads();
    for (int i = warp; i < count; i += kWarps) {
        const int row = i / heads, head = i - row * heads;
        const RowTokens tokens = row_tokens(p.forward.rows, row);
        const int chunks = static_cast<int>(chunks_of(tokens.length));
        const int warm = forgetting_chunks(p.gate_sums + head * p.slots + first_slot(p.forward.rows, row, tokens), chunks, min(p.most_warm, kMostWarm),
                                           p.forgotten, prefix[warp]);
        if (lane == 0) units[i] = {serves(p.forward.rows, tokens.length) ? chunks : -1, warm}, atomicMax(&longest, chunks);
    }
    __syncthreads();
    const int chunks = SumUnits{units, count}([](const CutUnit& u) { return u.chunks; });
    for (int i = warp; i < kCutTries; i += kWarps) {
        const CutLengths r = try_lengths(p.costs, p.blocks, longest, chunks, i, SumUnits{units, count});
        if (lane == 0) tried[i] = r;
    }
    __syncthreads();
    CutLengths best = tried[0];
#pragma unroll 1
    for (int i = 1; i < kCutTries; ++i)
        if (tried[i].us < best.us) best = tried[i];
    const bool uncut = p.costs.uncut < best.us;
    if (warp == 0) {
        uint32_t all = 0;
        for (int i = lane; i - lane < count; i += 32) {
            const uint32_t own = i < count ? Counts::of(units[i], best).word : 0;
            uint32_t sum = own;
#pragma unroll
            for (int d = 1; d < 32; d *= 2) {
                const uint32_t y = __shfl_up_sync(~0u, sum, d);
                if (lane >= d) sum += y;
            }
            if (i < count) before[i] = {all + sum - own};
            all += __shfl_sync(~0u, sum, 31);
        }
        const Counts c{uncut ? 0 : all};
        if (lane == 0) {
            Cut& cut = *p.result;
            cut.summaries = c.summaries(), cut.stretches = c.stretches(), cut.chains = c.chains(), cut.uncut = uncut;
        }
    }
    __syncthreads();
    if (uncut) return;
    for (int i = warp; i < count; i += kWarps) {
        if (units[i].chunks < 0) continue;
        const int row = i / heads, head = i - row * heads, first = count + before[i].summaries(), summaries = summaries_of(units[i], best);
        const int start = p.forward.state.read.data ? i : kFromZero;
        list_stretches(p.result->stretch + before[i].stretches(), units[i], best, row, head, start, first);
        if (summaries > 0) list_summaries(p.result->summary + before[i].summaries(), p.result->chain + before[i].chains(), summaries, best.piece, row, head, start, first);
    }
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

extern "C" __global__ void __launch_bounds__(fqla::kCutThreads, 1) gdn_cut(const __grid_constant__ fqla::Sm90CutParams p) {
    fqla::sm90::let_successor_start();
    fqla::sm90::wait_for_predecessor();
    fqla::sm90::cut_rows(p);
}
