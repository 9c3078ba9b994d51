// A ring of stages between the warps that fill them (one loading warp, or math warps with output) and those that read. It alone knows stage and phase.
#pragma once
#include "mbarrier.cuh"

namespace fqla::sm90 {

// Named barriers of a block; 0 is __syncthreads.
enum NamedBarrier { kSolveBarrier = 1, kTurnBarrier, kOtherTurnBarrier };

// Shared memory of a ring: `Stages` barriers "filled", then `Stages` barriers "free".
template <int Stages>
class Ring {
public:
    static constexpr int kBytes = 16 * Stages;

    __device__ __forceinline__ explicit Ring(uint32_t barriers) : barriers_(barriers) {}

    // By one thread, before any other use. `writers` arrivals fill a stage, `readers` free it.
    __device__ __forceinline__ void init(uint32_t writers, uint32_t readers) const {
        for (int s = 0; s < Stages; ++s) barrier_init(barriers_ + 8 * s, writers), barrier_init(barriers_ + 8 * (Stages + s), readers);
    }

    __device__ __forceinline__ uint32_t stage() const { return stage_; }
    __device__ __forceinline__ uint32_t filled() const { return barriers_ + 8 * stage_; }
    __device__ __forceinline__ void wait_free() const { barrier_wait(barriers_ + 8 * (Stages + stage_), phase_ ^ 1); }
    __device__ __forceinline__ void wait_filled() const { barrier_wait(filled(), phase_); }
    __device__ __forceinline__ void release() const { barrier_arrive(barriers_ + 8 * (Stages + stage_)); }
    // The same stage in a block of the cluster, whose loads come here too.
    __device__ __forceinline__ void release_in(uint32_t rank) const { remote_arrive(remote_address(barriers_ + 8 * (Stages + stage_), rank)); }
    __device__ __forceinline__ void advance() {
        if (++stage_ == Stages) stage_ = 0, phase_ ^= 1;
    }

    // At the stage before, to release it: in which phase is not known.
    __device__ __forceinline__ Ring before() const {
        Ring r = *this;
        r.stage_ = stage_ == 0 ? Stages - 1 : stage_ - 1;
        return r;
    }

private:
    uint32_t barriers_, stage_ = 0, phase_ = 0;
};

}  // namespace fqla::sm90
