// Verify of few rows: two to eight tokens a row, otherwise as decode.cu, and as there what recurrent.cu computes, bit for bit.
//
// A warp has all K keys of 8 value columns of one row and head: half of a state's bytes on the way, for twice the warps. All tokens are brought to shared
// memory at once, then the states are asked for; while these come, lane t works out the gates of token t, and group g norms and k.q of tokens g and g + 4.
// A token then takes what the states need, with its factors handed round.
#include "async_copy.cuh"
#include "delta_step.cuh"
#include "narrow.cuh"
#include "state_tile.cuh"

namespace fqla {

constexpr int kMostTokens = RecurrentLayout::kShortTokens;
constexpr int kPasses = kMostTokens / kGroups;  // tokens whose norms a group works out
static_assert(kMostTokens % kGroups == 0 && kMostTokens <= kWarp, "a group, and a lane, for each token");

// The tokens of a warp: q, then k; and its columns of v.
template <class Tensor, int kKeyDim, int kColumns>
struct ShortTokens {
    alignas(16) Tensor qk[kMostTokens][2 * kKeyDim], v[kMostTokens][kColumns];

    static_assert(2 * kKeyDim * sizeof(Tensor) == kWarp * 16 && kColumns * sizeof(Tensor) == 16, "16 bytes a lane");
    // Asks for all of them. `columns`: bytes from the head's vector of v.
    __device__ __forceinline__ void fetch(const ShortParams& p, uint32_t row, uint32_t head, uint32_t key_head, uint32_t columns, int lane) {
        if (lane < p.tokens) copy_16_bytes_async(v[lane], address(p.row.v, row, head, columns + lane * p.v_token));
        const bool is_k = lane >= kWarp / 2;
        const char* from = is_k ? address(p.row.k, row, key_head, (lane - kWarp / 2) * 16) : address(p.row.q, row, key_head, lane * 16);
        const uint32_t step = is_k ? p.k_token : p.q_token;
#pragma unroll 1
        for (int t = 0; t < p.tokens; ++t, from += step) copy_16_bytes_async(reinterpret_cast<char*>(qk[t]) + lane * 16, from);
        commit_copies();
    }
    // This lane's keys of q or k.
    template <class Tile>
    __device__ __forceinline__ static void read(const Tensor* from, int part, float (&x)[Tile::kKeys]) {
        struct alignas(Tile::kVector * sizeof(Tensor)) Run {
            Tensor e[Tile::kVector];
        };
#pragma unroll
        for (int i = 0; i < Tile::kKeys; i += Tile::kVector) {
            const Run run = *reinterpret_cast<const Run*>(from + Tile::key(part, i));
#pragma unroll
            for (int e = 0; e < Tile::kVector; ++e) x[i + e] = to_f32(run.e[e]);
        }
    }
};

// Norms, scale and k.q of a token, in factors: rk, s rq, rk (k.q).
struct Factors {
    float rk = 0.f, scale_rq = 0.f, rk_kq = 0.f;
};

template <class Tile, class Tokens>
__device__ __forceinline__ Factors factors_of(const DecodeParams& p, const Tokens& tokens, int t, int part) {
    float q[Tile::kKeys], k[Tile::kKeys], kk = 0.f, qq = 0.f, kq = 0.f;
    Tokens::template read<Tile>(tokens.qk[t], part, q);
    Tokens::template read<Tile>(tokens.qk[t] + Tile::kKeyDim, part, k);
#pragma unroll
    for (int i = 0; i < Tile::kKeys; ++i) {
        kk = fmaf(k[i], k[i], kk);
        qq = fmaf(q[i], q[i], qq);
        kq = fmaf(k[i], q[i], kq);
    }
    kk = sum_over_parts(kk), qq = sum_over_parts(qq), kq = sum_over_parts(kq);
    const float rk = inverse_norm(p.form, p.eps, kk);
    return {rk, p.scale * inverse_norm(p.form, p.eps, qq), rk * kq};
}

// Token t's, of the group that has worked them out.
__device__ __forceinline__ Factors factors_from(const Factors (&all)[kPasses], int t) {
    const int lane = t % kGroups * kParts;
    Factors mine = all[0];
#pragma unroll
    for (int pass = 1; pass < kPasses; ++pass)
        if (t / kGroups == pass) mine = all[pass];
    return {__shfl_sync(kAllLanes, mine.rk, lane), __shfl_sync(kAllLanes, mine.scale_rq, lane), __shfl_sync(kAllLanes, mine.rk_kq, lane)};
}

template <class Tensor, class State>
__device__ __forceinline__ void short_kernel(const ShortParams& p) {
    using Tile = FixedState<State, FLASHQLA_STATE_VK, RecurrentLayout::kShortColumns / kGroups>;
    constexpr int kColumns = Tile::kColumns, kKeys = Tile::kKeys;
    constexpr int kLanesPerSum = kParts / (2 * kColumns);  // lanes that end up with the same sum
    using Tokens = ShortTokens<Tensor, Tile::kKeyDim, RecurrentLayout::kShortColumns>;
    __shared__ Tokens all_tokens[RecurrentLayout::kMaxWarps];
    const DecodePool &read = p.row.read, &write = p.row.write;

    const uint32_t row = of_lane(blockIdx.z);
    const uint32_t read_slot = load_word_if(read.table, read.table + row, row), write_slot = load_word_if(write.table, write.table + row, row);
    const uint32_t head = of_lane(blockIdx.y), key_head = key_head_of(p.row, head);
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, group = lane / kParts, part = lane % kParts;
    const int first_column = (blockIdx.x * (blockDim.x / kWarp) + warp) * (kColumns * kGroups);
    // After the sums this lane holds S^T k (lower half of a group) or S^T q (upper half) of this column.
    const bool holds_q = part >= kParts / 2, writes_output = holds_q && part % kLanesPerSum == 0;
    const int column = kColumns * group + part % (kParts / 2) / kLanesPerSum;
    const auto none = static_cast<uint32_t>(kNoSlot);
    const uint32_t my_token_slot = load_word_if(p.token_slots && lane < p.token_width, p.token_slots + row * p.token_width + lane, none);

    const uint32_t my_token = lane < p.tokens ? lane : 0;
    const GateBits gates(p.row, row, head, my_token * p.gate_token, my_token * p.beta_token);
    Tokens& tokens = all_tokens[warp];
    tokens.fetch(p, row, head, key_head, first_column * sizeof(Tensor), lane);
    char* out = address(p.row.out, row, head, (first_column + column) * sizeof(Tensor));
    const auto write_output = [&](float o) {
        if (writes_output) *reinterpret_cast<Tensor*>(out) = from_f32<Tensor>(o);
        out += p.out_token;
    };
    const uint32_t place = head * (Tile::kKeyDim * Tile::kValueDim) + Tile::offset(first_column, group, part, 0);

    const bool reads = read_slot < read.slots, writes = write_slot < write.slots;
    const bool skips = !(reads && writes) && is_skipped(reads, read_slot, writes, write_slot);
    if (skips) {
        wait_all_copies();
        for (int t = 0; t < p.tokens; ++t) write_output(0.f);
        return;
    }
    wait_all_copies();  // behind a branch that waits for the slots, so that no load is put behind this wait
    __syncwarp();
    // In the address, as in decode.cu.
    const uint32_t here = gates.gate ^ gates.beta ^ gates.head.a_log ^ gates.head.bias ^ my_token_slot;
    typename Tile::Loading loading;
    loading.start(reinterpret_cast<const State*>(read.data + (reads ? read_slot : 0) * read.slot_bytes) + (place + (here & p.row.zero)));

    const float my_decay = decay_of(p.row, gates), my_beta = beta_of(p.row, gates);
    Factors factors[kPasses];
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
        const int t = pass * kGroups + group;
        if (pass * kGroups < p.tokens) factors[pass] = factors_of<Tile>(p.row, tokens, t < p.tokens ? t : 0, part);
    }

    float s[kColumns][kKeys];
    if (reads) {
        loading.finish(s);
    } else {
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
#pragma unroll
            for (int i = 0; i < kKeys; ++i) s[c][i] = 0.f;
    }
    const auto store = [&](uint32_t slot) { Tile::store(reinterpret_cast<State*>(write.data + slot * write.slot_bytes) + place, p.row.streaming_stores, s); };
    const int last = p.store_final && writes ? p.tokens - 1 : -1;
#pragma unroll 1
    for (int t = 0; t < p.tokens; ++t) {
        const float decay = __shfl_sync(kAllLanes, my_decay, t), beta = __shfl_sync(kAllLanes, my_beta, t);
        const Factors f = factors_from(factors, t);
        float q[kKeys], k[kKeys], sums[2 * kColumns] = {};
        Tokens::template read<Tile>(tokens.qk[t], part, q);
        Tokens::template read<Tile>(tokens.qk[t] + Tile::kKeyDim, part, k);
#pragma unroll
        for (int i = 0; i < kKeys; ++i)
#pragma unroll
            for (int c = 0; c < kColumns; ++c) {
                sums[c] = fmaf(s[c][i], k[i], sums[c]);
                sums[kColumns + c] = fmaf(s[c][i], q[i], sums[kColumns + c]);
            }
        const float sum = scatter_sums(sums, part);
        const float u_here = delta_update(beta, to_f32(tokens.v[t][column]), decay * f.rk, sum);  // in the lower half
        const float u_over = __shfl_xor_sync(kAllLanes, u_here, kParts / 2);
        write_output(delta_output(f.scale_rq, decay, sum, f.rk_kq, u_over));
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const float u = f.rk * __shfl_sync(kAllLanes, u_here, group * kParts + c * kLanesPerSum);
#pragma unroll
            for (int i = 0; i < kKeys; ++i) s[c][i] = delta_state(k[i], u, decay, s[c][i]);
        }
        const uint32_t token_slot = __shfl_sync(kAllLanes, my_token_slot, t);
        if (token_slot < write.slots) store(token_slot);
        if (t == last) store(write_slot);
    }
}

}  // namespace fqla

#define FQLA_SHORT(symbol, ...)                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(fqla::RecurrentLayout::kMaxWarps* fqla::kWarp, 4) symbol(const __grid_constant__ fqla::ShortParams p) { \
        fqla::short_kernel<__VA_ARGS__>(p);                                                                                                              \
    }
FQLA_SHORT(gdn_short_bf16_f32vk, __nv_bfloat16, float)
FQLA_SHORT(gdn_short_bf16_bf16vk, __nv_bfloat16, __nv_bfloat16)
FQLA_SHORT(gdn_short_f16_f32vk, __half, float)
FQLA_SHORT(gdn_short_f16_bf16vk, __half, __nv_bfloat16)
