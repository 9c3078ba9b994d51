// kernels/ptx/tma.cuh on the CPU.
#pragma once
#include "mbarrier.cuh"
#include "sm90_params.h"
#include "tensor_box.h"

namespace fqla::sm90 {

constexpr uint32_t kBoxBytes = 64 * 64 * 2;

inline void prefetch_map(const TensorMap&) {}

// Into this block's memory at `to`, and its barrier.
inline void bring_box(uint32_t to, const TensorMap& map, int dim, int head, int token, int row, uint32_t bar) {
    if (to % 128) emulated::machine().fail("a box at %u of shared memory", to & emulated::kOffsetMask);
    emulated::machine().later([=, box = map](emulated::Multiprocessor& m) {  // the map may lie on the stack of a thread that ends before
        emulated::load_box(box.opaque, m.at(to, kBoxBytes), to, dim, head, token, row);
        change_barrier(m, bar, 0, -static_cast<int>(kBoxBytes));
    });
}
inline void load_box(uint32_t to, const TensorMap& map, int dim, int head, int token, int row, uint32_t bar) { bring_box(to, map, dim, head, token, row, bar); }
inline void load_box_pair(uint32_t to, const TensorMap& map, int dim, int head, int token, int row, uint32_t bar) {
    for (uint32_t rank = 0; rank < 2; rank++) bring_box(remote_address(to, rank), map, dim, head, token, row, remote_address(bar, rank));
}

// Stores read their shared memory when they are waited for, or at once.
template <class Store>
void store_at_some_time(const Store& store) {
    if (emulated::machine().early()) store();
    emulated::me().stores.push_back({emulated::machine().early() ? std::function<void()>([] {}) : std::function<void()>(store), -1});
}
inline void store_box(const TensorMap& map, uint32_t from, int dim, int head, int token, int row) {
    store_at_some_time([=, box = map] { emulated::store_box(box.opaque, emulated::machine().at(from, kBoxBytes), from, dim, head, token, row); });
}
inline void store_bytes(void* to, uint32_t from, uint32_t bytes) {
    store_at_some_time([=] { memcpy(to, emulated::machine().at(from, bytes), bytes); });
}
inline void commit_stores() { emulated::close_group(emulated::me().stores, emulated::me().store_groups); }
inline void wait_stores_read() { emulated::finish_groups(emulated::me().stores, emulated::me().store_groups); }

inline void load_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
    if (to % 16 || bytes % 16 || reinterpret_cast<uintptr_t>(from) % 16) emulated::machine().fail("%u bytes from %p to %u: not of 16", bytes, from, to);
    emulated::machine().later([=](emulated::Multiprocessor& m) {
        memcpy(m.at(to, bytes), from, bytes);
        change_barrier(m, bar, 0, -static_cast<int>(bytes));
    });
}
inline void load_bytes_pair(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
    for (uint32_t rank = 0; rank < 2; rank++) load_bytes(remote_address(to, rank), from, bytes, remote_address(bar, rank));
}
inline void push_bytes(uint32_t to, uint32_t from, uint32_t bytes, uint32_t bar) {
    emulated::machine().later([=](emulated::Multiprocessor& m) {
        memcpy(m.at(to, bytes), m.at(from, bytes), bytes);
        change_barrier(m, bar, 0, -static_cast<int>(bytes));
    });
}

// Launches come one after another here.
inline void wait_for_predecessor() {}
inline void let_successor_start() {}

}  // namespace fqla::sm90
