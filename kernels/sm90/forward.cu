// Recurrence: carries the state through the chunks of a row and writes the outputs, from what the solve left in the chunk records.
//
// Everything is transposed, so that a math warpgroup owns 64 rows of V (all of K) and needs no other warpgroup. S^T [64 v, 128 k] stays in
// registers as an f32 accumulator; its 16-bit copy, X^T and U^T are A operands from registers, where the fragment of an accumulator and that of
// an A operand agree. With the record's strict(A), scores P (scaled, gated) and per-token factors:
//     Y^T = S^T K^T                 8 x m64n64k16      O^T = S^T Q^T           8 x m64n64k16
//     X^T = beta V^T - read_k Y^T   registers, f32     U^T = X^T + X^T A^T     4 x m64n64k16, X^T is the accumulator's start
//     O^T = read_q O^T + U^T P^T    4 x m64n64k16      S^T = decay S^T + (write_k U^T) K   4 x m64n128k16
// read_k = beta exp(G) rk, write_k = exp(G_last - G) rk, read_q = scale exp(G) rq: gates, scale and L2 norms cost nothing here.
//
//   role                 registers    step (event it waits for -> event it announces)
//   load, one warp       few          k, q, v, record of a chunk        (stage free -> stage filled)
//                                     behind a row's end k and v are zeroed here, so that no other row's NaN meets a product
//   math, 1 or 2         <= 244        Y; the chunk before's output, behind it; O; X (stage filled); U; S and P U; (-> stage free)
//   warpgroups                         one that saves for the backward leaves S with that output, and U
//   store, one warp a    few           the output, S, U                 (staging filled -> staging free)
//   math warpgroup
// One math warpgroup: 192 threads, two warps a scheduler at most, up to 255 registers. Two: 384 threads start at 168 and split them 232 / 232 / 40.
#include "recurrence.cuh"

namespace fqla::sm90 {
namespace {

// Mixed: of rows that the recurrent kernel leaves, so few that most blocks of one unit each would have none: as many as the card takes go through the units.
template <class T, class L, bool Mixed>
__device__ __forceinline__ void recur(const Sm90ForwardParams& p) {
    constexpr int Math = L::kMath;
    constexpr bool Output = L::kOutput;
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory), tail = smem + L::kBarriers + 16 * L::kStages;
    Ring<L::kStages> ring(smem + L::kBarriers);
    let_successor_start();
    const Units units = Mixed ? units_in_turn(p, 2 / Math, 1) : Output ? one_unit(2 / Math, p.segments) : one_unit(2, p.segments - 1);
    const int warp = __shfl_sync(~0u, threadIdx.x / 32, 0);  // the shuffle tells ptxas that a warp does not diverge here (else C7518)
    const int group = warp / 4 < Math ? warp / 4 : (warp - 1) % 4;
    const Ring<1> staging(tail + 8 * L::kStages + 16 * (group < Math ? group : 0));  // of this math warpgroup, or of this store warp's
    if (threadIdx.x == 0) {
        ring.init(1, 4 * Math * (L::kCluster ? 2 : 1));
        for (int i = 0; i < L::kStages; ++i) barrier_init(tail + 8 * i, 1);
        for (int m = 0; m < Math; ++m) Ring<1>(tail + 8 * L::kStages + 16 * m).init(4, 1);
        barrier_init_fence();
    }
    __syncthreads();
    if constexpr (L::kCluster) sync_cluster();
    wait_for_predecessor();
    if (warp < 4 * Math) {
        if constexpr (Math == 2) take_registers<232>();
        const Work w = find_work<L::kMutes>(p, units, units.first);
        if (Output || group == 0 || w.segment > 0)
            math_role<T, L>(p, units, smem, ring, staging, StagedRecords{});
        else if (!w.skip)  // the first segment starts from the row's own state: no transition
            for (int c = 0; c < w.chunks; ++c, ring.advance())
                if (ring.wait_filled(), threadIdx.x % 32 == 0) release_stage<L>(ring);
    } else {
        if constexpr (Math == 2) give_registers<40>();
        if (warp == 4 * Math)
            load_role<L>(p, units, smem, ring, tail);
        else if (Output && group < Math)
            store_role<L>(p, units, smem, staging, group);
    }
    if constexpr (L::kCluster) {
        __syncwarp();
        sync_cluster();  // the other block may still arrive here
    }
}

}  // namespace
}  // namespace fqla::sm90

#define FQLA_FORWARD(name, T, mixed, cluster, ...)                                                      \
    extern "C" __global__ void cluster __launch_bounds__(fqla::ForwardLayout<__VA_ARGS__>::kThreads, 1) \
        name(const __grid_constant__ fqla::Sm90ForwardParams p) {                                       \
        fqla::sm90::recur<fqla::sm90::T, fqla::ForwardLayout<__VA_ARGS__>, mixed>(p);                   \
    }
FQLA_FORWARD(gdn_forward_bf16_v64, Bf16, false, __cluster_dims__(2, 1, 1), 1, true)
FQLA_FORWARD(gdn_forward_bf16_v128, Bf16, false, , 2, true)
FQLA_FORWARD(gdn_forward_bf16_saving, Bf16, false, __cluster_dims__(2, 1, 1), 1, true, true)
FQLA_FORWARD(gdn_forward_f16_v64, F16, false, __cluster_dims__(2, 1, 1), 1, true)
FQLA_FORWARD(gdn_forward_f16_v128, F16, false, , 2, true)
FQLA_FORWARD(gdn_forward_f16_saving, F16, false, __cluster_dims__(2, 1, 1), 1, true, true)
FQLA_FORWARD(gdn_forward_bf16_v64_mixed, Bf16, true, __cluster_dims__(2, 1, 1), 1, true)
FQLA_FORWARD(gdn_forward_bf16_v128_mixed, Bf16, true, , 2, true)
FQLA_FORWARD(gdn_forward_f16_v64_mixed, F16, true, __cluster_dims__(2, 1, 1), 1, true)
FQLA_FORWARD(gdn_forward_f16_v128_mixed, F16, true, , 2, true)

// Summaries of all segments but a row's last: where the state of a segment ends if it starts from zero (the first: from the row's state), and its
// transition. A block does 64 rows of V beside 64 columns of the transition: the same work, the latter with V = 0 from the identity.
FQLA_FORWARD(gdn_summary_bf16, Bf16, false, __cluster_dims__(2, 1, 1), 2, false)
FQLA_FORWARD(gdn_summary_f16, F16, false, __cluster_dims__(2, 1, 1), 2, false)
