// Both recurrences of the backward, token by token as the recurrent forward does them (one warp: all keys of a few value columns), side by
// side in one launch:
//   forward   S from the row's start:   e = v - S'^T k,  u = beta e,  S = S' + k u^T        keeps e, and S at every chunk's start
//   reverse   D = dL/dS from the end:   D += s q do^T,  du = D^T k,  dv = beta du,  D = exp(g) (D - k dv^T)
//                                                                                           keeps du, and D at every chunk's end
// dv leaves from here. All else sums over V and is left to gdn_backward_chunks, which has every chunk at once.
#pragma once
#include "backward_rows.cuh"
#include "state_tile.cuh"
#include "token_gates.cuh"
#include "token_stream.cuh"

namespace fqla {

constexpr int kScanWarps = BackwardLayout::kScanWarps;

template <int kMaxKeyDim, int kColumns_>
struct ScanConfig {
    using Tile = AnyState<kMaxKeyDim, kColumns_>;
    using Tokens = AnyTokens<kMaxKeyDim, Tile::kColumns * kGroups>;
    static constexpr int kColumns = Tile::kColumns, kKeys = Tile::kKeys;
    static_assert(kColumns * kGroups == BackwardLayout::kScanColumns, "as the planner cuts V");
    static constexpr int kLanesPerSum = kParts / kColumns;  // lanes that end up with the same column's sum
};

// Where a warp is.
struct ScanPlace {
    int64_t n;
    int32_t head;
    int first_column, lane, group, part;
    int my_column;  // of the tile: the one whose sum this lane gets
    bool mine;      // that column exists, and no other lane writes it
};

template <class C>
__device__ __forceinline__ ScanPlace scan_place(const BackwardParams& p, int64_t n, uint32_t block) {
    ScanPlace at;
    at.n = n;
    at.head = block / static_cast<uint32_t>(p.tiles);
    at.lane = threadIdx.x % kWarp;
    at.group = at.lane / kParts;
    at.part = at.lane % kParts;
    at.first_column = (block % static_cast<uint32_t>(p.tiles) * (blockDim.x / kWarp) + threadIdx.x / kWarp) * (C::kColumns * kGroups);
    at.my_column = C::kColumns * at.group + at.part / C::kLanesPerSum;
    at.mine = at.part % C::kLanesPerSum == 0 && at.first_column + at.my_column < p.call.form.value_dim;
    return at;
}

// f(element, address) over the tile's elements of a head's [K, V] matrix in the workspace.
template <class C, class F>
__device__ __forceinline__ void each_in(const Form& form, const ScanPlace& at, float (&s)[C::kColumns][C::kKeys], float* matrix, F&& f) {
    C::Tile::each(form.key_dim, form.value_dim, FLASHQLA_STATE_KV, at.first_column, at.group, at.part, s, [&](float& x, int place) { f(x, matrix + place); });
}

// The same over a head of d_final or d_initial.
template <class C, class F>
__device__ __forceinline__ void each_in_view(const Form& form, const ScanPlace& at, float (&s)[C::kColumns][C::kKeys], const View& view, F&& f) {
    const int64_t head = at.n * view.row + at.head * view.head;
    C::Tile::each(form.key_dim, form.value_dim, form.state_layout, at.first_column, at.group, at.part, s, [&](float& x, int place) { f(x, head + place); });
}

__device__ __forceinline__ int64_t head_matrix(const Form& form, int64_t index, int32_t head) {
    return (index * form.value_heads + head) * form.key_dim * form.value_dim;
}

template <class C>
__device__ __forceinline__ void forward_scan_role(const BackwardParams& p, const ScanPlace& at, const SegmentRow& r, const RowSlots& slots,
                                                  typename C::Tokens::Shared& shared) {
    const Backward& call = p.call;
    const Form& form = call.form;
    float s[C::kColumns][C::kKeys] = {};
    // Segments are found by a walk over the whole row; within a segment the walk starts from what that found.
    const int64_t begin = p.find_segments ? 0 : r.begin, end = p.find_segments ? r.row.length : r.end;
    if (begin == 0) {
        if (slots.read != kNoSlot) {
            typename C::Tile::Loading loading;
            loading.start(form, call.state.read, slots.read, at.head, at.first_column, at.group, at.part);
            loading.finish(s);
        }
    } else {
        each_in<C>(form, at, s, p.segment_states + head_matrix(form, p.segment, at.head), [](float& x, float* from) { x = *from; });
    }

    const RowTokens tokens_here{r.row.begin + begin, end - begin};
    typename C::Tokens tokens(
        shared, token_source(form, call.in, call.in.v, tokens_here, at.n, at.head, key_head_of(form, at.head), at.first_column, C::kColumns * kGroups),
        at.lane);
    TokenGates gates(form, call.in, tokens_here, at.n, at.head, at.lane);
    gates.begin();
    for (int64_t t = 0; t < tokens_here.length; ++t) {
        const int64_t slot = r.slot + (begin + t) / kBackwardChunk;  // of this token's chunk
        const int64_t token = (slot - p.first_slot) * kBackwardChunk + (begin + t) % kBackwardChunk;
        if (t % kBackwardChunk == 0) {
            float* to = nullptr;
            if (!p.find_segments)
                to = p.chunk_states + head_matrix(form, slot - p.first_slot, at.head);
            else if (t && slot % p.slots == 0)
                to = p.segment_states + head_matrix(form, slot / p.slots, at.head);
            if (to) each_in<C>(form, at, s, to, [](float& x, float* place) { *place = x; });
        }
        tokens.advance(t);
        gates.advance(t);

        float k[C::kKeys], kk = 0.f, sums[C::kColumns] = {};
#pragma unroll
        for (int i = 0; i < C::kKeys; ++i) {
            float x[1];
            tokens.read_k(C::Tile::key(at.part, i), x);
            k[i] = x[0];
            kk = fmaf(k[i], k[i], kk);
#pragma unroll
            for (int c = 0; c < C::kColumns; ++c) sums[c] = fmaf(s[c][i], k[i], sums[c]);
        }
        const float sum = scatter_sums(sums, at.part);
        const float k_factor = inverse_norm(form, sum_over_parts(kk));
        // e = v - exp(g) S^T k
        const float e = tokens.read_v(at.my_column) - gates.decay * k_factor * sum;
        if (at.mine && !p.find_segments) p.residuals[(token * form.value_heads + at.head) * form.value_dim + at.first_column + at.my_column] = e;
            // S = exp(g) S + k (beta e)^T
#pragma unroll
        for (int c = 0; c < C::kColumns; ++c) {
            const float u = k_factor * gates.beta * __shfl_sync(kAllLanes, e, at.group * kParts + c * C::kLanesPerSum);
#pragma unroll
            for (int i = 0; i < C::kKeys; ++i) s[c][i] = fmaf(k[i], u, gates.decay * s[c][i]);
        }
    }
}

template <class C>
__device__ __forceinline__ void reverse_scan_role(const BackwardParams& p, const ScanPlace& at, const SegmentRow& r, typename C::Tokens::Shared& shared) {
    const Backward& call = p.call;
    const Form& form = call.form;
    float d[C::kColumns][C::kKeys] = {};
    if (r.end == r.row.length) {
        if (call.d_final.data)
            each_in_view<C>(form, at, d, call.d_final, [&](float& x, int64_t place) { x = load_scalar(call.d_final.data, call.d_final.dtype, place); });
    } else {
        each_in<C>(form, at, d, p.carried_gradient + head_matrix(form, (p.segment + 1) & 1, at.head), [](float& x, float* from) { x = *from; });
    }

    const RowTokens tokens_here{r.row.begin + r.begin, r.end - r.begin};
    typename C::Tokens tokens(
        shared, token_source(form, call.in, call.d_out, tokens_here, at.n, at.head, key_head_of(form, at.head), at.first_column, C::kColumns * kGroups),
        at.lane, true);
    TokenGates gates(form, call.in, tokens_here, at.n, at.head, at.lane, true);
    gates.begin();
    const float scale = static_cast<float>(form.scale);
    for (int64_t back = 0; back < tokens_here.length; ++back) {
        const int64_t t = r.end - 1 - back;  // of the row
        const int64_t slot = r.slot + t / kBackwardChunk - p.first_slot;
        const int64_t token = slot * kBackwardChunk + t % kBackwardChunk;
        if (back == 0 || (t + 1) % kBackwardChunk == 0)
            each_in<C>(form, at, d, p.chunk_gradients + head_matrix(form, slot, at.head), [](float& x, float* place) { *place = x; });
        tokens.advance(back);
        gates.advance(back);

        float k[C::kKeys], q[C::kKeys], kk = 0.f, qq = 0.f, kq = 0.f, sums[C::kColumns] = {};
#pragma unroll
        for (int i = 0; i < C::kKeys; ++i) {
            float x[1];
            tokens.read_k(C::Tile::key(at.part, i), x);
            k[i] = x[0];
            tokens.read_q(C::Tile::key(at.part, i), x);
            q[i] = x[0];
            kk = fmaf(k[i], k[i], kk);
            qq = fmaf(q[i], q[i], qq);
            kq = fmaf(k[i], q[i], kq);
#pragma unroll
            for (int c = 0; c < C::kColumns; ++c) sums[c] = fmaf(d[c][i], k[i], sums[c]);
        }
        const float sum = scatter_sums(sums, at.part);
        const float k_factor = inverse_norm(form, sum_over_parts(kk)), q_factor = inverse_norm(form, sum_over_parts(qq));
        kq = sum_over_parts(kq);
        // du = (D + s q do^T)^T k
        const float du = k_factor * (sum + scale * q_factor * kq * tokens.read_v(at.my_column));
        const float dv = gates.beta * du;
        if (at.mine) {
            p.delta_gradients[(token * form.value_heads + at.head) * form.value_dim + at.first_column + at.my_column] = du;
            const View& out = call.grad.v;
            if (out.data) store_scalar(out.data, out.dtype, element_offset(out, at.n, r.row, t, at.head) + at.first_column + at.my_column, dv);
        }
        // D = exp(g) (D + s q do^T - k dv^T)
#pragma unroll
        for (int c = 0; c < C::kColumns; ++c) {
            const float minus_dv = -k_factor * __shfl_sync(kAllLanes, dv, at.group * kParts + c * C::kLanesPerSum);
            const float s_do = scale * q_factor * tokens.read_v(C::kColumns * at.group + c);
#pragma unroll
            for (int i = 0; i < C::kKeys; ++i) d[c][i] = gates.decay * fmaf(k[i], minus_dv, fmaf(q[i], s_do, d[c][i]));
        }
    }

    if (r.begin > 0) {
        each_in<C>(form, at, d, p.carried_gradient + head_matrix(form, p.segment & 1, at.head), [](float& x, float* to) { *to = x; });
    } else if (call.grad.initial.data) {
        const View& out = call.grad.initial;
        const bool zero = row_slots(call.state, at.n).read == kNoSlot;  // no state was read, so nothing depends on one
        each_in_view<C>(form, at, d, out, [&](float& x, int64_t place) { store_scalar(out.data, out.dtype, place, zero ? 0.f : x); });
    }
}

// Gradients of a PAD row, as far as this kernel writes them: zeros.
template <class C>
__device__ __forceinline__ void zero_scan_role(const BackwardParams& p, const ScanPlace& at, const SegmentRow& r) {
    const View &dv = p.call.grad.v, &initial = p.call.grad.initial;
    if (dv.data && at.mine)
        for (int64_t t = r.begin; t < r.end; ++t)
            store_scalar(dv.data, dv.dtype, element_offset(dv, at.n, r.row, t, at.head) + at.first_column + at.my_column, 0.f);
    float zero[C::kColumns][C::kKeys] = {};
    if (initial.data && r.begin == 0)
        each_in_view<C>(p.call.form, at, zero, initial, [&](float& x, int64_t place) { store_scalar(initial.data, initial.dtype, place, x); });
}

// Grid (directions * HV * tiles, rows low, rows high): directions is 2, or 1 where only segments are found.
template <class C>
__device__ __forceinline__ void scan_kernel(const BackwardParams& p) {
    __shared__ typename C::Tokens::Shared shared[kScanWarps];
    const uint32_t blocks = static_cast<uint32_t>(p.call.form.value_heads) * p.tiles;  // of a row and direction
    const bool reverse = blockIdx.x >= blocks;
    const int64_t n = blockIdx.y + static_cast<int64_t>(gridDim.y) * blockIdx.z;
    if (n >= p.call.rows.count) return;
    const ScanPlace at = scan_place<C>(p, n, reverse ? blockIdx.x - blocks : blockIdx.x);
    if (at.first_column >= p.call.form.value_dim) return;
    const SegmentRow r = segment_row(p, n);
    if (p.find_segments ? !r.crosses : !r.here) return;
    const RowSlots slots = row_slots(p.call.state, n);
    if (slots.skip) {
        if (reverse) zero_scan_role<C>(p, at, r);
    } else if (reverse) {
        reverse_scan_role<C>(p, at, r, shared[threadIdx.x / kWarp]);
    } else {
        forward_scan_role<C>(p, at, r, slots, shared[threadIdx.x / kWarp]);
    }
}

}  // namespace fqla
