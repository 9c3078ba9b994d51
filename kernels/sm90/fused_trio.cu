// Fused forward for a card that has four multiprocessors for each head: the recurrence of fused.cu at the pace that it has alone, since the solve has
// a block to itself.
//
// A cluster of three blocks has a value head. Blocks 0 and 1 recur, 64 rows of V each (recurrence.cuh). Block 2 solves, as fused_wide.cu does
// (gate_steps.cuh): keys must be bounded. A record is finished there and then pushed into both recurring blocks, which have four slots for records; the
// solving block has three of its own, each until its record has come there. So it runs up to seven chunks ahead of the recurrence.
//
//   recurring blocks          registers  step (event it waits for -> event it announces)
//   math, warpgroup           240        recurrence and output            (stage filled, solved -> stage free, slot free)
//   load, a warp              40         q, k, v of a chunk               (stage free -> stage filled)
//   store, a warp             40         output of the chunk before       (staging filled -> staging free)
//   receive, a warp           40         says that a record has come      (solved -> record free)
//
//   solving block
//   gates, warpgroup          168        K K^T, K Q^T; -N                 (stage filled, tables ready, lower free -> stage free, lower ready)
//                                        norms two chunks ahead           (stage filled -> norms ready)
//                                        scores                           (record free -> record ready, tables free)
//   invert, three warps       168        every third inverse              (lower ready; record free -> lower free, record ready)
//   push, a warp              168        the record to both blocks        (record ready, slot free -> solved)
//   copy, a warp              168        k, q of a chunk                  (stage free -> stage filled)
//   tokens, two warps         168        gates, betas, norms of every second chunk to factors
//                                                                         (tables free, norms ready -> tables ready; record free -> record ready)
#include "gate_steps.cuh"
#include "global.cuh"
#include "recurrence.cuh"
#include "wide_copies.cuh"
#include "wide_tokens.cuh"

namespace fqla::sm90 {
namespace {

using Trio = TrioLayout;
using KeyRing = Ring<Trio::kKeyStages>;
constexpr int kRecurring = 2;  // blocks of a cluster, the first ones; the last one solves

// Events of the solving block. `c` counts chunks over all units.
struct SolveEvents {
    enum Event { tables_ready, tables_free, norms_ready, lower_ready, lower_free, record_ready, record_free, slot_free };
    static_assert(slot_free + 1 == Trio::kEvents, "barriers of all events");
    uint32_t base;

    // Slots of a chunk's record here, or of what its record is made of; a "slot" is one in the recurring blocks.
    __device__ __forceinline__ static constexpr int slots(Event e) { return e == slot_free ? Trio::kRecordSlots : Trio::kSlots; }
    __device__ __forceinline__ static uint32_t phase(Event e, int c) { return c / slots(e) & 1; }
    __device__ __forceinline__ uint32_t at(Event e, int c) const { return base + 8 * (Trio::kEventSlots * e + c % slots(e)); }
    __device__ __forceinline__ void init() const {
        constexpr int arrivals[Trio::kEvents] = {1, 4, 4, 4, 1, 4 + 1 + 1, kRecurring, 4 * kRecurring};  // warps
        for (int e = 0; e < Trio::kEvents; ++e)
            for (int slot = 0; slot < slots(static_cast<Event>(e)); ++slot) barrier_init(at(static_cast<Event>(e), slot), arrivals[e]);
    }
    __device__ __forceinline__ void wait(Event e, int c) const { barrier_wait(at(e, c), phase(e, c)); }
    // Of what is free before its first use.
    __device__ __forceinline__ void wait_free(Event e, int c) const { barrier_wait(at(e, c), phase(e, c) ^ 1); }
    // By a whole warp, whatever its lanes have done before.
    __device__ __forceinline__ void announce(Event e, int c) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) barrier_arrive(at(e, c));
    }
};

// The recurring blocks' side of the records.
struct PushedRecords {
    uint32_t solved;     // barriers of this block's slots
    SolveEvents events;  // as they lie in the solving block

    __device__ __forceinline__ uint32_t slot(int c) const { return solved + 8 * (c % Trio::kRecordSlots); }
    // What comes first into each slot. Later fillings are expected where the one before has been read, so that no wait has that to do.
    __device__ __forceinline__ void init() const {
        for (int c = 0; c < Trio::kRecordSlots; ++c) barrier_init(slot(c), 1), barrier_expect(slot(c), ChunkRecord::kUsedBytes);
    }
    __device__ __forceinline__ void wait(int c) const { barrier_wait(slot(c), c / Trio::kRecordSlots & 1); }
    __device__ __forceinline__ void release(int c) const {
        if (threadIdx.x == 0) barrier_expect(slot(c), ChunkRecord::kUsedBytes);
        remote_arrive(remote_address(events.at(SolveEvents::slot_free, c), kRecurring));
    }
};

__device__ __forceinline__ uint32_t own_record(uint32_t smem, int c) { return smem + Trio::kOwnRecords + c % Trio::kSlots * Trio::kRecordStride; }

// do_chunk(c) for each chunk of the block's units, c from 0.
template <class DoChunk>
__device__ __forceinline__ void each_chunk(const Sm90ForwardParams& p, const Units& units, DoChunk&& do_chunk) {
    int done = 0;
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p, units, unit);) {
        const Work w = find_work(p, units, unit);
        if (w.skip) continue;
#pragma unroll 1
        for (const int end = done + w.chunks; done < end; ++done) do_chunk(done);
    }
}

// Two warps take the chunks in turn: a chunk's tables are a longer chain of steps than its recurrence.
template <bool kNorms>
__device__ __forceinline__ void token_role(const Sm90FusedParams& p, const Units& units, uint32_t smem, const SolveEvents& events, int turn) {
    using E = SolveEvents;
    const int lane = threadIdx.x % 32;
    int done = 0;
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p.forward, units, unit);) {
        const Work w = find_work(p.forward, units, unit);
        if (w.skip) continue;
        ScalarPair gate, beta;
        gate.start(p.forms.gate, w), beta.start(p.forms.beta, w);
        const int end = done + w.chunks, first = (done ^ turn) & 1;
        int left = tokens_from(w) - first * kChunk;
        if (first) gate.pass(p.forms.gate), beta.pass(p.forms.beta);
        gate.load(p.forms.gate, left), beta.load(p.forms.beta, left);
#pragma unroll 1
        for (done += first; done < end; done += 2) {
            const TokenPair tokens = resolve(p.forms, gate, beta, left, w.head);
            left -= 2 * kChunk;
            gate.pass(p.forms.gate), beta.pass(p.forms.beta);
            gate.load(p.forms.gate, left), beta.load(p.forms.beta, left);
            events.wait_free(E::tables_free, done);
            if (kNorms) events.wait(E::norms_ready, done);
            StateScale plain{};  // the math role has the state itself
            const RecordFactors f = make_tables(p.forms, smem + Trio::kTables + done % Trio::kSlots * WideLayout::kTableBytes,
                                                smem + Trio::kNorms + done % Trio::kSlots * WideLayout::kNormBytes, lane, tokens, plain, true);
            events.announce(E::tables_ready, done);
            events.wait_free(E::record_free, done);
            const uint32_t to = own_record(smem, done) + ChunkRecord::kFactors;
            auto store = [&](ChunkRecord::Factor which, float2 x) { store_shared_f2(to + which * kChunk * 4 + 8 * lane, x.x, x.y); };
            store(ChunkRecord::beta, f.beta), store(ChunkRecord::read_k, f.read_k);
            store(ChunkRecord::write_k, f.write_k), store(ChunkRecord::read_q, f.read_q);
            if (lane == 0) store_shared_f(to + ChunkRecord::decay * kChunk * 4, f.decay);
            fence_to_async();
            events.announce(E::record_ready, done);
        }
        done = end;
    }
}

// begin_product, but `never` is a false that ptxas cannot see through: the accumulators stay in their registers, as long as others are in flight.
template <class T>
__device__ __forceinline__ void restart_product(float (&d)[32], uint32_t a, uint32_t b, bool never) {
    mma_begin();
#pragma unroll
    for (int s = 0; s < 8; ++s) {
        const uint32_t offset = (s >> 2) * WideLayout::kHalf + (s & 3) * 32;
        mma_shared_n64(T{}, d, tile_descriptor_at(a, offset), tile_descriptor_at(b, offset), s > 0 || never);
    }
    mma_commit();
}

// A product is under way while the gates of another are worked on: K Q^T behind -N, the next chunk's K K^T behind the scores.
template <class T, bool kNorms>
__device__ __forceinline__ void gate_role(const Sm90FusedParams& p, const Units& units, uint32_t smem, KeyRing ring, const SolveEvents& events) {
    using E = SolveEvents;
    using W = WideLayout;
    const Thread me = thread_of_warpgroup();
    const BlockLane rows = block_lane(me.lane);
    for (int slot = 0; slot < Trio::kSlots; ++slot) {
        SolveAt tiles{};
        tiles.solve = own_record(smem, slot) + ChunkRecord::kSolve, tiles.scores = own_record(smem, slot) + ChunkRecord::kScores;
        clear_upper(tiles, me);
    }
    auto stage_of = [&](const KeyRing& at) { return smem + at.stage() * W::kStageBytes; };
    auto make_norms = [&](const KeyRing& at, int c, int left) {  // the token warps have read what stood there: tables of chunk c - 3 are made
        at.wait_filled();
        measure_norms<T>(stage_of(at), 2, smem + Trio::kNorms + c % Trio::kSlots * W::kNormBytes, me, p.forms.eps, min(left, kChunk));
        events.announce(E::norms_ready, c);
    };
    int done = 0;
    const bool never = p.forward.value_heads < 0;
    float kk[32] = {}, kq[32] = {}, e[8];
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p.forward, units, unit);) {
        const Work w = find_work(p.forward, units, unit);
        if (w.skip || w.chunks == 0) continue;
        int left = tokens_from(w);
        ring.wait_filled();
        restart_product<T>(kk, stage_of(ring) + W::kK, stage_of(ring) + W::kK, never);
        KeyRing ahead = ring;  // norms are made two chunks ahead: tables are a longer chain of steps than a chunk
        for (int i = 0; kNorms && i < min(w.chunks, 2); ++i, ahead.advance(), left -= kChunk) make_norms(ahead, done + i, left);
        mma_wait<0>(), pin(kk);
#pragma unroll 1
        for (const int end = done + w.chunks; done < end; ++done) {
            const int slot = done % Trio::kSlots;
            const GateAt at{smem + Trio::kLower + slot * kTileBytes, smem + Trio::kDiagonal + slot * W::kDiagonalBytes,
                            own_record(smem, done) + ChunkRecord::kScores, smem + Trio::kTables + slot * W::kTableBytes, rows};
            restart_product<T>(kq, stage_of(ring) + W::kK, stage_of(ring) + W::kQ, never);
            events.wait(E::tables_ready, done);
            diagonal_gates(e, at, me);
            events.wait_free(E::lower_free, done);
            gate_lower(at, me, e, kk);
            events.announce(E::lower_ready, done);
            KeyRing next = ring;
            next.advance();
            const bool more = done + 1 < end;
            if (more) next.wait_filled();
            restart_product<T>(kk, stage_of(next) + W::kK, stage_of(next) + W::kK, never);  // behind the last chunk of whatever stands there, for nobody
            if (kNorms && done + 2 < end) make_norms(ahead, done + 2, left), ahead.advance(), left -= kChunk;
            mma_wait<1>(), pin(kq);
            if (me.lane == 0) ring.release();
            ring = next;
            events.wait_free(E::record_free, done);
            gate_scores<T>(at, me, e, kq);
            fence_to_async();
            events.announce(E::record_ready, done);
            if (me.lane == 0) barrier_arrive(events.at(E::tables_free, done));
            mma_wait<0>(), pin(kk);  // nothing in flight over the back edge, or ptxas serialises (C7514)
        }
    }
}

// Each warp has a slot of its own, and so every third of the block's chunks: the inverse is a chain of short steps, and three go on side by side.
template <class T>
__device__ __forceinline__ void invert_role(const Sm90ForwardParams& p, const Units& units, uint32_t smem, const SolveEvents& events, int slot) {
    using E = SolveEvents;
    const int lane = threadIdx.x % 32;
    const Inverter x{lane, block_lane(lane), smem + Trio::kLower + slot * kTileBytes, smem + Trio::kDiagonal + slot * WideLayout::kDiagonalBytes,
                     own_record(smem, slot) + ChunkRecord::kSolve};
    clear_below(x.lower, lane);
    each_chunk(p, units, [&](int c) {
        if (c % Trio::kSlots != slot) return;
        events.wait(E::lower_ready, c);
        invert_diagonal_blocks(x);
        events.wait_free(E::record_free, c);
        merge_blocks<T>(x);
        store_below_diagonal<T>(x);
        events.announce(E::lower_free, c);
        fence_to_async();
        events.announce(E::record_ready, c);
    });
}

__device__ __forceinline__ void copy_role(const Sm90ForwardParams& p, const Units& units, uint32_t smem, KeyRing ring) {
    const uint32_t tail = smem + Trio::kTail;
    uint32_t tail_phase = 0;
    Cursor<Units> keys{before_first(units)};
    keys.enter(p, units);
#pragma unroll 1
    for (; keys.more(); keys.advance(p, units)) {
        ring.wait_free();
        const uint32_t to = smem + ring.stage() * WideLayout::kStageBytes, bar = keys.is_ragged(p) ? tail : ring.filled();
        if (threadIdx.x % 32 == 0) {
            const int key_head = key_head_of(p, keys.head);
            barrier_expect(bar, WideLayout::kStageBytes);
#pragma unroll 1
            for (int half = 0; half < 2; ++half) {
                load_box(to + half * WideLayout::kHalf + WideLayout::kK, p.k, 64 * half, key_head, keys.token, keys.row, bar);
                load_box(to + half * WideLayout::kHalf + WideLayout::kQ, p.q, 64 * half, key_head, keys.token, keys.row, bar);
            }
        }
        if (keys.is_ragged(p)) finish_ragged(tail, tail_phase, to + WideLayout::kK, WideLayout::kHalf, keys.left, ring.filled());
        ring.advance();
    }
}

__device__ __forceinline__ void push_role(const Sm90ForwardParams& p, const Units& units, uint32_t smem, const SolveEvents& events) {
    using E = SolveEvents;
    each_chunk(p, units, [&](int c) {
        events.wait(E::record_ready, c);
        events.wait_free(E::slot_free, c);
        const int slot = c % Trio::kRecordSlots;
        if (threadIdx.x % 32 == 0)
            for (int to = 0; to < kRecurring; ++to)
                push_bytes(remote_address(smem + Trio::kRecords + slot * Trio::kRecordStride, to), own_record(smem, c), ChunkRecord::kUsedBytes,
                           remote_address(smem + Trio::kSolved + 8 * slot, to));
        __syncwarp();
    });
}

// Tells the solving block which of its records have come and may be overwritten there.
__device__ __forceinline__ void receive_role(const Sm90ForwardParams& p, const Units& units, const PushedRecords& records) {
    each_chunk(p, units, [&](int c) {
        records.wait(c);
        if (threadIdx.x % 32 == 0) remote_arrive(remote_address(records.events.at(SolveEvents::record_free, c), kRecurring));
        __syncwarp();
    });
}

template <class T, bool kNorms>
__device__ __forceinline__ void fuse_trio(const Sm90FusedParams& p) {
    if (!left_uncut(p.forward)) return;
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory);
    const int rank = __shfl_sync(~0u, static_cast<int>(blockIdx.x % Trio::kBlocks), 0), warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    // Any number of clusters serves: they take units in turn. Every role makes them for itself: what lives across the branch would have to fit into the
    // smallest register share.
    auto units = [&] { return units_in_turn(p.forward, Trio::kBlocks, 0); };
    const SolveEvents events{smem + Trio::kEventBarriers};
    if (rank < kRecurring) {
        const uint32_t tails = smem + Trio::kBarriers + 16 * Trio::kStages;
        const Ring<Trio::kStages> ring(smem + Trio::kBarriers);
        const Ring<1> staging(tails + 8 * Trio::kStages);
        const PushedRecords records{smem + Trio::kSolved, events};
        if (threadIdx.x == 128) prefetch_map(p.forward.q), prefetch_map(p.forward.k), prefetch_map(p.forward.v);
        if (threadIdx.x == 0) {
            ring.init(1, 4 * kRecurring);  // math warps of both blocks
            for (int i = 0; i < Trio::kStages; ++i) barrier_init(tails + 8 * i, 1);
            staging.init(4, 1);
            records.init();
            barrier_init_fence();
        }
        __syncthreads();
        sync_cluster();
        if (warp < 4) {
            take_registers<240>();
            math_role<T, Trio>(p.forward, units(), smem, ring, staging, records);
        } else {
            give_registers<40>();
            if (warp == 4)
                load_role<Trio>(p.forward, units(), smem, ring, tails);
            else if (warp == 5)
                store_role<Trio>(p.forward, units(), smem, staging, 0);
            else if (warp == 6)
                receive_role(p.forward, units(), records);
        }
    } else {
        const KeyRing ring(smem + Trio::kKeyBarriers);
        // A row's first record is waited for by all that follows: what the roles would fetch one after another is on its way before they begin.
        if (threadIdx.x == 256) prefetch_map(p.forward.k), prefetch_map(p.forward.q);
        if (threadIdx.x == 288 && p.forms.gate_form == FLASHQLA_GATE_RAW) prefetch_to_l2(p.forms.a_log.data), prefetch_to_l2(p.forms.dt_bias.data);
        if (threadIdx.x == 0) {
            ring.init(1, 4);  // gate warps
            barrier_init(smem + Trio::kTail, 1);
            events.init();
            barrier_init_fence();
        }
        __syncthreads();
        arrive_cluster();  // only the push needs the recurring blocks to be there
        if (warp == 4 + Trio::kSlots) {
            wait_cluster();
            push_role(p.forward, units(), smem, events);
        } else {
            if (warp < 4)
                gate_role<T, kNorms>(p, units(), smem, ring, events);
            else if (warp < 4 + Trio::kSlots)
                invert_role<T>(p.forward, units(), smem, events, warp - 4);
            else if (warp == 8)
                copy_role(p.forward, units(), smem, ring);
            else if (warp >= 10)
                token_role<kNorms>(p, units(), smem, events, warp - 10);
            __syncwarp();
            wait_cluster();
        }
    }
    __syncwarp();
    sync_cluster();  // the others may still arrive here
}

}  // namespace
}  // namespace fqla::sm90

// With norms a kernel of its own: their code alone slowed the gate warps by 5%.
#define FQLA_FUSED_TRIO(name, T, norms)                                                                   \
    extern "C" __global__ void __cluster_dims__(3, 1, 1) __launch_bounds__(fqla::TrioLayout::kThreads, 1) \
        name(const __grid_constant__ fqla::Sm90FusedParams p) {                                           \
        fqla::sm90::fuse_trio<fqla::sm90::T, norms>(p);                                                   \
    }
FQLA_FUSED_TRIO(gdn_fused_bf16_trio, Bf16, false)
FQLA_FUSED_TRIO(gdn_fused_f16_trio, F16, false)
FQLA_FUSED_TRIO(gdn_fused_bf16_trio_l2, Bf16, true)
FQLA_FUSED_TRIO(gdn_fused_f16_trio_l2, F16, true)
