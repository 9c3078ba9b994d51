// What the roles of backward_gradients.cu share: items, events, and where things lie; and the load role.
#pragma once
#include "chunk.cuh"
#include "registers.cuh"
#include "ring.cuh"
#include "scalar.cuh"
#include "sm90_backward_params.h"
#include "tile.cuh"
#include "tma.cuh"

namespace fqla::sm90 {

constexpr int kMathWarps = 12;

struct Item {
    int64_t row, slot, token, begin;  // first token within the row; of the row within the tensors
    int32_t key_head, valid;          // tokens; kNoMoreItems behind the last item
    int32_t skip;                     // PAD: gradients are zero
    int32_t carried;                  // its row's first, from a state: the chains have made <S, D>
};
static_assert(sizeof(Item) == GradientLayout::kItemBytes, "layout");
constexpr int32_t kNoMoreItems = -1;

// A ring without a cursor: its user counts what it has gone through, so that rings in step share one count (and registers).
template <int Stages>
struct Slots {
    uint32_t at;

    __device__ __forceinline__ static uint32_t stage(uint32_t n) { return n % Stages; }
    __device__ __forceinline__ uint32_t filled(uint32_t n) const { return at + 8 * stage(n); }
    __device__ __forceinline__ void wait_filled(uint32_t n) const { barrier_wait(filled(n), n / Stages & 1); }
    __device__ __forceinline__ void wait_free(uint32_t n) const { barrier_wait(filled(n) + 8 * Stages, (n / Stages & 1) ^ 1); }
    __device__ __forceinline__ void release(uint32_t n) const { barrier_arrive(filled(n) + 8 * Stages); }
    // By every warp of a role that reads it.
    __device__ __forceinline__ void give_back(uint32_t n) const {
        __syncwarp();
        if (threadIdx.x % 32 == 0) release(n);
    }
};

// Readers: q, k the math warps; tokens these and the small betas' warp; S the key warps and this one; D the key warps; factors all of these and the
// finishing warp; sums the latter, made by the math warps and the small betas'; what the score warps leave, the key warps.
struct Events {
    uint32_t at;
    uint32_t item = 0, key = 0, head = 0;  // gone through, of all: items; those that have q and k; heads

    __device__ __forceinline__ Slots<GradientLayout::kPhases> items() const { return {at}; }
    __device__ __forceinline__ Slots<1> keys() const { return {at + 32}; }
    __device__ __forceinline__ Slots<GradientLayout::kTokenStages> tokens() const { return {at + 48}; }
    __device__ __forceinline__ Slots<1> state() const { return {at + 80}; }
    __device__ __forceinline__ Slots<1> gradient() const { return {at + 96}; }
    __device__ __forceinline__ Slots<GradientLayout::kPhases> factors() const { return {at + 112}; }
    __device__ __forceinline__ Slots<GradientLayout::kPhases> sums() const { return {at + 144}; }
    __device__ __forceinline__ Slots<1> scores() const { return {at + 176}; }
    __device__ __forceinline__ uint32_t keys_tail() const { return at + 192; }
    __device__ __forceinline__ uint32_t tokens_tail() const { return at + 200; }

    __device__ __forceinline__ void init() const {
        Ring<GradientLayout::kPhases>(items().at).init(1, kMathWarps + 3), Ring<1>(keys().at).init(1, kMathWarps);
        Ring<GradientLayout::kTokenStages>(tokens().at).init(1, kMathWarps + 1), Ring<1>(state().at).init(1, 8 + 1), Ring<1>(gradient().at).init(1, 8);
        Ring<GradientLayout::kPhases>(factors().at).init(1, kMathWarps + 2), Ring<GradientLayout::kPhases>(sums().at).init(kMathWarps + 1, 1);
        Ring<1>(scores().at).init(4, 8);
        barrier_init(keys_tail(), 1), barrier_init(tokens_tail(), 1);
    }
};
static_assert(GradientLayout::kPhases == 2 && GradientLayout::kTokenStages == 2 && GradientLayout::kBytes - GradientLayout::kBarriers == 208, "Events");

// Each role's own counts, from zeros of its own.
__device__ __forceinline__ Events counted_anew(Events on) {
    on.item = fresh_zero(), on.key = fresh_zero(), on.head = fresh_zero();
    return on;
}

// Of head `n`, in shared memory.
__device__ __forceinline__ uint32_t tokens_of(uint32_t smem, uint32_t n) {
    return smem + GradientLayout::kTokens + n % GradientLayout::kTokenStages * GradientLayout::kTokenBytes;
}
__device__ __forceinline__ uint32_t factors_of(uint32_t smem, uint32_t n) {
    return smem + GradientLayout::kFactors + n % GradientLayout::kPhases * GradientLayout::kFactorBytes;
}
__device__ __forceinline__ uint32_t sums_of(uint32_t smem, uint32_t n) {
    return smem + GradientLayout::kSums + n % GradientLayout::kPhases * GradientLayout::kSumBytes;
}

__device__ __forceinline__ int heads_per_key(const Form& form) { return form.value_heads / form.key_heads; }
__device__ __forceinline__ int head_of(const Form& form, int key_head, int i) {
    return form.head_map == FLASHQLA_HEADS_TILED ? key_head + i * form.key_heads : key_head * heads_per_key(form) + i;
}

__device__ __forceinline__ int64_t token_offset(const View& x, const Item& item, int64_t token, int head) {
    return element_offset(x, item.row, {item.begin, 0}, item.token + token, head);
}

// ------------------------------------------------------------------------------------------------------------------------------ load role

__device__ __forceinline__ void load_rows(uint32_t to, const TensorMap& map, int head, const Item& item, bool offsets, uint32_t bar) {
    const int t = static_cast<int>(item.token + item.begin), n = offsets ? 0 : static_cast<int>(item.row);
    load_box(to, map, 0, head, t, n, bar), load_box(to + kTileBytes, map, 64, head, t, n, bar);
}

// Behind a row's end boxes hold other rows' tokens: zeros take their place before the stage is announced.
__device__ __forceinline__ void finish_ragged(uint32_t tail, uint32_t& phases, int which, uint32_t first, uint32_t second, int valid, uint32_t filled) {
    const int lane = threadIdx.x % 32;
    barrier_wait(tail, phases >> which & 1);
    phases ^= 1u << which;
    for (int piece = valid * 8 + lane; piece < kChunk * 8; piece += 32)
#pragma unroll
        for (int half = 0; half < 2; ++half)
            store_shared_zero16(first + half * kTileBytes + 16 * piece), store_shared_zero16(second + half * kTileBytes + 16 * piece);
    fence_to_async();
    __syncwarp();
    if (lane == 0) barrier_arrive(filled);
}

__device__ __forceinline__ void load_head(const Sm90GradientParams& p, const Item& item, int head, uint32_t smem, Events& on, uint32_t& phases) {
    const bool offsets = p.call.rows.offsets, ragged = offsets && item.valid < kChunk, leader = threadIdx.x % 32 == 0;
    const int64_t place = item.slot * p.call.form.value_heads + head;
    const uint32_t to = tokens_of(smem, on.head);
    on.tokens().wait_free(on.head);
    if (leader) {
        const uint32_t bar = ragged ? on.tokens_tail() : on.tokens().filled(on.head);
        barrier_expect(bar, GradientLayout::kTokenBytes);
        load_rows(to + GradientLayout::kDOut, p.d_out, head, item, offsets, bar);
        if (p.dv_tiles)
            load_bytes(to + GradientLayout::kDv, static_cast<const char*>(p.dv_tiles) + place * BackwardTiles::kTokensBytes, BackwardTiles::kTokensBytes, bar);
        else
            load_rows(to + GradientLayout::kDv, p.dv, head, item, offsets, bar);
        load_bytes(to + GradientLayout::kU, static_cast<const char*>(p.updates) + place * BackwardTiles::kTokensBytes, BackwardTiles::kTokensBytes, bar);
    }
    if (ragged) finish_ragged(on.tokens_tail(), phases, 1, to + GradientLayout::kDOut, to + GradientLayout::kDv, item.valid, on.tokens().filled(on.head));
    on.state().wait_free(on.head);
    if (leader) {
        barrier_expect(on.state().filled(0), BackwardTiles::kMatrixBytes);
        load_bytes(smem + GradientLayout::kState, static_cast<const char*>(p.states) + place * BackwardTiles::kMatrixBytes, BackwardTiles::kMatrixBytes,
                   on.state().filled(0));
    }
    on.gradient().wait_free(on.head);
    if (leader) {
        barrier_expect(on.gradient().filled(0), BackwardTiles::kMatrixBytes);
        load_bytes(smem + GradientLayout::kGradient, static_cast<const char*>(p.gradients) + place * BackwardTiles::kMatrixBytes, BackwardTiles::kMatrixBytes,
                   on.gradient().filled(0));
    }
    ++on.head;
}

__device__ __forceinline__ void load_keys(const Sm90GradientParams& p, const Item& item, uint32_t smem, Events& on, uint32_t& phases) {
    const bool offsets = p.call.rows.offsets, ragged = offsets && item.valid < kChunk;
    on.keys().wait_free(on.key);
    if (threadIdx.x % 32 == 0) {
        const uint32_t bar = ragged ? on.keys_tail() : on.keys().filled(0);
        barrier_expect(bar, 4 * kTileBytes);
        load_rows(smem + GradientLayout::kQ, p.q, item.key_head, item, offsets, bar);
        load_rows(smem + GradientLayout::kK, p.k, item.key_head, item, offsets, bar);
    }
    if (ragged) finish_ragged(on.keys_tail(), phases, 0, smem + GradientLayout::kQ, smem + GradientLayout::kK, item.valid, on.keys().filled(0));
    ++on.key;
}

__device__ __forceinline__ void publish(const Item& item, Item* items, Events& on) {
    on.items().wait_free(on.item);
    if (threadIdx.x % 32 == 0) {
        items[on.item % GradientLayout::kPhases] = item;
        barrier_arrive(on.items().filled(on.item));
    }
    ++on.item;
}

__device__ __forceinline__ void load_role(const Sm90GradientParams& p, uint32_t smem, Item* items, Events on) {
    const Form& form = p.call.form;
    const int lane = threadIdx.x % 32;
    uint32_t phases = 0;
#pragma unroll 1
    for (int64_t i = p.window.first * form.key_heads + blockIdx.x; i < p.window.end * form.key_heads; i += gridDim.x) {
        const int64_t slot = i / form.key_heads;
        const int key_head = static_cast<int>(i - slot * form.key_heads);
        const ChunkPlace at = place_of(p.call.rows, slot);
        if (at.row < 0) {  // nobody's slot
            if (p.partial_sums)
                for (int h = lane; h < p.heads; h += 32)
                    *reinterpret_cast<float2*>(p.partial_sums + (slot * form.value_heads + head_of(form, key_head, h)) * 2) = {0.f, 0.f};
            continue;
        }
        const int64_t token = at.chunk * kChunk, left = at.tokens.length - token;
        const RowSlots slots = row_slots(p.call.state, at.row);
        const int32_t valid = static_cast<int32_t>(left < kChunk ? left : kChunk), carried = p.first_carries && token == 0 && slots.read != kNoSlot;
        const Item item{at.row, slot, token, at.tokens.begin, key_head, valid, slots.skip, carried};
        publish(item, items, on);
        if (item.skip) continue;
#pragma unroll 1
        for (int h = 0; h < p.heads; ++h) {
            load_head(p, item, head_of(form, key_head, h), smem, on, phases);
            if (h == 0) load_keys(p, item, smem, on, phases);
        }
    }
    publish({0, 0, 0, 0, 0, kNoMoreItems, 0, 0}, items, on);
}

}  // namespace fqla::sm90
