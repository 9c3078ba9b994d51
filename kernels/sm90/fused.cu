// Fused forward for cards a quarter to half full, and for any keys: solve and recurrence in one kernel, nothing but q, k, v, gates in and o out.
//
// A cluster of two blocks has a value head, each block 64 rows of V (the math role of recurrence.cuh). The solve does not depend on V, so the
// blocks take turns: the first solves the even chunks, the second the odd ones, and each hands its record (17 KB) to the other through shared
// memory. A block so has two chunks' time for a solve. Gates and Gamma are made behind the products, which do not need them.
//
//   role               registers  step (event it waits for -> event it announces)
//   load, a warp       40         q, k, v of a chunk               (stage free -> stage filled)
//   solve, warpgroup   224        K K^T, Q K^T of its chunks       (stage filled -> stage free)
//                                 gates, N, diagonal inverses
//                                 scores, merges, factors          (record free, in both blocks -> solved, in both blocks)
//   math, warpgroup    240        recurrence and output            (stage filled, solved -> stage free, record free)
//   store, a warp      40         output of the chunk before       (staging filled -> staging free)
//
// Records: even chunks in the first slot, odd ones in the second; slot r is written by block r alone, so that "record free" is one barrier
// a block with eight arrivals, four math warps here and four there.
#include "recurrence.cuh"
#include "solve_steps.cuh"

namespace fqla::sm90 {
namespace {

using Pair = PairLayout;

struct PairEvents {
    uint32_t base;
    __device__ __forceinline__ uint32_t solved(int slot) const { return base + 8 * slot; }
    __device__ __forceinline__ uint32_t record_free() const { return base + 16; }  // of the slot that this block solves
};

// The math role's side of the records; c counts the chunks of all units.
struct PairRecords {
    PairEvents events;
    int rank;

    __device__ __forceinline__ void wait(int c) const {
        const int slot = c & 1;
        // The record of the other block may have come already: a barrier's byte count may run ahead of what is expected.
        if (threadIdx.x == 0 && slot != rank) barrier_expect(events.solved(slot), ChunkRecord::kUsedBytes);
        barrier_wait(events.solved(slot), (c >> 1) & 1);
    }
    __device__ __forceinline__ void release(int c) const { remote_arrive(remote_address(events.record_free(), c & 1)); }
};

// Gate (half of the threads) and beta (the other half) of one token, as they stand in memory.
__device__ __forceinline__ float load_token(const SolveForms& f, const Work& w, int chunk) {
    const View& x = threadIdx.x % 128 < kChunk ? f.gate : f.beta;
    const int64_t t = static_cast<int64_t>(chunk) * kChunk + threadIdx.x % kChunk;
    return chunk < w.chunks && t < w.tokens.length ? load_scalar(x, element_offset(x, w.row, w.tokens, t, w.head)) : 0.f;
}

template <class T>
__device__ __forceinline__ void solve_role(const Sm90FusedParams& p, const Units& units, uint32_t smem, Ring<Pair::kStages> ring, const PairEvents& events,
                                           int rank) {
    const Thread me = thread_of_warpgroup();
    const bool leader = me.warp == 0 && me.lane == 0;
    const uint32_t record = smem + Pair::kRecords + rank * Pair::kRecordStride;
    SolveAt at{0,
               0,
               smem + Pair::kLower,
               record + ChunkRecord::kSolve,
               record + ChunkRecord::kScores,
               record + ChunkRecord::kFactors,
               smem + Pair::kTokens,
               smem + Pair::kTokens + kChunk * 4,
               smem + Pair::kWarp,
               smem + Pair::kNorms};
    const uint32_t there = remote_address(record, rank ^ 1), solved_there = remote_address(events.solved(rank), rank ^ 1);
    clear_upper(at, me);
    int done = 0;  // chunks, of all units
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p.forward, units, unit);) {
        const Work w = find_work(p.forward, units, unit);
        if (w.skip) continue;
        float raw = load_token(p.forms, w, (done & 1) == rank ? 0 : 1);
#pragma unroll 1
        for (int c = 0; c < w.chunks; ++c, ++done, ring.advance()) {
            ring.wait_filled();
            if ((done & 1) != rank) {
                if (me.lane == 0) release_stage<Pair>(ring);
                continue;
            }
            const int64_t left = w.tokens.length - static_cast<int64_t>(c) * kChunk;
            const int valid = left < kChunk ? static_cast<int>(left) : kChunk;
            {
                const int token = threadIdx.x % kChunk;
                const bool is_beta = threadIdx.x % 128 >= kChunk;
                const float y = is_beta ? beta_of(p.forms, raw) : log2_gate(p.forms, raw, w.head);
                store_shared_f((is_beta ? at.betas : at.gates) + token * 4, token < left ? y : 0.f);
                raw = load_token(p.forms, w, c + 2);
            }
            float kk[32], qk[32];
            at.k = smem + ring.stage() * Pair::kStageBytes + Pair::kK, at.q = smem + ring.stage() * Pair::kStageBytes + Pair::kQ;
            sync_threads(kSolveBarrier, 128);  // gates and betas are there
            begin_products<T>(at, kk, qk);
            if (p.forms.qk_norm) {
                measure_norms(at, p.forms.eps, valid, threadIdx.x % 128, T{});
                sync_threads(kSolveBarrier, 128);
            }
            const FactorPair factors = sum_gates(p.forms, at, me);
            const RowGates gates = prepare_rows(at, me);
            finish_products<T>(p.forms, at, me, valid, kk, qk);
            if (me.lane == 0) release_stage<Pair>(ring);
            uint32_t scores[16];
#pragma unroll
            for (int i = 0; i < 16; ++i) scores[i] = 0;
            gate_rows<T>(at, me, gates, kk, qk, [&](int b, const uint32_t* s) {
#pragma unroll
                for (int i = 0; i < 4; ++i) scores[4 * b + i] = s[i];
            });
            invert_diagonal(at, me);
            sync_threads(kSolveBarrier, 128);
            barrier_wait(events.record_free(), ((done >> 1) & 1) ^ 1);
            store_factors(at, me, factors);
#pragma unroll
            for (int b = 0; b < 4; ++b)
                if (b <= me.warp) store_scores(at, me, b, scores + 4 * b);
            merge_columns<T>(at, me);
            fence_to_async();
            sync_threads(kSolveBarrier, 128);
            if (leader) {
                barrier_arrive(events.solved(rank));
                push_bytes(there, record, ChunkRecord::kUsedBytes, solved_there);
            }
        }
    }
}

template <class T, bool kMixed>
__device__ __forceinline__ void fuse(const Sm90FusedParams& p) {
    if (!left_uncut(p.forward)) return;
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory), tail = smem + Pair::kBarriers + 16 * Pair::kStages;
    Ring<Pair::kStages> ring(smem + Pair::kBarriers);
    const Ring<1> staging(tail + 8 * Pair::kStages);
    const PairEvents events{tail + 8 * Pair::kStages + 16};
    // Any number of clusters serves: they take units in turn. Every role makes them for itself: what lives across the branch would have to fit into the
    // smallest register share.
    auto units = [&] { return units_in_turn(p.forward, 2, 0, !kMixed); };
    const int rank = __shfl_sync(~0u, static_cast<int>(blockIdx.x % 2), 0);
    if (threadIdx.x == 0) {
        ring.init(1, 16);  // math and solve warps of both blocks
        for (int i = 0; i < Pair::kStages; ++i) barrier_init(tail + 8 * i, 1);
        staging.init(4, 1);
        barrier_init(events.solved(0), 1), barrier_init(events.solved(1), 1), barrier_init(events.record_free(), 8);
        barrier_init_fence();
    }
    __syncthreads();
    sync_cluster();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (warp < 4) {
        take_registers<240>();
        PairRecords records{events, rank};
        math_role<T, Pair>(p.forward, units(), smem, ring, staging, records);
    } else if (warp < 8) {
        take_registers<224>();
        solve_role<T>(p, units(), smem, ring, events, rank);
    } else {
        give_registers<40>();
        if (warp == 8)
            load_role<Pair>(p.forward, units(), smem, ring, tail);
        else if (warp == 9)
            store_role<Pair>(p.forward, units(), smem, staging, 0);
    }
    __syncwarp();
    sync_cluster();  // the other block may still write here
}

}  // namespace
}  // namespace fqla::sm90

#define FQLA_FUSED(name, T, mixed)                                                                        \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(fqla::PairLayout::kThreads, 1) \
        name(const __grid_constant__ fqla::Sm90FusedParams p) {                                           \
        fqla::sm90::fuse<fqla::sm90::T, mixed>(p);                                                        \
    }
FQLA_FUSED(gdn_fused_bf16_v64, Bf16, false)
FQLA_FUSED(gdn_fused_f16_v64, F16, false)
FQLA_FUSED(gdn_fused_bf16_v64_mixed, Bf16, true)
FQLA_FUSED(gdn_fused_f16_v64_mixed, F16, true)
