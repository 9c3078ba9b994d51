// q_t, k_t and a slice of v_t of one row and head, brought to shared memory ahead of use, token after token. One stream per warp; nothing
// here synchronises more than a warp. Two kinds with the same verbs:
//   AlignedTokens   16-byte asynchronous copies into a ring of several tokens, in the tensor's dtype
//   AnyTokens       element loads of any dtype, size and alignment, one token ahead in registers and some more in the L2; f32 in shared memory
#pragma once
#include "async_copy.cuh"
#include "global.cuh"
#include "scalar.cuh"

namespace fqla {

// First element of q, k and of this warp's v columns at token 0 of the row, and the way to the next token.
struct TokenSource {
    const void *q, *k, *v;
    int64_t q_step, k_step, v_step;  // elements
    int64_t length;                  // tokens
    int32_t key_dim, columns;        // columns of v that this warp owns and that exist
    int32_t dtype;
};

__device__ __forceinline__ const void* element_pointer(const View& x, int64_t offset) {
    return static_cast<const char*>(x.data) + offset * (x.dtype == FLASHQLA_DTYPE_F32 ? 4 : 2);
}

// `values` is v in the forward recurrence and d_out in the reverse one.
__device__ __forceinline__ TokenSource token_source(const Form& form, const Inputs& in, const View& values, const RowTokens& row, int64_t n, int32_t head,
                                                    int32_t key_head, int32_t first_column, int32_t columns) {
    const int32_t left = form.value_dim - first_column;
    return {element_pointer(in.q, element_offset(in.q, n, row, 0, key_head)),
            element_pointer(in.k, element_offset(in.k, n, row, 0, key_head)),
            element_pointer(values, element_offset(values, n, row, 0, head) + first_column),
            in.q.token,
            in.k.token,
            values.token,
            row.length,
            form.key_dim,
            left < columns ? left : columns,
            form.dtype};
}

template <class Tensor, int kKeyDim, int kColumns>
class AlignedTokens {
public:
    static constexpr int kStages = sizeof(Tensor) == 4 ? 4 : 8;  // 4 KB a warp either way
    struct Shared {
        alignas(16) Tensor qk[kStages][2 * kKeyDim], v[kStages][kColumns];
    };

    __device__ __forceinline__ AlignedTokens(Shared& shared, const TokenSource& source, int lane) : shared_(shared), lane_(lane), left_(source.length) {
#pragma unroll
        for (int c = 0; c < kCopies; ++c) {
            const int at = lane + c * kWarp;  // the first half of the copies brings q, the second k
            const bool is_k = at >= kKeyCopies;
            from_[c] = static_cast<const char*>(is_k ? source.k : source.q) + (is_k ? at - kKeyCopies : at) * 16;
            step_[c] = (is_k ? source.k_step : source.q_step) * static_cast<int64_t>(sizeof(Tensor));
        }
        v_from_ = static_cast<const char*>(source.v) + lane * 16;
        v_step_ = source.v_step * static_cast<int64_t>(sizeof(Tensor));
#pragma unroll
        for (int stage = 0; stage < kStages - 1; ++stage) fetch(stage);
    }
    // Makes token t readable by every lane, and starts the load of the one kStages - 1 further on into the stage that token t - 1 left.
    __device__ __forceinline__ void advance(int64_t t) {
        wait_copies<kStages - 2>();
        __syncwarp();
        stage_ = static_cast<int>(static_cast<uint32_t>(t) % kStages);
        fetch((stage_ + kStages - 1) % kStages);
    }
    // x[0 .. kVector) of keys from `key` on.
    template <int kVector>
    __device__ __forceinline__ void read_q(int key, float (&x)[kVector]) const {
        read(shared_.qk[stage_] + key, x);
    }
    template <int kVector>
    __device__ __forceinline__ void read_k(int key, float (&x)[kVector]) const {
        read(shared_.qk[stage_] + kKeyDim + key, x);
    }
    __device__ __forceinline__ float read_v(int column) const { return to_f32(shared_.v[stage_][column]); }

private:
    static constexpr int kPerCopy = 16 / sizeof(Tensor);
    static constexpr int kKeyCopies = kKeyDim / kPerCopy, kValueCopies = kColumns / kPerCopy;
    static constexpr int kCopies = 2 * kKeyCopies / kWarp;  // of a lane
    static_assert(2 * kKeyCopies % kWarp == 0 && kValueCopies <= kWarp && kColumns % kPerCopy == 0, "whole copies");

    // Starts the load of the next token that has not been asked for.
    __device__ __forceinline__ void fetch(int stage) {
        if (left_ > 0) {
            --left_;
#pragma unroll
            for (int c = 0; c < kCopies; ++c) {  // q and k of a stage side by side, as the copies count
                copy_16_bytes_async(reinterpret_cast<char*>(shared_.qk[stage]) + (lane_ + c * kWarp) * 16, from_[c]);
                from_[c] += step_[c];
            }
            if (lane_ < kValueCopies) copy_16_bytes_async(reinterpret_cast<char*>(shared_.v[stage]) + lane_ * 16, v_from_);
            v_from_ += v_step_;
        }
        commit_copies();  // also when empty: the count of groups stays that of tokens
    }
    template <int kVector>
    __device__ __forceinline__ static void read(const Tensor* from, float (&x)[kVector]) {
        struct alignas(kVector * sizeof(Tensor)) Vector {
            Tensor e[kVector];
        };
        static_assert(sizeof(Vector) <= 16 || sizeof(Tensor) == 4, "one or two loads");
        const Vector v = *reinterpret_cast<const Vector*>(from);
#pragma unroll
        for (int c = 0; c < kVector; ++c) x[c] = to_f32(v.e[c]);
    }

    Shared& shared_;
    const int lane_;
    int64_t left_;  // tokens not yet asked for
    const char *from_[kCopies], *v_from_;
    int64_t step_[kCopies], v_step_;
    int stage_ = 0;
};

template <int kMaxKeyDim, int kColumns>
class AnyTokens {
public:
    struct Shared {
        alignas(16) float q[2][kMaxKeyDim], k[2][kMaxKeyDim], v[2][kColumns];
    };

    // reverse: token t of the verbs is the row's token length - 1 - t.
    __device__ __forceinline__ AnyTokens(Shared& shared, const TokenSource& source, int lane, bool reverse = false)
        : shared_(shared), source_(source), lane_(lane), reverse_(reverse) {
        load(0);
        start_prefetch();
    }
    __device__ __forceinline__ void advance(int64_t t) {
        stage_ = static_cast<int>(t & 1);
        // Token t - 2 was read from this stage before the __syncwarp of token t - 1.
        if (source_.dtype == FLASHQLA_DTYPE_F32)
            put<FLASHQLA_DTYPE_F32>();
        else if (source_.dtype == FLASHQLA_DTYPE_BF16)
            put<FLASHQLA_DTYPE_BF16>();
        else
            put<FLASHQLA_DTYPE_F16>();
        __syncwarp();
        load(t + 1);
        prefetch(t + 1 + kAhead);
    }
    template <int kVector>
    __device__ __forceinline__ void read_q(int key, float (&x)[kVector]) const {
#pragma unroll
        for (int c = 0; c < kVector; ++c) x[c] = shared_.q[stage_][key + c];
    }
    template <int kVector>
    __device__ __forceinline__ void read_k(int key, float (&x)[kVector]) const {
#pragma unroll
        for (int c = 0; c < kVector; ++c) x[c] = shared_.k[stage_][key + c];
    }
    __device__ __forceinline__ float read_v(int column) const { return shared_.v[stage_][column]; }

private:
    static constexpr int kPerLane = kMaxKeyDim / kWarp;
    static constexpr int kAhead = 8;  // tokens that the L2 is asked for beyond those in registers
    static_assert(kColumns <= kWarp, "a lane for each column");

    // One token in registers covers the way from the L2, not the one from memory: lanes 0-7 ask the L2 for lines of q, 8-15 of k, 16 of v.
    __device__ __forceinline__ void start_prefetch() {
        const int size = source_.dtype == FLASHQLA_DTYPE_F32 ? 4 : 2, which = lane_ / 8, line = lane_ % 8 * 128;
        const void* base = which == 0 ? source_.q : which == 1 ? source_.k : source_.v;
        const int64_t step = (which == 0 ? source_.q_step : which == 1 ? source_.k_step : source_.v_step) * size;
        has_line_ = which < 3 && line < (which == 2 ? source_.columns : source_.key_dim) * size;
        ahead_ = static_cast<const char*>(base) + line + (reverse_ ? (source_.length - 1) * step : 0);
        ahead_step_ = reverse_ ? -step : step;
        for (int t = 0; t <= kAhead; ++t) prefetch(t);
    }
    __device__ __forceinline__ void prefetch(int64_t t) {
        if (t < source_.length && has_line_) prefetch_to_l2(ahead_);
        ahead_ += ahead_step_;
    }

    template <int32_t kDtype>
    __device__ __forceinline__ void put() {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) {
            shared_.q[stage_][lane_ + j * kWarp] = bits_to_f32(q_[j], kDtype);
            shared_.k[stage_][lane_ + j * kWarp] = bits_to_f32(k_[j], kDtype);
        }
        if (lane_ < kColumns) shared_.v[stage_][lane_] = bits_to_f32(v_, kDtype);
    }

    // Zeros stand beyond K and V, so that readers need no bounds. The bits stay unread until the next advance.
    __device__ __forceinline__ void load(int64_t t) {
        if (t >= source_.length) return;
        if (reverse_) t = source_.length - 1 - t;
        if (source_.dtype == FLASHQLA_DTYPE_F32)
            load_as<uint32_t>(t);
        else
            load_as<uint16_t>(t);
    }
    template <class Bits>
    __device__ __forceinline__ void load_as(int64_t t) {
        const Bits* q = static_cast<const Bits*>(source_.q) + t * source_.q_step;
        const Bits* k = static_cast<const Bits*>(source_.k) + t * source_.k_step;
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) {
            const int i = lane_ + j * kWarp;
            q_[j] = i < source_.key_dim ? q[i] : 0u;
            k_[j] = i < source_.key_dim ? k[i] : 0u;
        }
        v_ = lane_ < source_.columns ? (static_cast<const Bits*>(source_.v) + t * source_.v_step)[lane_] : 0u;
    }

    Shared& shared_;
    const TokenSource source_;
    const int lane_;
    const bool reverse_;
    int stage_ = 0;
    uint32_t q_[kPerLane], k_[kPerLane], v_ = 0;
    const char* ahead_;
    int64_t ahead_step_;
    bool has_line_;
};

}  // namespace fqla
