// kernels/ptx/mbarrier.cuh on the CPU. A barrier's state lies in shared memory, as on the GPU: what overwrites it breaks it.
#pragma once
#include "cuda_words.h"

namespace fqla::sm90 {

struct BarrierState {
    int16_t arrivals, pending;
    int32_t bytes : 24;
    uint32_t phase : 1, alive : 7;
};
static_assert(sizeof(BarrierState) == 8, "as mbarrier.b64");
constexpr uint32_t kAlive = 0x2A;

inline uint32_t shared_address(const void* p) {
    const emulated::Thread& t = emulated::me();
    return static_cast<uint32_t>(static_cast<const char*>(p) - emulated::machine().block().shared) | static_cast<uint32_t>(t.rank) << emulated::kRankShift;
}

inline BarrierState& barrier_at(emulated::Multiprocessor& m, uint32_t bar) {
    BarrierState& b = *reinterpret_cast<BarrierState*>(m.at(bar, sizeof(BarrierState)));
    if (bar % 8 || b.alive != kAlive) m.fail("no barrier at %u of shared memory", bar & emulated::kOffsetMask);
    return b;
}
inline void change_barrier(emulated::Multiprocessor& m, uint32_t bar, int arrivals, int bytes) {
    BarrierState& b = barrier_at(m, bar);
    b.bytes = b.bytes + bytes;
    b.pending = static_cast<int16_t>(b.pending - arrivals);
    if (b.pending < 0) m.fail("more arrivals than the %d that the barrier at %u was made for", b.arrivals, bar & emulated::kOffsetMask);
    if (b.pending == 0 && b.bytes == 0) b.pending = b.arrivals, b.phase ^= 1;
}

inline void barrier_init(uint32_t bar, uint32_t arrivals) {
    const auto count = static_cast<int16_t>(arrivals);
    const BarrierState b{count, count, 0, 0, kAlive};
    memcpy(emulated::machine().at(bar, sizeof b), &b, sizeof b);
}
inline void barrier_init_fence() {}
inline void barrier_arrive(uint32_t bar) { change_barrier(emulated::machine(), bar, 1, 0); }
inline void barrier_expect(uint32_t bar, uint32_t bytes) { change_barrier(emulated::machine(), bar, 1, static_cast<int>(bytes)); }
inline void barrier_wait(uint32_t bar, uint32_t parity) {
    const auto over = [](const void* b, uint64_t p) { return static_cast<const BarrierState*>(b)->phase != p; };
    emulated::machine().wait({over, &barrier_at(emulated::machine(), bar), parity, "a barrier in shared memory, parity"});
}

inline uint32_t remote_address(uint32_t address, uint32_t rank) { return (address & emulated::kOffsetMask) | rank << emulated::kRankShift; }
inline void remote_arrive(uint32_t bar) { barrier_arrive(bar); }
inline void arrive_cluster() { emulated::machine().arrive_cluster(); }
inline void wait_cluster() { emulated::machine().wait_cluster(); }
inline void sync_cluster() { arrive_cluster(), wait_cluster(); }
inline void fence_to_async() {}
inline void sync_threads(int id, int threads) { emulated::machine().sync_named(id, threads); }
inline void arrive_threads(int id, int threads) { emulated::machine().arrive_named(id, threads); }

}  // namespace fqla::sm90
