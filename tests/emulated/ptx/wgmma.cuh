// kernels/ptx/wgmma.cuh on the CPU: products are noted when they are issued and done when they are waited for, or when their group is closed.
#pragma once
#include "numbers.cuh"

namespace fqla::sm90 {

inline uint64_t tile_descriptor_at(uint32_t tile, uint32_t offset, uint32_t next_block = 16) {
    return static_cast<uint64_t>(next_block) << 32 | ((tile & emulated::kOffsetMask) + offset);
}
inline uint64_t tile_descriptor(uint32_t address, uint32_t next_block = 16) { return tile_descriptor_at(address, 0, next_block); }

inline void mma_begin() {}
inline void mma_commit() {
    emulated::Thread& t = emulated::me();
    t.product_groups.push_back(t.products.size());
    if (emulated::machine().early()) emulated::machine().finish_products(t.products.size());
}
template <int Pending>
void mma_wait() {
    const auto& groups = emulated::me().product_groups;
    if (groups.size() > Pending) emulated::machine().finish_products(groups[groups.size() - 1 - Pending]);
}

enum Columns { rows_of_b, columns_of_b };

template <class T, int N>
void issue(T, float (&d)[N], const uint32_t* a, uint64_t b, bool add, Columns columns) {
    emulated::me().products.push_back({d, 2 * N, add, true, false, columns == columns_of_b, std::is_same<T, Bf16>::value, {a[0], a[1], a[2], a[3]}, 0, b});
}
template <class T, int N>
void issue_shared(T, float (&d)[N], uint64_t a, bool a_transposed, uint64_t b, bool add, Columns columns) {
    emulated::me().products.push_back({d, 2 * N, add, false, a_transposed, columns == columns_of_b, std::is_same<T, Bf16>::value, {}, a, b});
}

template <class T>
void mma_shared_n64(T t, float (&d)[32], uint64_t a, uint64_t b, bool add) {
    issue_shared(t, d, a, false, b, add, rows_of_b);
}
template <class T>
void mma_shared_n64_fresh(T t, float (&d)[32], uint64_t a, uint64_t b) {
    issue_shared(t, d, a, false, b, false, rows_of_b);
}
template <class T>
void mma_n64(T t, float (&d)[32], const uint32_t* a, uint64_t b, bool add) {
    issue(t, d, a, b, add, rows_of_b);
}
template <class T>
void mma_n64_fresh(T t, float (&d)[32], const uint32_t* a, uint64_t b) {
    issue(t, d, a, b, false, rows_of_b);
}
template <class T>
void mma_n64_columns(T t, float (&d)[32], const uint32_t* a, uint64_t b) {
    issue(t, d, a, b, true, columns_of_b);
}
template <class T>
void mma_n64_columns_fresh(T t, float (&d)[32], const uint32_t* a, uint64_t b) {
    issue(t, d, a, b, false, columns_of_b);
}
template <class T>
void mma_shared_n64_columns(T t, float (&d)[32], uint64_t a, uint64_t b, bool add) {
    issue_shared(t, d, a, false, b, add, columns_of_b);
}
template <class T>
void mma_shared_n64_transposed(T t, float (&d)[32], uint64_t a, uint64_t b) {
    issue_shared(t, d, a, true, b, true, columns_of_b);
}
template <class T>
void mma_n128_columns(T t, float (&d)[64], const uint32_t* a, uint64_t b) {
    issue(t, d, a, b, true, columns_of_b);
}

}  // namespace fqla::sm90
