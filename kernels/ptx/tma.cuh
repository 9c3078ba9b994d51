// The copy engine: boxes by tensor map, plain runs of bytes, and the waits of its stores.
#pragma once
#include "mbarrier.cuh"
#include "sm90_params.h"

namespace fqla::sm90 {

__device__ __forceinline__ void prefetch_map(const TensorMap& map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}

// One box of a [rows, tokens, heads, dim] tensor into shared memory; completes on `bar`.
__device__ __forceinline__ void load_box(uint32_t to, const TensorMap& map, int dim, int head, int token, int row, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
                 "l"(reinterpret_cast<uint64_t>(&map)), "r"(dim), "r"(head), "r"(token), "r"(row), "r"(bar)
                 : "memory");
}

// As load_box, to the same place in both blocks of a pair; completes on the same barrier in each.
__device__ __forceinline__ void load_box_pair(uint32_t to, const TensorMap& map, int dim, int head, int token, int row, uint32_t bar) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
        "l"(reinterpret_cast<uint64_t>(&map)), "r"(dim), "r"(head), "r"(token), "r"(row), "r"(bar), "h"(static_cast<uint16_t>(3))
        : "memory");
}

// The way back, in this thread's current group of stores.
__device__ __forceinline__ void store_box(const TensorMap& map, uint32_t from, int dim, int head, int token, int row) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(reinterpret_cast<uint64_t>(&map)), "r"(dim),
                 "r"(head), "r"(token), "r"(row), "r"(from)
                 : "memory");
}

// `bytes` (a multiple of 16) between 16-byte aligned places.
__device__ __forceinline__ void load_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
__device__ __forceinline__ void load_bytes_pair(uint32_t to, const void* from, uint32_t bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(bar), "h"(static_cast<uint16_t>(3))
                 : "memory");
}
__device__ __forceinline__ void store_bytes(void* to, uint32_t from, uint32_t bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
// Into another block of the cluster; `to` and `bar` are addresses there.
__device__ __forceinline__ void push_bytes(uint32_t to, uint32_t from, uint32_t bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "r"(from), "r"(bytes), "r"(bar)
                 : "memory");
}
__device__ __forceinline__ void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// All stores of this thread have read their shared memory.
__device__ __forceinline__ void wait_stores_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Programmatic dependent launch: what follows may read what the kernel before has written / the kernel after may start its prologue.
__device__ __forceinline__ void wait_for_predecessor() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
__device__ __forceinline__ void let_successor_start() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }

}  // namespace fqla::sm90
