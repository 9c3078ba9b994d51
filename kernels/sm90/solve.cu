// Solve: everything of a chunk that does not touch the state, for all chunks at once.
//
// For 64 tokens of a row, with G the running sum of the log gates, Gamma_ts = exp(G_t - G_s), and any L2 norm as factors rk, rq:
//     N = strict(diag(beta) (K K^T o rk rk^T o Gamma))       A = (I + N)^-1, unit lower triangular
//     strict(A)                     -> the record's solve tile, 16 bits
//     scale tril(Q K^T o rq rk^T o Gamma)  -> the record's score tile, 16 bits
//     beta, beta E rk, R rk, scale E rq    -> its factors, with E = exp(G), R = exp(G_last - G); and exp(G_last)
// The gate is inside N, so nothing grows with unnormalised keys, and one Gamma serves both tiles.
//
// One warpgroup a block, four blocks an SM. Warp w owns rows 16w .. 16w+15 until the merges, then block column w.
//   step                                  who           hands over by
//   q, k by the copy engine               thread 0      mbarrier
//   K K^T, Q K^T                          wgmma         registers, kept for all heads of the block
//   gates and betas of all heads          all           shared memory, while the copies run
//   sums of a head's, Gamma in factors    each warp     its own shared memory
//   -N as f32 (tf32 off the diagonal)     rows          block barrier
//   16 x 16 diagonal inverses             warp, fp32 substitution, a column a lane
//   A_ij = D_i sum_k (-N_ik) A_kj         block columns, tf32, down the column in registers (the accumulator of one product is the
//                                         left operand of the next when the inner index is read in the order 0 2 4 6 1 3 5 7)
//   tiles and factors to the workspace    thread 0      block barrier, bulk stores
#include "solve_steps.cuh"
#include "tma.cuh"

namespace fqla::sm90 {
namespace {

template <class T>
__device__ __forceinline__ void solve(const Sm90SolveParams& p) {
    using L = SolveLayout;
    FQLA_DYNAMIC_SHARED(memory);
    const uint32_t smem = shared_address(memory), loaded = smem + L::kBarrier;
    const int thread = threadIdx.x;
    const Thread me = thread_of_warpgroup();
    SolveAt place{smem + L::kQ,      smem + L::kK,       smem + L::kLower,  smem + L::kSolve,
                  smem + L::kScores, smem + L::kFactors, smem + L::kTokens, smem + L::kTokens + L::kMaxHeads * kChunk * 4,
                  smem + L::kWarp,   smem + L::kNorms};
    const int per_key = p.value_heads / p.key_heads, groups = per_key / p.heads_per_block;
    const int items = p.key_heads * groups;
    const int64_t slot = blockIdx.x / items;  // of the window
    const int item = static_cast<int>(blockIdx.x - slot * items), key_head = item / groups, first = item % groups * p.heads_per_block;
    if (thread == 0) {
        barrier_init(loaded, 1);
        barrier_init_fence();
        prefetch_map(p.q), prefetch_map(p.k);
    }
    let_successor_start();
    if (p.window.first + slot >= p.window.end) return;
    const ChunkPlace at = place_of(p.rows, p.window.first + slot);
    if (at.row < 0 || !serves(p.rows, at.tokens.length) || (p.crossing && at.row != row_at(p.rows, p.window.end))) return;
    const int64_t token = at.chunk * kChunk;
    if (thread == 0) {
        const int t = static_cast<int>(token + at.tokens.begin), n = p.rows.offsets ? 0 : static_cast<int>(at.row);
        barrier_expect(loaded, 4 * kTileBytes);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            load_box(smem + L::kK + half * kTileBytes, p.k, 64 * half, key_head, t, n, loaded);
            load_box(smem + L::kQ + half * kTileBytes, p.q, 64 * half, key_head, t, n, loaded);
        }
    }
    auto head_of = [&](int i) { return p.head_map == FLASHQLA_HEADS_TILED ? key_head + (first + i) * p.key_heads : key_head * per_key + first + i; };
    resolve_tokens(p.forms, place, at, head_of(0), p.head_map == FLASHQLA_HEADS_TILED ? p.key_heads : 1, p.heads_per_block);
    __syncthreads();
    barrier_wait(loaded, 0);

    float kk[32], qk[32];
    const int64_t left = at.tokens.length - token;
    const int valid = left < kChunk ? static_cast<int>(left) : kChunk;
    begin_products<T>(place, kk, qk);
    if (p.forms.qk_norm) {
        measure_norms(place, p.forms.eps, valid, thread, T{});
        __syncthreads();
    }
    finish_products<T>(p.forms, place, me, valid, kk, qk);
    __syncthreads();  // q and k have been read: their place is taken over
    clear_upper(place, me);
#pragma unroll 1
    for (int i = 0; i < p.heads_per_block; ++i, place.gates += kChunk * 4, place.betas += kChunk * 4) {
        const int head = head_of(i);
        if (i > 0) {  // the head before has left the tiles
            if (thread == 0) wait_stores_read();
            __syncthreads();
        }
        store_factors(place, me, sum_gates(p.forms, place, me));
        gate_rows<T>(place, me, prepare_rows(place, me), kk, qk, [&](int b, const uint32_t* scores) { store_scores(place, me, b, scores); });
        invert_diagonal(place, me);
        __syncthreads();
        merge_columns<T>(place, me);
        fence_to_async();
        __syncthreads();
        if (thread == 0) {
            char* record = static_cast<char*>(p.records) + (slot * p.value_heads + head) * ChunkRecord::kBytes;
            store_bytes(record + ChunkRecord::kSolve, smem + L::kSolve, kTileBytes);
            store_bytes(record + ChunkRecord::kScores, smem + L::kScores, kTileBytes);
            store_bytes(record + ChunkRecord::kFactors, smem + L::kFactors, ChunkRecord::kFactorBytes);
            commit_stores();
        }
    }
    if (thread == 0) wait_stores_read();
}

}  // namespace
}  // namespace fqla::sm90

extern "C" __global__ void __launch_bounds__(fqla::SolveLayout::kThreads, 4) gdn_solve_bf16(const __grid_constant__ fqla::Sm90SolveParams p) {
    fqla::sm90::solve<fqla::sm90::Bf16>(p);
}
extern "C" __global__ void __launch_bounds__(fqla::SolveLayout::kThreads, 4) gdn_solve_f16(const __grid_constant__ fqla::Sm90SolveParams p) {
    fqla::sm90::solve<fqla::sm90::F16>(p);
}
