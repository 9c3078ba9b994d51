// Decode: one token a row, no offsets, K = V = 128, VK states, bf16 or f16 tensors. What recurrent.cu computes, bit for bit, on a shorter way.
//
// The same cut: a warp has all K keys of 16 value columns of one row and head (state_tile.cuh). A call of few rows takes as long as one warp's chain
// from slot to state to sums to state, with nobody on its scheduler to fill in: so there is no loop, no shared memory and no 64-bit stride, and
//     1. all that is small is asked for at once, straight into registers: slots, gates, q, k, v
//     2. behind one wait the states are asked for, all of a lane's share (256 bytes in f32)
//     3. norms, k.q, exp(g) and beta are worked out while these come
//     4. the sums S^T k, S^T q;  u, o, S (delta_step.cuh)
#include "delta_step.cuh"
#include "narrow.cuh"
#include "state_tile.cuh"

namespace fqla {

// A lane's keys of q or k, as words until somebody wants numbers.
template <class Tensor, class Tile>
struct LaneKeys {
    static constexpr int kRuns = Tile::kKeys / Tile::kVector, kWords = Tile::kVector * sizeof(Tensor) / 4;
    using Vector = std::conditional_t<kWords == 4, uint4, uint2>;
    static_assert(sizeof(Tensor) == 2 && sizeof(Vector) == 4 * kWords, "16 or 8 bytes");
    alignas(16) uint32_t word[kRuns][kWords];

    __device__ __forceinline__ LaneKeys(const DecodeView& x, uint32_t row, uint32_t head, int part) {
        const auto* from = reinterpret_cast<const Vector*>(address(x, row, head, part * sizeof(Vector)));
#pragma unroll
        for (int r = 0; r < kRuns; ++r) *reinterpret_cast<Vector*>(word[r]) = from[r * kParts];
    }
    __device__ __forceinline__ float operator[](int i) const {
        const uint32_t bits = word[i / Tile::kVector][i % Tile::kVector / 2];
        if constexpr (std::is_same_v<Tensor, __nv_bfloat16>)
            return __uint_as_float(i % 2 ? bits & 0xffff0000u : bits << 16);
        else
            return __half2float(__ushort_as_half(static_cast<unsigned short>(i % 2 ? bits >> 16 : bits)));
    }
};

// What the token is without its states: k and q as they are, norms and scale in factors.
template <int kKeys>
struct Token {
    float k[kKeys], q[kKeys];
    float rk, scale_rq, rk_kq;  // rk, s rq, rk (k.q)

    template <class Keys>
    __device__ __forceinline__ Token(const DecodeParams& p, const Keys& k_keys, const Keys& q_keys) {
        float kk = 0.f, qq = 0.f, kq = 0.f;
#pragma unroll
        for (int i = 0; i < kKeys; ++i) {
            k[i] = k_keys[i], q[i] = q_keys[i];
            kk = fmaf(k[i], k[i], kk);
            qq = fmaf(q[i], q[i], qq);
            kq = fmaf(k[i], q[i], kq);
        }
        kk = sum_over_parts(kk), qq = sum_over_parts(qq), kq = sum_over_parts(kq);  // side by side
        rk = inverse_norm(p.form, p.eps, kk);
        scale_rq = p.scale * inverse_norm(p.form, p.eps, qq);
        rk_kq = rk * kq;
    }
};

// S^T k in the lower half of each group of lanes, S^T q in the upper, a column a lane.
template <int kColumns, int kKeys>
__device__ __forceinline__ float state_sums(const float (&s)[kColumns][kKeys], const Token<kKeys>& token, int part) {
    float sums[2 * kColumns] = {};
#pragma unroll
    for (int i = 0; i < kKeys; ++i)
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            sums[c] = fmaf(s[c][i], token.k[i], sums[c]);
            sums[kColumns + c] = fmaf(s[c][i], token.q[i], sums[kColumns + c]);
        }
    return scatter_sums(sums, part);
}

template <class Tensor, class State>
__device__ __forceinline__ void decode_kernel(const DecodeParams& p) {
    using Tile = FixedState<State, FLASHQLA_STATE_VK>;
    constexpr int kColumns = Tile::kColumns, kKeys = Tile::kKeys;
    static_assert(kColumns * kGroups == RecurrentLayout::kFixedColumns && 2 * kColumns == kParts, "as the planner cuts V; a lane for each sum");

    const uint32_t row = of_lane(blockIdx.z);
    const uint32_t read_slot = load_word_if(p.read.table, p.read.table + row, row), write_slot = load_word_if(p.write.table, p.write.table + row, row);
    const uint32_t head = of_lane(blockIdx.y), key_head = key_head_of(p, head);
    const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, group = lane / kParts, part = lane % kParts;
    const int first_column = (blockIdx.x * (blockDim.x / kWarp) + warp) * (kColumns * kGroups);
    // After the sums this lane holds S^T k (lower half of a group) or S^T q (upper half) of this column.
    const bool holds_q = part >= kParts / 2;
    const int column = first_column + kColumns * group + part % (kParts / 2);

    const GateBits gates(p, row, head);
    const LaneKeys<Tensor, Tile> k_keys(p.k, row, key_head, part), q_keys(p.q, row, key_head, part);
    const uint32_t v_bits = load_element(false, address(p.v, row, head, column * sizeof(Tensor)));
    auto* const out = reinterpret_cast<Tensor*>(address(p.out, row, head, column * sizeof(Tensor)));
    const uint32_t place = head * (Tile::kKeyDim * Tile::kValueDim) + Tile::offset(first_column, group, part, 0);

    const bool reads = read_slot < p.read.slots, writes = write_slot < p.write.slots;
    if (!(reads && writes) && is_skipped(reads, read_slot, writes, write_slot)) {
        if (holds_q) *out = from_f32<Tensor>(0.f);
        return;
    }
    // In the address, so that all these are waited for here: left in flight they may share a scoreboard with the states, and their use wait for those.
    const uint32_t here =
        gates.gate ^ gates.beta ^ gates.head.a_log ^ gates.head.bias ^ v_bits ^ k_keys.word[k_keys.kRuns - 1][0] ^ q_keys.word[q_keys.kRuns - 1][0];
    typename Tile::Loading loading;
    loading.start(reinterpret_cast<const State*>(p.read.data + (reads ? read_slot : 0) * p.read.slot_bytes) + (place + (here & p.zero)));

    const Token<kKeys> token(p, k_keys, q_keys);
    const float decay = decay_of(p, gates), beta = beta_of(p, gates), decay_rk = decay * token.rk;
    const float v = number(v_bits, std::is_same_v<Tensor, __half> ? FLASHQLA_DTYPE_F16 : FLASHQLA_DTYPE_BF16);
    // From this lane's sum, and the elements of S before, to the output and S.
    const auto finish = [&](float sum, auto&& before) {
        const float u_here = delta_update(beta, v, decay_rk, sum);  // in the lower half
        const float u_over = __shfl_xor_sync(kAllLanes, u_here, kParts / 2);
        if (holds_q) *out = from_f32<Tensor>(delta_output(token.scale_rq, decay, sum, token.rk_kq, u_over));
        float s[kColumns][kKeys];
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
            const float u = token.rk * __shfl_sync(kAllLanes, u_here, group * kParts + c);
#pragma unroll
            for (int i = 0; i < kKeys; ++i) s[c][i] = delta_state(token.k[i], u, decay, before(c, i));
        }
        if (writes) Tile::store(reinterpret_cast<State*>(p.write.data + write_slot * p.write.slot_bytes) + place, p.streaming_stores, s);
    };
    if (reads) {
        float s[kColumns][kKeys];
        loading.finish(s);
        finish(state_sums(s, token, part), [&](int c, int i) { return s[c][i]; });
    } else {  // on a way of its own: zeros in the registers of the loads would be moved there, and the moves wait for the loads
        finish(0.f, [](int, int) { return 0.f; });
    }
}

}  // namespace fqla

// Four blocks an SM: no spills.
#define FQLA_DECODE(symbol, ...)                                                                                                                          \
    extern "C" __global__ void __launch_bounds__(fqla::RecurrentLayout::kMaxWarps* fqla::kWarp, 4) symbol(const __grid_constant__ fqla::DecodeParams p) { \
        fqla::decode_kernel<__VA_ARGS__>(p);                                                                                                              \
    }
FQLA_DECODE(gdn_decode_bf16_f32vk, __nv_bfloat16, float)
FQLA_DECODE(gdn_decode_bf16_bf16vk, __nv_bfloat16, __nv_bfloat16)
FQLA_DECODE(gdn_decode_f16_f32vk, __half, float)
FQLA_DECODE(gdn_decode_f16_bf16vk, __half, __nv_bfloat16)
