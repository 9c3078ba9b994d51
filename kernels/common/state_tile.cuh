// One warp's part of a state, in registers: all K keys of a few value columns. Eight lanes share a column's keys, four groups of eight lanes
// have columns side by side:
//     lane = 8 * group + part;   column = kColumns * group + c,  c < kColumns;   key(i) as below,  i < kKeys
// so sums over keys take three shuffles, in both layouts of memory.
#pragma once
#include "global.cuh"
#include "scalar.cuh"

namespace fqla {

constexpr int kParts = 8;                // lanes that share a column
constexpr int kGroups = kWarp / kParts;  // groups of columns

// The sum over the eight lanes of a group, in all of them.
__device__ __forceinline__ float sum_over_parts(float x) {
#pragma unroll
    for (int mask = 1; mask < kParts; mask *= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
    return x;
}

// Sums kCount values over the eight lanes of a group; lane `part` is left with value number part * kCount / 8. Halving the values with each
// exchange takes kCount - 1 shuffles where a butterfly takes 3 kCount.
template <int kCount>
__device__ __forceinline__ float scatter_sums(float (&x)[kCount], int part) {
    static_assert(kCount == 2 || kCount == 4 || kCount == 8, "a power of two");
    int mask = kParts / 2;
#pragma unroll
    for (int live = kCount / 2; live >= 1; live /= 2, mask /= 2) {
        const bool upper = part & mask;
#pragma unroll
        for (int j = 0; j < live; ++j) {
            const float sent = upper ? x[j] : x[j + live];
            const float kept = upper ? x[j + live] : x[j];
            x[j] = kept + __shfl_xor_sync(kAllLanes, sent, mask);
        }
    }
#pragma unroll
    for (; mask >= 1; mask /= 2) x[0] += __shfl_xor_sync(kAllLanes, x[0], mask);
    return x[0];
}

// K = V = 128, one dtype and layout of memory: 16-byte accesses where the pool is aligned to them.
template <class State, int kLayout, int kColumns_ = 4>
struct FixedState {
    static constexpr int kKeyDim = 128, kValueDim = 128;
    static constexpr int kKeys = kKeyDim / kParts, kColumns = kColumns_;
    static constexpr bool kKeysContiguous = kLayout == FLASHQLA_STATE_VK;
    static constexpr int kVector = kKeysContiguous ? 16 / sizeof(State) : 4;  // neighbouring keys of a lane

    __device__ __forceinline__ static int key(int part, int i) { return i / kVector * (kParts * kVector) + part * kVector + i % kVector; }

    // Accesses run along the contiguous dimension: kRun elements in kWords words, kRuns of them.
    static constexpr int kRun = kKeysContiguous ? kVector : kColumns;
    static constexpr int kRuns = kKeys * kColumns / kRun;
    static constexpr int kWords = kRun * sizeof(State) / 4;
    static constexpr int kPerWord = 4 / sizeof(State);
    using Vector = std::conditional_t<kWords == 4, uint4, uint2>;
    static_assert(sizeof(Vector) == 4 * kWords, "16 or 8 bytes");

    // Of run r: its place within the head's state, and element e's within the tile.
    __device__ __forceinline__ static int offset(int first_column, int group, int part, int r) {
        constexpr int kRunsPerColumn = kKeys / kVector;
        const int column = first_column + kColumns * group;
        return kKeysContiguous ? (column + r / kRunsPerColumn) * kKeyDim + key(part, r % kRunsPerColumn * kVector) : key(part, r) * kValueDim + column;
    }
    template <class S>
    __device__ __forceinline__ static float& element(S& s, int r, int e) {
        constexpr int kRunsPerColumn = kKeys / kVector;
        if constexpr (kKeysContiguous)
            return s[r / kRunsPerColumn][r % kRunsPerColumn * kVector + e];
        else
            return s[e][r];
    }

    __device__ __forceinline__ static float unpack(uint32_t word, int e) {
        if constexpr (sizeof(State) == 4)
            return __uint_as_float(word);
        else
            return __uint_as_float(e % 2 ? word & 0xffff0000u : word << 16);
    }
    __device__ __forceinline__ static bool aligned(const Pool& pool) {
        return (reinterpret_cast<uintptr_t>(pool.data) | static_cast<uint64_t>(pool.slot_stride) * sizeof(State)) % 16 == 0;
    }
    __device__ __forceinline__ static State* head_of(const Pool& pool, int64_t slot, int64_t head) {
        return static_cast<State*>(pool.data) + slot * pool.slot_stride + head * (kKeyDim * kValueDim);
    }

    __device__ __forceinline__ static void load_run(uint32_t (&word)[kWords], const State* from) {
        if constexpr (kKeysContiguous) {
            *reinterpret_cast<uint4*>(word) = *reinterpret_cast<const uint4*>(from);
        } else {
            // A warp has 64 bytes (bf16: 32) of each key's row, its neighbours the rest of the line: let the L2 fetch the whole at once.
            // H100 2026-11-23, 16/64 batch 256: 0.766 ms with the hint, 0.795 without.
            load_with_line(word, from);
        }
    }

    // A load in two steps, so that others can be asked for before this one is waited for. Kept as words: whatever looked into them between
    // the steps would wait (with elements instead the compiler unpacked at once; bf16 states, batch 256 of 16/64, H100 2026-11-23: 0.451 ms).
    struct Loading {
        uint32_t word[kRuns][kWords];

        __device__ __forceinline__ void start(const Form&, const Pool& pool, int64_t slot, int64_t head, int first_column, int group, int part) {
            const State* from = head_of(pool, slot, head);
            if (aligned(pool)) {
#pragma unroll
                for (int r = 0; r < kRuns; ++r) load_run(word[r], from + offset(first_column, group, part, r));
            } else {
#pragma unroll
                for (int r = 0; r < kRuns; ++r)
#pragma unroll
                    for (int w = 0; w < kWords; ++w) {
                        const State* at = from + offset(first_column, group, part, r) + w * kPerWord;
                        if constexpr (sizeof(State) == 4)
                            word[r][w] = *reinterpret_cast<const uint32_t*>(at);
                        else
                            word[r][w] = reinterpret_cast<const uint16_t*>(at)[0] | static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(at)[1]) << 16;
                    }
            }
        }
        // From the first of the lane's runs in a pool that is aligned.
        __device__ __forceinline__ void start(const State* first) {
#pragma unroll
            for (int r = 0; r < kRuns; ++r) load_run(word[r], first + offset(0, 0, 0, r));
        }
        __device__ __forceinline__ void start_zero() {
#pragma unroll
            for (int r = 0; r < kRuns; ++r)
#pragma unroll
                for (int w = 0; w < kWords; ++w) word[r][w] = 0;
        }
        __device__ __forceinline__ void finish(float (&s)[kColumns][kKeys]) const {
#pragma unroll
            for (int r = 0; r < kRuns; ++r)
#pragma unroll
                for (int e = 0; e < kRun; ++e) element(s, r, e) = unpack(word[r][e / kPerWord], e);
        }
    };

    // `streaming`: the lines leave the L2 first. See kLargeStateBytes in the planner.
    __device__ __forceinline__ static void store(const Form&, const Pool& pool, int64_t slot, int64_t head, int first_column, int group, int part,
                                                 bool streaming, float (&s)[kColumns][kKeys]) {
        State* to = head_of(pool, slot, head);
        const bool vectors = aligned(pool);
#pragma unroll
        for (int r = 0; r < kRuns; ++r) {
            alignas(16) State run[kRun];
#pragma unroll
            for (int e = 0; e < kRun; ++e) run[e] = from_f32<State>(element(s, r, e));
            State* at = to + offset(first_column, group, part, r);
            if (vectors && streaming)
                __stcs(reinterpret_cast<Vector*>(at), *reinterpret_cast<const Vector*>(run));
            else if (vectors)
                *reinterpret_cast<Vector*>(at) = *reinterpret_cast<const Vector*>(run);
            else {
#pragma unroll
                for (int e = 0; e < kRun; ++e) at[e] = run[e];
            }
        }
    }
    // To the first of the lane's runs in a pool that is aligned.
    __device__ __forceinline__ static void store(State* first, bool streaming, float (&s)[kColumns][kKeys]) {
#pragma unroll
        for (int r = 0; r < kRuns; ++r) {
            alignas(16) State run[kRun];
#pragma unroll
            for (int e = 0; e < kRun; ++e) run[e] = from_f32<State>(element(s, r, e));
            auto* at = reinterpret_cast<Vector*>(first + offset(0, 0, 0, r));
            if (streaming)
                __stcs(at, *reinterpret_cast<const Vector*>(run));
            else
                *at = *reinterpret_cast<const Vector*>(run);
        }
    }
};

// Any K up to kMaxKeyDim, any V, dtype, layout and alignment. Registers beyond K and V hold zeros.
template <int kMaxKeyDim, int kColumns_>
struct AnyState {
    static constexpr int kKeys = kMaxKeyDim / kParts, kColumns = kColumns_, kVector = 1;

    __device__ __forceinline__ static int key(int part, int i) { return i * kParts + part; }

    // f(element, place in the head's state) for every element of the tile that exists.
    template <class F>
    __device__ __forceinline__ static void each(int32_t key_dim, int32_t value_dim, int32_t layout, int first_column, int group, int part,
                                                float (&s)[kColumns][kKeys], F&& f) {
        const int column = first_column + kColumns * group;
        const int column_step = layout == FLASHQLA_STATE_VK ? key_dim : 1, key_step = layout == FLASHQLA_STATE_VK ? 1 : value_dim;
#pragma unroll
        for (int c = 0; c < kColumns; ++c)
#pragma unroll
            for (int i = 0; i < kKeys; ++i)
                if (column + c < value_dim && key(part, i) < key_dim) f(s[c][i], (column + c) * column_step + key(part, i) * key_step);
    }

    struct Loading {
        float run[kColumns][kKeys];

        __device__ __forceinline__ void start(const Form& form, const Pool& pool, int64_t slot, int64_t head, int first_column, int group, int part) {
            start_zero();
            const int64_t at = slot * pool.slot_stride + head * form.key_dim * form.value_dim;
            with_dtype(form.state_dtype, [&](auto tag) {
                const auto* from = static_cast<const typename decltype(tag)::type*>(pool.data) + at;
                each(form.key_dim, form.value_dim, form.state_layout, first_column, group, part, run, [&](float& x, int place) { x = to_f32(from[place]); });
            });
        }
        __device__ __forceinline__ void start_zero() {
#pragma unroll
            for (int c = 0; c < kColumns; ++c)
#pragma unroll
                for (int i = 0; i < kKeys; ++i) run[c][i] = 0.f;
        }
        __device__ __forceinline__ void finish(float (&s)[kColumns][kKeys]) const {
#pragma unroll
            for (int c = 0; c < kColumns; ++c)
#pragma unroll
                for (int i = 0; i < kKeys; ++i) s[c][i] = run[c][i];
        }
    };
    __device__ __forceinline__ static void store(const Form& form, const Pool& pool, int64_t slot, int64_t head, int first_column, int group, int part, bool,
                                                 float (&s)[kColumns][kKeys]) {
        const int64_t at = slot * pool.slot_stride + head * form.key_dim * form.value_dim;
        with_dtype(form.state_dtype, [&](auto tag) {
            using T = typename decltype(tag)::type;
            T* to = static_cast<T*>(pool.data) + at;
            each(form.key_dim, form.value_dim, form.state_layout, first_column, group, part, s, [&](float& x, int place) { to[place] = from_f32<T>(x); });
        });
    }
};

}  // namespace fqla
