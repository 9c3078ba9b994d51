// The recurrent engine: token by token with the state in registers. Decode, verify, short rows, mixed batches, and every size and dtype.
//
// A warp has all K keys of a few value columns of one row and head (state_tile.cuh). Columns of a state never meet, so warps share nothing
// and the card is filled by splitting V. Per token, with s the scale:
//     kk, qq, kq, S^T k, S^T q            one round of sums over keys (raw k and q: the norms' factors come in behind)
//     u = beta (v - exp(g) S^T k)
//     o = s (exp(g) S^T q + (k.q) u)      = s (exp(g) S + k u^T)^T q
//     S = exp(g) S + k u^T
// The state is what decode moves: each lane asks for all of its share (256 bytes in f32) before it uses any.
#include "delta_step.cuh"
#include "kernel_params.h"
#include "state_tile.cuh"
#include "token_gates.cuh"
#include "token_stream.cuh"

namespace fqla {

constexpr int kMaxWarps = RecurrentLayout::kMaxWarps;

template <class Tensor_, class State, int kLayout>
struct FixedConfig {
    using Tile = FixedState<State, kLayout>;
    using Tensor = Tensor_;
    using Tokens = AlignedTokens<Tensor, Tile::kKeyDim, Tile::kColumns * kGroups>;
};

template <int kMaxKeyDim>
struct AnyConfig {
    using Tile = AnyState<kMaxKeyDim, 2>;
    using Tensor = void;
    using Tokens = AnyTokens<kMaxKeyDim, Tile::kColumns * kGroups>;
};

// Where the state after each token goes: lane j holds the slot of token 32 b + j.
class TokenSlots {
public:
    __device__ __forceinline__ TokenSlots(const StateIo& state, int64_t n, int lane)
        : state_(state), wanted_(state.token_slots && state.write.data), n_(n), lane_(lane) {
        request(0);
    }
    // The slot for the state after token t, or kNoSlot.
    __device__ __forceinline__ int32_t after(int64_t t) {
        if (!wanted_) return kNoSlot;
        const int j = static_cast<int>(static_cast<uint32_t>(t) % kWarp);
        if (j == 0) {
            slot_ = next_;
            request(t + kWarp);
        }
        return __shfl_sync(kAllLanes, slot_, j);
    }

private:
    __device__ __forceinline__ void request(int64_t first) {
        if (wanted_) next_ = static_cast<int32_t>(token_slot(state_, n_, first + lane_));
    }
    const StateIo& state_;
    const bool wanted_;
    const int64_t n_;
    const int lane_;
    int32_t next_ = kNoSlot, slot_ = kNoSlot;
};

// The output column that a lane writes: after the sums each lane of the upper half of a group holds one column's.
template <class C>
struct Output {
    const View& view;
    int64_t at;  // element of the next token
    bool mine;

    __device__ __forceinline__ void write(float o) {
        if (mine) {
            if constexpr (std::is_void_v<typename C::Tensor>)
                store_scalar(view.data, view.dtype, at, o);
            else
                static_cast<typename C::Tensor*>(view.data)[at] = from_f32<typename C::Tensor>(o);
        }
        at += view.token;
    }
};

template <class C>
__device__ __forceinline__ void recurrent_role(const RecurrentParams& p, typename C::Tokens::Shared& shared) {
    using Tile = typename C::Tile;
    constexpr int kColumns = Tile::kColumns, kKeys = Tile::kKeys, kVector = Tile::kVector;
    static_assert(kColumns * kGroups == (std::is_void_v<typename C::Tensor> ? RecurrentLayout::kAnyColumns : RecurrentLayout::kFixedColumns),
                  "as the planner cuts V");
    constexpr int kLanesPerSum = kParts / (2 * kColumns);  // lanes that end up with the same sum
    const Forward& call = p.call;
    const Form& form = call.form;

    const int64_t n = blockIdx.y + static_cast<int64_t>(gridDim.y) * blockIdx.z;
    if (n >= call.rows.count) return;
    // The way to the first loads is much of a small decode's time: all tables are asked for at once, and while they are on their way the gates.
    const RowOffsets offsets = row_offsets(call.rows, n);
    const SlotEntries entries = slot_entries(call.state, n);
    const int32_t head = divide(blockIdx.x, p.tiles), tile = blockIdx.x - head * p.tiles.value;
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, group = lane / kParts, part = lane % kParts;
    const int first_column = (tile * (blockDim.x / kWarp) + warp) * (kColumns * kGroups);
    if (first_column >= form.value_dim) return;

    // Of this lane after the sums: whether it holds S^T k (lower half) or S^T q (upper), and of which column.
    const bool holds_q = part >= kParts / 2;
    const int my_column = kColumns * group + part % (kParts / 2) / kLanesPerSum;
    const RowTokens row = row_tokens(call.rows, offsets);
    if (!serves(call.rows, row.length)) return;
    TokenGates gates(form, call.in, row, n, head, lane);
    const RowSlots slots = row_slots(call.state, n, entries);
    Output<C> output{call.out, element_offset(call.out, n, row, 0, head) + first_column + my_column,
                     holds_q && part % kLanesPerSum == 0 && first_column + my_column < form.value_dim};
    if (slots.skip) {
        for (int64_t t = 0; t < row.length; ++t) output.write(0.f);
        return;
    }

    typename Tile::Loading loading;
    if (slots.read != kNoSlot)
        loading.start(form, call.state.read, slots.read, head, first_column, group, part);
    else
        loading.start_zero();
    typename C::Tokens tokens(shared, token_source(form, call.in, call.in.v, row, n, head, key_head_of(form, head, p.heads), first_column, kColumns * kGroups),
                              lane);
    TokenSlots token_slots(call.state, n, lane);
    gates.begin();
    float s[kColumns][kKeys];
    loading.finish(s);

    const float scale = static_cast<float>(form.scale);
    int64_t next_checkpoint = call.state.checkpoint_interval && call.state.write.data ? call.state.checkpoint_interval : -1;
    int32_t slot_after_token = kNoSlot;
    for (int64_t t = 0;; ++t) {  // S is the state after t tokens: store it where that is wanted
        int64_t checkpoint = kNoSlot;
        if (t == next_checkpoint) {
            checkpoint = checkpoint_slot(call.state, n, t);
            next_checkpoint += call.state.checkpoint_interval;
        }
        const int64_t final_slot = t == row.length ? slots.write : kNoSlot;
        if (slot_after_token != kNoSlot || checkpoint != kNoSlot || final_slot != kNoSlot) {
#pragma unroll 1
            for (int which = 0; which < 3; ++which) {
                const int64_t slot = which == 0 ? slot_after_token : which == 1 ? checkpoint : final_slot;
                if (slot != kNoSlot) Tile::store(form, call.state.write, slot, head, first_column, group, part, p.streaming_stores, s);
            }
        }
        if (t == row.length) break;

        tokens.advance(t);
        gates.advance(t);
        slot_after_token = token_slots.after(t);

        // kk, qq, kq and, per column, S^T k and S^T q: this lane's keys, then the eight lanes'.
        float k[kKeys], kk = 0.f, qq = 0.f, kq = 0.f, sums[2 * kColumns] = {};
#pragma unroll
        for (int i = 0; i < kKeys; i += kVector) {
            float kv[kVector], qv[kVector];
            tokens.read_k(Tile::key(part, i), kv);
            tokens.read_q(Tile::key(part, i), qv);
#pragma unroll
            for (int e = 0; e < kVector; ++e) {
                k[i + e] = kv[e];
                kk = fmaf(kv[e], kv[e], kk);
                qq = fmaf(qv[e], qv[e], qq);
                kq = fmaf(kv[e], qv[e], kq);
#pragma unroll
                for (int c = 0; c < kColumns; ++c) {
                    sums[c] = fmaf(s[c][i + e], kv[e], sums[c]);
                    sums[kColumns + c] = fmaf(s[c][i + e], qv[e], sums[kColumns + c]);
                }
            }
        }
        const float sum = scatter_sums(sums, part);
        const float k_factor = inverse_norm(form, sum_over_parts(kk)), q_factor = inverse_norm(form, sum_over_parts(qq));
        kq = sum_over_parts(kq);

        // u = beta (v - exp(g) S^T k) in the lower half of each group
        const float u_here = delta_update(gates.beta, tokens.read_v(my_column), gates.decay * k_factor, sum);
        const float u_over = __shfl_xor_sync(kAllLanes, u_here, kParts / 2);
        // o = s (exp(g) S^T q + (k.q) u) in the upper half
        output.write(delta_output(scale * q_factor, gates.decay, sum, k_factor * kq, u_over));

        // S = exp(g) S + k u^T
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const float u = k_factor * __shfl_sync(kAllLanes, u_here, group * kParts + c * kLanesPerSum);
#pragma unroll
            for (int i = 0; i < kKeys; ++i) s[c][i] = delta_state(k[i], u, gates.decay, s[c][i]);
        }
    }
}

template <class C>
__device__ __forceinline__ void recurrent_kernel(const RecurrentParams& p) {
    __shared__ typename C::Tokens::Shared shared[kMaxWarps];
    recurrent_role<C>(p, shared[threadIdx.x / kWarp]);
}

}  // namespace fqla

// `blocks` an SM: the most without spills, but for _large, where fewer are better (kLargeStateBytes in the planner).
#define FQLA_RECURRENT(symbol, blocks, ...)                                                                                                      \
    extern "C" __global__ void __launch_bounds__(fqla::kMaxWarps* fqla::kWarp, blocks) symbol(const __grid_constant__ fqla::RecurrentParams p) { \
        fqla::recurrent_kernel<__VA_ARGS__>(p);                                                                                                  \
    }
#define FQLA_RECURRENT_STATES(name, Tensor)                                                       \
    FQLA_RECURRENT(name##_f32kv, 3, fqla::FixedConfig<Tensor, float, FLASHQLA_STATE_KV>)          \
    FQLA_RECURRENT(name##_f32vk, 4, fqla::FixedConfig<Tensor, float, FLASHQLA_STATE_VK>)          \
    FQLA_RECURRENT(name##_f32vk_large, 2, fqla::FixedConfig<Tensor, float, FLASHQLA_STATE_VK>)    \
    FQLA_RECURRENT(name##_bf16kv, 3, fqla::FixedConfig<Tensor, __nv_bfloat16, FLASHQLA_STATE_KV>) \
    FQLA_RECURRENT(name##_bf16vk, 4, fqla::FixedConfig<Tensor, __nv_bfloat16, FLASHQLA_STATE_VK>)

FQLA_RECURRENT_STATES(gdn_recurrent_bf16, __nv_bfloat16)
FQLA_RECURRENT_STATES(gdn_recurrent_f16, __half)
FQLA_RECURRENT_STATES(gdn_recurrent_f32, float)
FQLA_RECURRENT(gdn_recurrent_any_128, 3, fqla::AnyConfig<128>)
FQLA_RECURRENT(gdn_recurrent_any_256, 2, fqla::AnyConfig<256>)
