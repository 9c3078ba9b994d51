// Fused forward for full cards, one block a head: nothing but q, k, v, gates in and o out, and no multiprocessor beside the one that has the state.
//
//   role                     registers  step (event it waits for -> event it announces)
//   copy, a warp             48         k and q of a chunk                     (stage free -> stage filled)
//                                       output, then v two chunks on           (output ready -> values ready)
//   tokens, a warp           48         gates, betas, norms to factors         (tables free, norms ready -> tables ready; record free -> record ready)
//   gates, warpgroup         80         K K^T, -N                              (stage filled, tables ready, lower free -> lower ready)
//                                       norms two chunks ahead                 (stage filled -> norms ready)
//                                       K Q^T, scores of the chunk before      (record free -> stage free, record ready, tables free)
//   invert, two warps        48         every second chunk's inverse           (lower ready -> lower free; solve free -> record ready)
//   math, two warpgroups     192        recurrence and output                  (stage filled, record, values ready -> solve, stage, record free, output ready)
//
// The summary of context parallelism is the same without scores and output (registers 72, 80, 176), in clusters of two: a segment's state in one block, its
// transition in the other, which has no values and starts from the identity. Both need the same inverses and factors, so each makes them for every second
// chunk. The kernels of stretches (cut.h) give 56 registers to the roles of a warp, and 72 to the gates.
//
// Gates, inverse and recurrence so work on successive chunks. The hot code of all roles together must stay near 30 KB: with 54 KB every second
// cycle of the gate warps went into waiting for instructions (H100, 2026-11-23). Only for bounded keys: gate_steps.cuh.
#include <type_traits>

#include "gate_steps.cuh"
#include "recurrence.cuh"
#include "wide_copies.cuh"
#include "wide_events.cuh"
#include "wide_tokens.cuh"

namespace fqla::sm90 {
namespace {

// The slot of the tables behind these.
template <bool kSummary>
__device__ __forceinline__ int next_table(int table) {
    return table == (kSummary ? 2 : Wide::kTableSlots) - 1 ? 0 : table + 1;
}

// kLazy: the math role may have the state divided by a factor (not in f16, whose range is too small).
template <bool kLazy, bool kSummary, bool kNorms, class List>
__device__ __forceinline__ void token_role(const Sm90FusedParams& p, const List& units, uint32_t smem, const WideEvents<kSummary>& events) {
    using E = WideEvents<kSummary>;
    RecordFactors factors{};  // of the chunk before: they wait for their record, the next tables need not
    auto store_factors = [&](int c) {
        const int lane = fresh_thread() % 32;
        const uint32_t to = record_at<kSummary>(smem, c) + ChunkRecord::kFactors;
        events.wait_free(E::record_free, c);
        store_shared_f4(to + Wide::kBetaRead + 16 * lane, factors.beta.x, factors.read_k.x, factors.beta.y, factors.read_k.y);
        store_shared_f4(to + Wide::kWriteRead + 16 * lane, factors.write_k.x, factors.read_q.x, factors.write_k.y, factors.read_q.y);
        if (lane == 0) store_shared_f(to + Wide::kDecay, factors.decay);
        if constexpr (kSummary) {
            fence_to_async();
            __syncwarp();
            if (lane == 0) hand_over(events, c, to, ChunkRecord::kFactorBytes);
        }
        events.announce(E::record_ready, c);
    };
    int done = 0, table = 0;  // chunks, of all units; the next one's slot
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p.forward, units, unit);) {
        int c, end, left, head;  // chunks, within the row; left: tokens from this chunk on
        StateScale scale{};      // of what the math role has
        ScalarPair gate, beta;
        {
            const Work w = find_work(p.forward, units, unit);
            if (w.skip) continue;
            gate.start(p.forms.gate, w), beta.start(p.forms.beta, w);
            c = static_cast<int>(w.first), end = c + w.chunks, left = tokens_from(w), head = w.head;
        }
        gate.load(p.forms.gate, left), beta.load(p.forms.beta, left);
#pragma unroll 1
        for (; c < end; ++c, ++done, left -= kChunk) {
            const int own = own_number<kSummary>(done), lane = fresh_thread() % 32;
            const TokenPair tokens = resolve(p.forms, gate, beta, left, head);
            gate.load(p.forms.gate, left - kChunk), beta.load(p.forms.beta, left - kChunk);
            // The state after this chunk is asked for as it is behind the last one and where it may be a checkpoint.
            const int64_t after = static_cast<int64_t>(c + 1) * kChunk, interval = p.forward.state.checkpoint_interval;
            const bool plain = !kLazy || c == end - 1 || !kSummary && interval && after % interval == 0;
            if (!is_own<kSummary>(done)) {  // made by the other block: here the scale alone
                if (kLazy) take_up(scale, __shfl_sync(~0u, sum_pairs(tokens.gate, lane).y, 31), plain);
                continue;
            }
            // Of the three slots a summary uses two: there the tables are free before those of the next chunk have been seen, and an event has two slots.
            if (kSummary)
                events.wait_free(E::tables_free, own);
            else if (done >= Wide::kTableSlots)
                events.wait(E::tables_free, done - Wide::kTableSlots);
            else if (done == 2)
                events.wait(E::lower_ready, 0);  // three slots, but an event has two: the first one has been seen
            if (kSummary ? p.forms.qk_norm : kNorms) events.wait(E::norms_ready, own);
            const RecordFactors made = make_tables(p.forms, smem + Wide::kTables + table * Wide::kTableBytes,
                                                   smem + Wide::kNorms + (own & 1) * Wide::kNormBytes, lane, tokens, scale, plain);
            events.announce(E::tables_ready, own);
            if (kSummary) {  // the other block waits for them
                factors = made;
                store_factors(done);
            } else {
                if (done > 0) store_factors(done - 1);
                factors = made;
            }
            table = next_table<kSummary>(table);
        }
    }
    if (!kSummary && done > 0) store_factors(done - 1);
}

// -N of a chunk before the scores of the one before it: scores wait until the recurrence has left their record, -N has the way through the inverse before it.
// Norms two chunks ahead: the token warp then has the tables ready in time. A summary has no scores, and nothing that waits for them.
template <class T, bool kSummary, bool kNorms, class List>
__device__ __forceinline__ void gate_role(const Sm90FusedParams& p, const List& units, uint32_t smem, Ring<Wide::kStages> ring,
                                          const WideEvents<kSummary>& events) {
    using E = WideEvents<kSummary>;
    for (int c = 0; c < (kSummary ? Wide::kSummarySlots : 2); ++c) {
        const uint32_t record = record_at<kSummary>(smem, c);
        SolveAt tiles{};
        tiles.solve = record + ChunkRecord::kSolve, tiles.scores = record + (kSummary ? ChunkRecord::kSolve : ChunkRecord::kScores);
        if (is_own<kSummary>(c)) clear_upper(tiles, thread_of_warpgroup());
    }
    if (kSummary) fence_to_async();  // they are handed over
    // Found anew in every step, else what follows from it is kept over the loop, in registers that are not there.
    auto this_thread = [] {
        const int thread = fresh_thread() % 128;
        return Thread{thread / 32, thread % 32, thread / 32 * 16 + thread % 32 / 4, 2 * (thread % 4)};
    };
    auto place = [&](int own, int table, const Thread& me) {
        const uint32_t scores = kSummary ? 0 : record_at<false>(smem, own) + ChunkRecord::kScores;
        return GateAt{smem + Wide::kLower + (own & 1) * kTileBytes, smem + Wide::kDiagonal + (own & 1) * Wide::kDiagonalBytes, scores,
                      smem + Wide::kTables + table * Wide::kTableBytes, block_lane(me.lane)};
    };
    int done = 0, table = 0;
    auto make_norms = [&](const Ring<Wide::kStages>& at, int c, int left) {
        at.wait_filled();
        measure_norms<T>(smem + at.stage() * Wide::kStageBytes, kSummary ? 1 : 2, smem + Wide::kNorms + (c & 1) * Wide::kNormBytes, this_thread(), p.forms.eps,
                         min(left, kChunk));
        events.announce(E::norms_ready, c);
    };
    auto make_scores = [&](int c, int scored_table) {  // of the chunk before the ring's
        const Thread me = this_thread();
        const Ring<Wide::kStages> scored = ring.before();
        const uint32_t stage = smem + scored.stage() * Wide::kStageBytes;
        const GateAt at = place(c, scored_table, me);
        float d[32], e[8];
        begin_product<T>(d, stage + Wide::kK, stage + Wide::kQ);
        diagonal_gates(e, at, me);
        events.wait_free(E::record_free, c);
        mma_wait<0>(), pin(d);
        if (me.lane == 0) scored.release();
        gate_scores<T>(at, me, e, d);
        fence_to_async();
        events.announce(E::record_ready, c);
        if (me.lane == 0) barrier_arrive(events.at(E::tables_free, c));
    };
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p.forward, units, unit);) {
        int chunks, left;
        {
            const Work w = find_work(p.forward, units, unit);
            if (w.skip) continue;
            chunks = w.chunks, left = tokens_from(w);
        }
        if (!kSummary && kNorms) {
            Ring<Wide::kStages> ahead = ring;
#pragma unroll 1
            for (int c = 0; c < min(chunks, 2); ++c, ahead.advance()) make_norms(ahead, done + c, left - c * kChunk);
        }
#pragma unroll 1
        for (; chunks > 0; --chunks, ++done, left -= kChunk, ring.advance()) {
            if (!is_own<kSummary>(done)) {
                ring.wait_filled();
                if (fresh_thread() % 32 == 0) ring.release();
                continue;
            }
            {
                const int own = own_number<kSummary>(done);
                const Thread me = this_thread();
                const uint32_t stage = smem + ring.stage() * Wide::kStageBytes;
                const GateAt at = place(own, table, me);
                float d[32], e[8];
                ring.wait_filled();
                begin_product<T>(d, stage + Wide::kK, stage + Wide::kK);
                if (kSummary && p.forms.qk_norm) make_norms(ring, own, left);
                events.wait(E::tables_ready, own);
                diagonal_gates(e, at, me);
                events.wait_free(E::lower_free, own);
                mma_wait<0>(), pin(d);
                if (kSummary && me.lane == 0) ring.release();
                gate_lower(at, me, e, d);
                events.announce(E::lower_ready, own);
                if (kSummary && me.lane == 0) barrier_arrive(events.at(E::tables_free, own));
            }
            table = next_table<kSummary>(table);
            if (kSummary) continue;
            if (done > 0) make_scores(done - 1, next_table<kSummary>(table));  // of three slots the one behind the next is the one before
            if (kNorms && chunks > 2) {
                Ring<Wide::kStages> ahead = ring;
                ahead.advance(), ahead.advance();
                make_norms(ahead, done + 2, left - 2 * kChunk);
            }
        }
    }
    if (!kSummary && done > 0) make_scores(done - 1, next_table<kSummary>(next_table<kSummary>(table)));
}

// Each of the two warps has every second chunk, of the block's own in a summary: the inverse is a chain of short steps, and two chunks' chains go on
// beside each other.
template <class T, bool kSummary, class List>
__device__ __forceinline__ void invert_role(const Sm90FusedParams& p, const List& units, uint32_t smem, const WideEvents<kSummary>& events, int slot) {
    using E = WideEvents<kSummary>;
    const uint32_t lower = smem + Wide::kLower + slot * kTileBytes, diagonal = smem + Wide::kDiagonal + slot * Wide::kDiagonalBytes,
                   solve = record_at<kSummary>(smem, kSummary ? 2 * slot + rank_in_pair() : slot) + ChunkRecord::kSolve;
    clear_below(lower, threadIdx.x % 32);
    int done = 0;
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p.forward, units, unit);) {
        int end;
        {
            const Work w = find_work(p.forward, units, unit);
            if (w.skip) continue;
            end = done + w.chunks;
        }
#pragma unroll 1
        for (; done < end; ++done) {
            const int own = own_number<kSummary>(done);
            if (!is_own<kSummary>(done) || (own & 1) != slot) continue;
            const int lane = fresh_thread() % 32;
            const Inverter x{lane, block_lane(lane), lower, diagonal, solve};
            events.wait(E::lower_ready, own);
            invert_diagonal_blocks(x);
            events.wait_free(kSummary ? E::record_free : E::solve_free, done);
            merge_blocks<T>(x);
            store_below_diagonal<T>(x);
            events.announce(E::lower_free, own);
            fence_to_async();
            if constexpr (kSummary) {
                __syncwarp();
                if (lane == 0) hand_over(events, done, solve, kTileBytes);
            }
            events.announce(E::record_ready, done);
        }
    }
}

// Two warpgroups that do the same take turns in starting a chunk: else they do each step at the same time, and while both do arithmetic the tensor
// cores wait.
struct Turn {
    int group;
    __device__ __forceinline__ void begin() const {
        if (group == 1) pass();
    }
    __device__ __forceinline__ void wait() const { sync_threads(kTurnBarrier + group, 256); }
    __device__ __forceinline__ void pass() const { arrive_threads(kOtherTurnBarrier - group, 256); }
    __device__ __forceinline__ void end() const {
        if (group == 0) wait();
    }
};

// Math role: 64 rows of V a warpgroup. One keeps the tensor cores busy while the other does its arithmetic, so the order is the one that takes the
// fewest registers (192): both products of the state together, then X, U, S and P U.
//
// The state is kept as S / 2^L: a record's factors hold the 2^L (token_role), so that the registers need not be scaled in every chunk. Where they
// must be, `decay` says by how much. Inside the inner loop nothing but products writes S: a scaling there makes ptxas move all of it twice a chunk.
template <class T, bool kSummary, class List>
__device__ __forceinline__ void math_role(const Sm90ForwardParams& p, const List& units, uint32_t smem, Ring<Wide::kStages> ring,
                                          const WideEvents<kSummary>& events) {
    using E = WideEvents<kSummary>;
    const int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    // Found anew where it is needed, which is seldom: kept, it would cost the loop registers.
    auto mine = [&] {
        const int thread = fresh_thread();
        return StateAt{thread / 32 * 16 + thread % 32 / 4, 2 * (thread % 4)};
    };
    // This lane's row of a 16 x 16 block of V, and of the output, of 64 tokens x 64 rows of V.
    const uint32_t block =
        smem + Wide::kValues + group * kTileBytes + ((lane >> 4) * 8 + (lane & 7)) * 128 + (((2 * warp + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
    float S[64];
    uint32_t Sb[32];
    int done = 0;  // chunks, of all units
    const Turn turn{group};
    turn.begin();
    const bool is_map = kSummary && rank_in_pair() == 1;
    // The next record's decay, once the record is there.
    auto next_decay = [&] {
        if (kSummary && threadIdx.x == 0 && !is_own<kSummary>(done)) barrier_expect(events.at(E::record_ready, done), kTileBytes + ChunkRecord::kFactorBytes);
        events.wait(E::record_ready, done);
        return load_shared_f(record_at<kSummary>(smem, done) + ChunkRecord::kFactors + Wide::kDecay);
    };
    auto pack_state = [&] {
#pragma unroll
        for (int i = 0; i < 32; ++i) Sb[i] = pack(T{}, S[2 * i], S[2 * i + 1]);
    };
#pragma unroll 1
    for (int unit = before_first(units); next_unit(p, units, unit);) {
        int left;  // chunks
        {
            const Work w = find_work(p, units, unit);
            if (w.skip) continue;
            const StateAt at = mine();
#pragma unroll
            for (int i = 0; i < 64; ++i) S[i] = is_map && at.v0 + 8 * ((i >> 1) & 1) == at.k0 + 8 * (i >> 2) + (i & 1) ? 1.f : 0.f;
            if constexpr (kOfStretches<List>) {
                if (!is_map && w.from != kFromZero) load_matrix(S, p.segment_states + static_cast<int64_t>(w.from) * (kHeadDim * kHeadDim), at);
            } else {
                const int64_t slot = row_slots(p.state, w.row).read;
                if (slot != kNoSlot) load_state(S, p, slot, w.head, at);
            }
            left = w.chunks;
        }
        pack_state();
        float decay = 1.f;
        if (left > 0) decay = next_decay();
#pragma unroll 1
        while (left > 0) {
#pragma unroll
            for (int i = 0; i < 64; ++i) S[i] *= decay;
#pragma unroll 1
            do {
                const uint32_t at = smem + ring.stage() * Wide::kStageBytes, record = record_at<kSummary>(smem, done),
                               factors = record + ChunkRecord::kFactors + lane % 4 * 16;
                ring.wait_filled();
                // Y^T = S^T K^T beside O^T = S^T Q^T; a summary has no O
                float u[32], o[32];
                uint32_t xb[16], us[16];
                turn.wait();
                pin(Sb), mma_begin();
#pragma unroll
                for (int s = 0; s < 8; ++s) multiply_state<T, Wide>(s, u, Sb, at, Wide::kK);
                if constexpr (!kSummary) {
#pragma unroll
                    for (int s = 0; s < 8; ++s) multiply_state<T, Wide>(s, o, Sb, at, Wide::kQ);
                }
                mma_commit();
                turn.pass();
                mma_wait<0>();
                pin(u);
                if constexpr (!kSummary) pin(o);
                const uint32_t values = block + (done & 1) * 2 * kTileBytes;
                // X^T = beta V^T - read_k Y^T
                if (!is_map) events.wait(E::values_ready, done);
#pragma unroll
                for (int s = 0; s < 4; ++s) {
                    uint32_t v[4];
                    load_matrices_across(v, values + s * 2048);
#pragma unroll
                    for (int j = 2 * s; j < 2 * s + 2; ++j) {
                        const float4 f = load_shared_f4(factors + Wide::kBetaRead + 64 * j);  // beta, read_k of two tokens
#pragma unroll
                        for (int i = 2 * j; i < 2 * j + 2; ++i) {
                            const float2 x = unpack(T{}, is_map ? 0u : v[i - 4 * s]);
                            u[2 * i] = f.x * x.x - f.y * u[2 * i], u[2 * i + 1] = f.z * x.y - f.w * u[2 * i + 1];
                            xb[i] = pack(T{}, u[2 * i], u[2 * i + 1]);
                        }
                    }
                }
                if (kSummary && !is_map) events.announce(E::output_ready, done);  // values have been read
                // U^T = X^T + X^T strict(A)^T; behind it: what O starts from
                pin(u), pin(xb), mma_begin();
#pragma unroll
                for (int s = 0; s < 4; ++s) mma_n64(T{}, u, xb + 4 * s, tile_descriptor_at(record, ChunkRecord::kSolve + s * 32), true);
                mma_commit();
                float4 f[8];  // write_k, read_q of two tokens
#pragma unroll
                for (int j = 0; j < 8; ++j) {
                    f[j] = load_shared_f4(factors + Wide::kWriteRead + 64 * j);
                    if constexpr (!kSummary) o[4 * j] *= f[j].y, o[4 * j + 1] *= f[j].w, o[4 * j + 2] *= f[j].y, o[4 * j + 3] *= f[j].w;
                }
                mma_wait<0>();
                pin(u);
                if (!kSummary && lane == 0) barrier_arrive(events.at(E::solve_free, done));
#pragma unroll
                for (int i = 0; i < 16; ++i) {
                    us[i] = pack(T{}, u[2 * i] * f[i / 2].x, u[2 * i + 1] * f[i / 2].z);
                    if constexpr (!kSummary) xb[i] = pack(T{}, u[2 * i], u[2 * i + 1]);
                }
                // All of the record has been read.
                if (kSummary && lane == 0) remote_arrive(remote_address(events.at(E::record_free, done), done & 1));
                // S^T = S^T + (write_k U^T) K, O^T = read_q O^T + U^T P^T
                pin(S), pin(us), mma_begin();
#pragma unroll
                for (int s = 0; s < 4; ++s) mma_n128_columns(T{}, S, us + 4 * s, tile_descriptor_at(at, Wide::kK + s * 2048, Wide::kHalf));
                mma_commit();
                if constexpr (kSummary) {
                    mma_wait<0>(), pin(S);
                    if (lane == 0) ring.release();
                    pack_state();
                } else {
                    pin(o), pin(xb), mma_begin();
#pragma unroll
                    for (int s = 0; s < 4; ++s) mma_n64(T{}, o, xb + 4 * s, tile_descriptor_at(record, ChunkRecord::kScores + s * 32), true);
                    mma_commit();
                    mma_wait<1>(), pin(S);
                    if (lane == 0) ring.release();
                    pack_state();
                    mma_wait<0>(), pin(o);  // nothing in flight over the back edge, or ptxas serialises (C7514)
                    if (lane == 0) barrier_arrive(events.at(E::record_free, done));
#pragma unroll
                    for (int i = 0; i < 16; ++i) xb[i] = pack(T{}, o[2 * i], o[2 * i + 1]);
#pragma unroll
                    for (int s = 0; s < 4; ++s) store_matrices_across(values + s * 2048, xb + 4 * s);
                    fence_to_async();
                    events.announce(E::output_ready, done);
                }
                ring.advance(), ++done, --left;
                if (!kSummary && p.state.checkpoint_interval) {
                    const Work w = find_work(p, units, unit);
                    const int c = w.chunks - left - 1;
                    if (!kOfStretches<List> || c >= w.quiet) store_checkpoint(S, p, w, c, mine());
                }
                if (left == 0) break;
                decay = next_decay();
            } while (decay == 1.f);
        }
        const Work w = find_work(p, units, unit);
        if constexpr (kSummary) {
            store_matrix(S, (is_map ? p.segment_maps : p.segment_states) + static_cast<int64_t>(w.to) * (kHeadDim * kHeadDim), mine());
        } else {
            const int64_t slot = row_slots(p.state, w.row).write;
            if (w.last && slot != kNoSlot) store_state(S, p, slot, w.head, mine());
        }
    }
    turn.end();
}

// Loads k and q as far ahead as there are stages, v two chunks ahead; stores outputs as they come, from where v was. A summary has neither q nor
// outputs, and for its transitions no v.
template <bool kSummary, class List>
__device__ __forceinline__ void copy_role(const Sm90ForwardParams& p, const List& units, uint32_t smem, Ring<Wide::kStages> ring,
                                          const WideEvents<kSummary>& events) {
    using E = WideEvents<kSummary>;
    const bool leader = threadIdx.x % 32 == 0;
    const uint32_t tail = smem + Wide::kTail;
    uint32_t tail_phase = 0;
    Cursor<List> keys{before_first(units)};
    keys.enter(p, units);
    Cursor<List> values = keys, outputs = keys;
    auto load_keys = [&] {
        ring.wait_free();
        const uint32_t to = smem + ring.stage() * Wide::kStageBytes, bar = keys.is_ragged(p) ? tail : ring.filled();
        if (leader) {
            const int key_head = key_head_of(p, keys.head);
            barrier_expect(bar, kSummary ? Wide::kStageBytes / 2 : Wide::kStageBytes);
#pragma unroll 1
            for (int half = 0; half < 2; ++half) {
                load_box(to + half * Wide::kHalf + Wide::kK, p.k, 64 * half, key_head, keys.token, keys.row, bar);
                if (!kSummary) load_box(to + half * Wide::kHalf + Wide::kQ, p.q, 64 * half, key_head, keys.token, keys.row, bar);
            }
        }
        if (keys.is_ragged(p)) finish_ragged(tail, tail_phase, to + Wide::kK, Wide::kHalf, keys.left, ring.filled());
        ring.advance();
        keys.advance(p, units);
    };
    auto load_values = [&](int c) {
        const uint32_t to = smem + Wide::kValues + (c & 1) * 2 * kTileBytes, bar = values.is_ragged(p) ? tail : events.at(E::values_ready, c);
        if (leader) {
            barrier_expect(bar, 2 * kTileBytes);
#pragma unroll 1
            for (int half = 0; half < 2; ++half) load_box(to + half * kTileBytes, p.v, 64 * half, values.head, values.token, values.row, bar);
        }
        if (values.is_ragged(p)) finish_ragged(tail, tail_phase, to, kTileBytes, values.left, events.at(E::values_ready, c));
        values.advance(p, units);
    };
    for (int unit = before_first(units); !kSummary && next_unit(p, units, unit);) {
        const Work w = find_work(p, units, unit);
        if (w.skip) clear_output(p, w, 0), clear_output(p, w, 64);
    }
    if (kSummary && rank_in_pair() == 1) {
        while (keys.more()) load_keys();
        return;
    }
    int loaded = 0, valued = 0;  // chunks whose k and q, whose v are on their way
#pragma unroll 1
    for (int c = 0; outputs.more(); ++c) {
        for (; loaded < c + Wide::kStages && keys.more(); ++loaded) load_keys();
        if (c > 0 && leader) wait_stores_read();  // of the chunk before; behind the loads, which are more urgent
        __syncwarp();
        for (; valued < c + 2 && values.more(); ++valued) load_values(valued);
        events.wait(E::output_ready, c);
        const uint32_t from = smem + Wide::kValues + (c & 1) * 2 * kTileBytes;
#pragma unroll 1
        for (int half = 0; !kSummary && half < 2; ++half) {
            if (kOfStretches<List> && outputs.quiet > 0) break;
            if (outputs.left >= kChunk) {
                if (leader) store_box(p.o, from + half * kTileBytes, 64 * half, outputs.head, outputs.token, outputs.row);
            } else {
                const Work w = find_work(p, units, outputs.unit);
                store_output(p, w, w.chunks - 1, 64 * half, from + half * kTileBytes);
            }
        }
        if (leader) commit_stores();
        __syncwarp();
        outputs.advance(p, units);
    }
    if (leader) wait_stores_read();  // the shared memory is the block's until it ends
}

enum class Walk { rows, mixed_rows, cut };

template <class T, bool kSummary, bool kNorms, Walk kWalk>
__device__ __forceinline__ void fuse_wide(const Sm90FusedParams& p) {
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory);
    const Ring<Wide::kStages> ring(smem + Wide::kBarriers);
    const WideEvents<kSummary> events{smem + Wide::kEventBarriers};
    // Made by every role for itself: what lives across the branch would have to fit into the smallest register share.
    auto units = [&] {
        if constexpr (kWalk == Walk::cut)
            return Stretches<kSummary>{};
        else
            return units_in_turn(p.forward, 1, p.forward.segments, kWalk == Walk::rows);  // segments: 1; with the constant ptxas spills
    };
    let_successor_start();
    if (threadIdx.x == 0) {
        ring.init(1, 12);  // math and gate warps
        barrier_init(smem + Wide::kTail, 1);
        events.init();
        barrier_init_fence();
    }
    __syncthreads();
    if constexpr (kSummary) sync_cluster();
    if constexpr (kWalk == Walk::cut) wait_for_predecessor();
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    if (warp < 8) {
        take_registers<kSummary ? 176 : 192>();
        math_role<T, kSummary>(p.forward, units(), smem, ring, events);
    } else if (warp < 12) {
        give_registers<kWalk == Walk::cut && !kSummary ? 72 : 80>();
        gate_role<T, kSummary, kNorms>(p, units(), smem, ring, events);
    } else {
        give_registers<kSummary ? 72 : kWalk == Walk::cut ? 56 : 48>();
        if (warp < 14)
            invert_role<T, kSummary>(p, units(), smem, events, warp - 12);
        else if (warp == 14)
            copy_role<kSummary>(p.forward, units(), smem, ring, events);
        else
            token_role<std::is_same<T, Bf16>::value, kSummary, kNorms>(p, units(), smem, events);
    }
    if constexpr (kSummary) {
        __syncwarp();
        sync_cluster();  // the other block may still write or arrive here
    }
}

}  // namespace
}  // namespace fqla::sm90

// Norms have kernels of their own, since their code slows those that do not want it; a summary asks when it runs.
#define FQLA_FUSED_WIDE(name, T, summary, norms, walk, cluster)                                                                                 \
    extern "C" __global__ void cluster __launch_bounds__(fqla::WideLayout::kThreads, 1) name(const __grid_constant__ fqla::Sm90FusedParams p) { \
        fqla::sm90::fuse_wide<fqla::sm90::T, summary, norms, fqla::sm90::Walk::walk>(p);                                                        \
    }
FQLA_FUSED_WIDE(gdn_fused_bf16_v128, Bf16, false, false, rows, )
FQLA_FUSED_WIDE(gdn_fused_f16_v128, F16, false, false, rows, )
FQLA_FUSED_WIDE(gdn_fused_bf16_v128_mixed, Bf16, false, false, mixed_rows, )
FQLA_FUSED_WIDE(gdn_fused_f16_v128_mixed, F16, false, false, mixed_rows, )
FQLA_FUSED_WIDE(gdn_fused_bf16_v128_cut, Bf16, false, false, cut, )
FQLA_FUSED_WIDE(gdn_fused_f16_v128_cut, F16, false, false, cut, )
FQLA_FUSED_WIDE(gdn_fused_bf16_v128_l2, Bf16, false, true, rows, )
FQLA_FUSED_WIDE(gdn_fused_f16_v128_l2, F16, false, true, rows, )
FQLA_FUSED_WIDE(gdn_fused_bf16_v128_l2_mixed, Bf16, false, true, mixed_rows, )
FQLA_FUSED_WIDE(gdn_fused_f16_v128_l2_mixed, F16, false, true, mixed_rows, )
FQLA_FUSED_WIDE(gdn_fused_bf16_v128_l2_cut, Bf16, false, true, cut, )
FQLA_FUSED_WIDE(gdn_fused_f16_v128_l2_cut, F16, false, true, cut, )
FQLA_FUSED_WIDE(gdn_fused_summary_bf16, Bf16, true, false, cut, __cluster_dims__(2, 1, 1))
FQLA_FUSED_WIDE(gdn_fused_summary_f16, F16, true, false, cut, __cluster_dims__(2, 1, 1))
