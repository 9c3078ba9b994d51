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
//   math, 1 or 2         <= 240        Y; the chunk before's output, behind it; O; X (stage filled); U; S and P U; (-> stage free)
//   warpgroups
// One math warpgroup: 160 threads, two warps a scheduler, up to 255 registers. Two: 384 threads start at 168 and split them 240 / 240 / 24.
#include "sm90_params.h"
#include "chunk.cuh"
#include "ring.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

namespace fqla::sm90 {
namespace {

// What a block works on.
struct Work {
    int64_t row;
    RowTokens tokens;
    int head, part;      // part: which 64 (or 128) rows of V
    int64_t first;       // chunk, within the row
    int chunks;
    int segment;
    bool last;           // of the row
};

// Chunks [first, first + count) of segment j: the first segment may be longer than the others.
__device__ __forceinline__ Work find_work(const Sm90ForwardParams& p, int parts) {
    Work w{};
    int64_t unit = blockIdx.x;
    w.part = static_cast<int>(unit % parts), unit /= parts;
    w.head = static_cast<int>(unit % p.value_heads), unit /= p.value_heads;
    w.segment = static_cast<int>(unit % p.segments), w.row = unit / p.segments;
    w.tokens = row_tokens(p.rows, w.row);
    const int64_t all = chunks_of(w.tokens.length);
    int64_t end = all;
    if (p.segments > 1) {
        w.first = w.segment == 0 ? 0 : p.first_segment_chunks + static_cast<int64_t>(w.segment - 1) * p.segment_chunks;
        end = p.first_segment_chunks + static_cast<int64_t>(w.segment) * p.segment_chunks;
        if (end > all) end = all;
        if (w.first > all) w.first = all;
    }
    w.chunks = __shfl_sync(~0u, static_cast<int>(end - w.first), 0);  // a trip count that ptxas sees to be uniform
    w.last = end == all && (w.chunks > 0 || w.segment == 0);
    return w;
}

__device__ __forceinline__ float* segment_matrix(float* base, const Sm90ForwardParams& p, const Work& w, int segment) {
    return base + ((w.row * p.value_heads + w.head) * p.segments + segment) * (kHeadDim * kHeadDim);
}

// Fragment of S^T: element 4j + i of a lane is row v0 + 8 (i / 2), column k0 + 8j + i % 2.
struct StateAt {
    int v0, k0;
};

__device__ __forceinline__ void load_state(float (&S)[64], const Sm90ForwardParams& p, int64_t slot, int head, StateAt at) {
    const int64_t base = slot * p.state.read.slot_stride + static_cast<int64_t>(head) * (kHeadDim * kHeadDim);
    const int dv = p.state_layout == FLASHQLA_STATE_VK ? kHeadDim : 1, dk = p.state_layout == FLASHQLA_STATE_VK ? 1 : kHeadDim;
#pragma unroll
    for (int i = 0; i < 64; ++i) {
        const int64_t x = base + (at.v0 + 8 * ((i >> 1) & 1)) * dv + (at.k0 + 8 * (i >> 2) + (i & 1)) * dk;
        S[i] = p.state_dtype == FLASHQLA_DTYPE_F32 ? static_cast<const float*>(p.state.read.data)[x]
                                                   : __uint_as_float(static_cast<uint32_t>(static_cast<const uint16_t*>(p.state.read.data)[x]) << 16);
    }
}

__device__ __forceinline__ void store_state(const float (&S)[64], const Sm90ForwardParams& p, int64_t slot, int head, StateAt at) {
    const int64_t base = slot * p.state.write.slot_stride + static_cast<int64_t>(head) * (kHeadDim * kHeadDim);
    const int dv = p.state_layout == FLASHQLA_STATE_VK ? kHeadDim : 1, dk = p.state_layout == FLASHQLA_STATE_VK ? 1 : kHeadDim;
#pragma unroll
    for (int i = 0; i < 64; ++i) {
        const int64_t x = base + (at.v0 + 8 * ((i >> 1) & 1)) * dv + (at.k0 + 8 * (i >> 2) + (i & 1)) * dk;
        if (p.state_dtype == FLASHQLA_DTYPE_F32) static_cast<float*>(p.state.write.data)[x] = S[i];
        else static_cast<__nv_bfloat16*>(p.state.write.data)[x] = __float2bfloat16_rn(S[i]);
    }
}

// Load role: fills stages for the chunks in order. Behind the end of a row cut by offsets a box holds other rows' tokens: that one chunk
// lands on a barrier of its own and is announced after k and v have been zeroed there.
template <int Math, bool Output>
__device__ __forceinline__ void load_role(const Sm90ForwardParams& p, const Work& w, uint32_t smem, Ring<ForwardLayout<Math, Output>::kStages> ring, uint32_t tail) {
    using L = ForwardLayout<Math, Output>;
    const int lane = threadIdx.x % 32;
    const int key_head = p.head_map == FLASHQLA_HEADS_TILED ? w.head % p.key_heads : w.head / (p.value_heads / p.key_heads);
    const int n = p.rows.offsets ? 0 : static_cast<int>(w.row);
    const char* record = static_cast<const char*>(p.records) + ((first_slot(p.rows, w.row, w.tokens) + w.first) * p.value_heads + w.head) * ChunkRecord::kBytes;
    int64_t token = w.first * kChunk;
    for (int c = 0; c < w.chunks; ++c, ring.advance(), token += kChunk, record += p.value_heads * static_cast<int64_t>(ChunkRecord::kBytes)) {
        ring.wait_free();
        const int64_t left = w.tokens.length - token;
        const bool ragged = p.rows.offsets && left < kChunk;
        const uint32_t at = smem + ring.stage() * L::kStageBytes, factors = smem + L::kFactors + ring.stage() * 1152;
        if (lane == 0) {
            const uint32_t bar = ragged ? tail : ring.filled();
            const int t = static_cast<int>(token + w.tokens.begin);
            barrier_expect(bar, L::kStageBytes + ChunkRecord::kFactorBytes);
            load_box(at + L::kK, p.k, 0, key_head, t, n, bar);
            load_box(at + L::kK + kTileBytes, p.k, 64, key_head, t, n, bar);
            if (Output) {
                load_box(at + L::kQ, p.q, 0, key_head, t, n, bar);
                load_box(at + L::kQ + kTileBytes, p.q, 64, key_head, t, n, bar);
            }
#pragma unroll
            for (int m = 0; m < Math; ++m) load_box(at + L::kV + m * kTileBytes, p.v, 64 * (w.part * Math + m), w.head, t, n, bar);
            load_bytes(factors, record + ChunkRecord::kFactors, ChunkRecord::kFactorBytes, bar);
            load_bytes(at + L::kSolve, record + ChunkRecord::kSolve, kTileBytes, bar);
            if (Output) load_bytes(at + L::kScores, record + ChunkRecord::kScores, kTileBytes, bar);
        }
        if (ragged) {
            barrier_wait(tail, 0);
            for (int piece = static_cast<int>(left) * 8 + lane; piece < kChunk * 8; piece += 32) {
                store_shared_zero16(at + L::kK + 16 * piece), store_shared_zero16(at + L::kK + kTileBytes + 16 * piece);
#pragma unroll
                for (int m = 0; m < Math; ++m) store_shared_zero16(at + L::kV + m * kTileBytes + 16 * piece);
            }
            fence_to_async();
            __syncwarp();
            if (lane == 0) barrier_arrive(ring.filled());
        }
    }
}

// Where this warp's 16 columns of V leave: 16-byte pieces, two a token, four tokens a lane.
struct OutputPlace {
    uint16_t* to;      // of the chunk's token lane / 2
    int64_t step;      // elements to the sixteenth token on
    uint32_t staging;  // 64 tokens of 32 bytes; halves of a token swap every four tokens, against bank conflicts
};

// The chunk's O^T from registers to its first `valid` tokens.
__device__ __forceinline__ void store_output(const uint32_t (&o)[16], const OutputPlace& place, int valid) {
    const int lane = threadIdx.x % 32, r = lane & 7;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
        const uint32_t token = 16 * s + (lane >> 4) * 8 + r, half = ((lane >> 3) & 1) ^ ((r >> 2) & 1);
        store_matrices_across(place.staging + token * 32 + half * 16, o + 4 * s);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const uint32_t token = 16 * i + (lane >> 1), half = (lane & 1) ^ ((token >> 2) & 1);
        const uint4 v = load_shared_u4(place.staging + token * 32 + half * 16);
        store_global_if(static_cast<int>(token) < valid, place.to + i * place.step, v);
    }
    __syncwarp();
}

// D^T (+)= S^T B^T for the 64 rows of k or q, over one half of K; half 0 starts afresh.
template <class T, int Half>
__device__ __forceinline__ void multiply_state(float (&d)[32], const uint32_t (&Sb)[32], uint32_t tiles) {
    if constexpr (Half == 0) mma_n64_fresh(T{}, d, Sb, tile_descriptor(tiles));
    else mma_n64(T{}, d, Sb + 16, tile_descriptor(tiles + kTileBytes), true);
#pragma unroll
    for (int s = 1; s < 4; ++s) mma_n64(T{}, d, Sb + 16 * Half + 4 * s, tile_descriptor(tiles + Half * kTileBytes + s * 32), true);
}

// Per-token factor of this lane's two tokens among columns 8j .. 8j + 7.
__device__ __forceinline__ float2 factor(uint32_t factors, ChunkRecord::Factor which, int j) {
    return load_shared_f2(factors + (which * kChunk + 8 * j + (threadIdx.x & 3) * 2) * 4);
}

// Math role: 64 rows of V through all chunks of the work.
template <class T, int Math, bool Output>
__device__ __forceinline__ void math_role(const Sm90ForwardParams& p, const Work& w, uint32_t smem, Ring<ForwardLayout<Math, Output>::kStages> ring) {
    using L = ForwardLayout<Math, Output>;
    const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    const int v_first = 64 * (w.part * Math + group);
    const StateAt mine{v_first + 16 * warp + lane / 4, 2 * (lane % 4)};
    const RowSlots slots = row_slots(p.state, w.row);
    OutputPlace place;
    place.to = static_cast<uint16_t*>(p.out.data) + element_offset(p.out, w.row, w.tokens, w.first * kChunk + lane / 2, w.head) + v_first + 16 * warp + 8 * (lane & 1);
    place.step = 16 * p.out.token;
    place.staging = smem + L::kOut + (group * 4 + warp) * 2048;
    const int64_t chunk_step = kChunk * p.out.token;

    float S[64];
    uint32_t Sb[32], xb[16], ub[16], us[16], ob[16] = {};  // ob: the chunk before's output
#pragma unroll
    for (int i = 0; i < 64; ++i) S[i] = 0.f;
    if (w.segment > 0) {
        const float* from = segment_matrix(p.segment_states, p, w, w.segment);
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            const float2 x = *reinterpret_cast<const float2*>(from + (mine.v0 + 8 * (i & 1)) * kHeadDim + mine.k0 + 8 * (i >> 1));
            S[2 * i] = x.x, S[2 * i + 1] = x.y;
        }
    } else if (slots.read != kNoSlot) {
        load_state(S, p, slots.read, w.head, mine);
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) Sb[i] = pack(T{}, S[2 * i], S[2 * i + 1]);

    int valid = 0;  // tokens of the chunk whose output is still in registers
    int64_t left = w.tokens.length - w.first * kChunk;
    const uint32_t v_at = ((lane >> 4) * 8 + (lane & 7)) * 128 + (((2 * warp + ((lane >> 3) & 1)) ^ (lane & 7)) << 4);
#pragma unroll 1
    for (int c = 0; c < w.chunks; ++c, ring.advance()) {
        ring.wait_filled();
        const uint32_t at = smem + ring.stage() * L::kStageBytes, factors = smem + L::kFactors + ring.stage() * 1152;
        // Y^T = S^T K^T
        float u[32], o[32];
        pin(Sb), mma_begin();
        multiply_state<T, 0>(u, Sb, at + L::kK), multiply_state<T, 1>(u, Sb, at + L::kK);
        mma_commit();
        if constexpr (Output) {
            // O^T = S^T Q^T, in halves that fill the tensor cores while X and U are made
            mma_begin();
            multiply_state<T, 0>(o, Sb, at + L::kQ);
            mma_commit();
        }
        // behind these: the chunk before's output leaves, beta V^T, decay S^T
        if constexpr (Output) {
            store_output(ob, place, valid);
            place.to += valid ? chunk_step : 0;
            valid = left < kChunk ? static_cast<int>(left) : kChunk;
            left -= kChunk;
        }
        float x[32];
        float2 read_k[8], f[8];
#pragma unroll
        for (int s = 0; s < 4; ++s) {
            uint32_t v[4];
            load_matrices_across(v, at + L::kV + group * kTileBytes + s * 2048 + v_at);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float2 b = factor(factors, ChunkRecord::beta, 2 * s + i / 2), y = unpack(T{}, v[i]);
                x[8 * s + 2 * i] = b.x * y.x, x[8 * s + 2 * i + 1] = b.y * y.y;
            }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) read_k[j] = factor(factors, ChunkRecord::read_k, j);
        const float decay = load_shared_f(factors + 4 * kChunk * 4);
        ring.wait_filled();  // known to be so: only a block boundary across which ptxas does not sink the products above
        if constexpr (Output) mma_wait<1>();
        else mma_wait<0>();
        pin(u);
        // X^T = beta V^T - read_k Y^T
#pragma unroll
        for (int i = 0; i < 16; ++i) {
            u[2 * i] = x[2 * i] - read_k[i / 2].x * u[2 * i];
            u[2 * i + 1] = x[2 * i + 1] - read_k[i / 2].y * u[2 * i + 1];
            xb[i] = pack(T{}, u[2 * i], u[2 * i + 1]);
        }
        // U^T = X^T + X^T strict(A)^T
        pin(u), pin(xb), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) mma_n64(T{}, u, xb + 4 * s, tile_descriptor(at + L::kSolve + s * 32), true);
        mma_commit();
        if constexpr (Output) {
            mma_begin();
            multiply_state<T, 1>(o, Sb, at + L::kQ);
            mma_commit();
        }
#pragma unroll
        for (int i = 0; i < 64; ++i) S[i] *= decay;
#pragma unroll
        for (int j = 0; j < 8; ++j) f[j] = factor(factors, ChunkRecord::write_k, j);
        if constexpr (Output) mma_wait<1>();
        else mma_wait<0>();
        pin(u);
#pragma unroll
        for (int i = 0; i < 16; ++i) us[i] = pack(T{}, u[2 * i] * f[i / 2].x, u[2 * i + 1] * f[i / 2].y);
        // S^T = decay S^T + (write_k U^T) K
        pin(S), pin(us), mma_begin();
#pragma unroll
        for (int s = 0; s < 4; ++s) mma_n128_columns(T{}, S, us + 4 * s, tile_descriptor(at + L::kK + s * 2048, kTileBytes));
        mma_commit();
        if constexpr (Output) {
            // O^T = read_q O^T + U^T P^T
#pragma unroll
            for (int i = 0; i < 16; ++i) ub[i] = pack(T{}, u[2 * i], u[2 * i + 1]);
#pragma unroll
            for (int j = 0; j < 8; ++j) f[j] = factor(factors, ChunkRecord::read_q, j);
            mma_wait<1>(), pin(o);
#pragma unroll
            for (int i = 0; i < 16; ++i) o[2 * i] *= f[i / 2].x, o[2 * i + 1] *= f[i / 2].y;
            pin(o), pin(ub), mma_begin();
#pragma unroll
            for (int s = 0; s < 4; ++s) mma_n64(T{}, o, ub + 4 * s, tile_descriptor(at + L::kScores + s * 32), true);
            mma_commit();
            mma_wait<1>();
        } else mma_wait<0>();
        pin(S);
#pragma unroll
        for (int i = 0; i < 32; ++i) Sb[i] = pack(T{}, S[2 * i], S[2 * i + 1]);
        if constexpr (Output) {  // nothing in flight over the back edge, or ptxas serialises (C7514)
            mma_wait<0>(), pin(o);
#pragma unroll
            for (int i = 0; i < 16; ++i) ob[i] = pack(T{}, o[2 * i], o[2 * i + 1]);
        }
        if (lane == 0) ring.release();
    }
    if constexpr (Output) {
        store_output(ob, place, valid);
        if (w.last && slots.write != kNoSlot) store_state(S, p, slots.write, w.head, mine);
    } else {
        float* to = segment_matrix(p.segment_states, p, w, w.segment);
#pragma unroll
        for (int i = 0; i < 32; ++i)
            *reinterpret_cast<float2*>(to + (mine.v0 + 8 * (i & 1)) * kHeadDim + mine.k0 + 8 * (i >> 1)) = {S[2 * i], S[2 * i + 1]};
    }
}

// Rows that are skipped: zeros.
__device__ __forceinline__ void clear_output(const Sm90ForwardParams& p, const Work& w, int columns) {
    const int pieces = columns / 8, first = w.part * columns;
    const int64_t begin = w.first * kChunk, end = w.last ? w.tokens.length : begin + static_cast<int64_t>(w.chunks) * kChunk;
    for (int64_t i = threadIdx.x; i < (end - begin) * pieces; i += blockDim.x) {
        uint16_t* to = static_cast<uint16_t*>(p.out.data) + element_offset(p.out, w.row, w.tokens, begin + i / pieces, w.head) + first + i % pieces * 8;
        *reinterpret_cast<uint4*>(to) = make_uint4(0, 0, 0, 0);
    }
}

template <class T, int Math, bool Output>
__device__ __forceinline__ void recur(const Sm90ForwardParams& p) {
    using L = ForwardLayout<Math, Output>;
    extern __shared__ __align__(1024) char memory[];
    const uint32_t smem = shared_address(memory), tail = smem + L::kBarriers + 16 * L::kStages;
    Ring<L::kStages> ring(smem + L::kBarriers);
    const Work w = find_work(p, 2 / Math);
    if (row_slots(p.state, w.row).skip) return clear_output(p, w, 64 * Math);
    if (w.chunks == 0 && w.segment > 0) return;
    if (threadIdx.x == 0) {
        ring.init(4 * Math);
        barrier_init(tail, 1);
        barrier_init_fence();
    }
    __syncthreads();
    wait_for_predecessor();
    if (__shfl_sync(~0u, threadIdx.x / 128, 0) < Math) {  // the shuffle tells ptxas that a warpgroup does not diverge here (else C7518)
        if constexpr (Math == 2) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        math_role<T, Math, Output>(p, w, smem, ring);
    } else {
        if constexpr (Math == 2) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x / 32 == 4 * Math) load_role<Math, Output>(p, w, smem, ring, tail);
    }
}

}  // namespace
}  // namespace fqla::sm90

#define FQLA_FORWARD(name, T, math)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(fqla::ForwardLayout<math, true>::kThreads, 1) name(const __grid_constant__ fqla::Sm90ForwardParams p) { \
        fqla::sm90::recur<fqla::sm90::T, math, true>(p);                                                                                \
    }
FQLA_FORWARD(gdn_forward_bf16_v64, Bf16, 1)
FQLA_FORWARD(gdn_forward_bf16_v128, Bf16, 2)
FQLA_FORWARD(gdn_forward_f16_v64, F16, 1)
FQLA_FORWARD(gdn_forward_f16_v128, F16, 2)
