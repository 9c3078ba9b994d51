// kernels/ptx/shared.cuh on the CPU.
#pragma once
#include "cuda_words.h"

#define FQLA_DYNAMIC_SHARED(name) char* const name = emulated::machine().block().shared

namespace fqla::sm90 {

inline char* aligned_place(uint32_t a, uint32_t bytes) {
    if (a % bytes) emulated::machine().fail("%u bytes at %u of shared memory: not aligned", bytes, a & emulated::kOffsetMask);
    return emulated::machine().at(a, bytes);
}
template <class T>
T load_shared(uint32_t a) {
    T v;
    memcpy(&v, aligned_place(a, sizeof v), sizeof v);
    return v;
}
template <class T>
void store_shared(uint32_t a, const T& v) {
    memcpy(aligned_place(a, sizeof v), &v, sizeof v);
}

inline float2 load_shared_f2(uint32_t a) { return load_shared<float2>(a); }
inline float load_shared_f(uint32_t a) { return load_shared<float>(a); }
inline float4 load_shared_f4(uint32_t a) { return load_shared<float4>(a); }
inline uint16_t load_shared_u16(uint32_t a) { return load_shared<uint16_t>(a); }
inline uint32_t load_shared_u(uint32_t a) { return load_shared<uint32_t>(a); }
inline uint2 load_shared_u2(uint32_t a) { return load_shared<uint2>(a); }
inline uint4 load_shared_u4(uint32_t a) { return load_shared<uint4>(a); }
inline void store_shared_f2(uint32_t a, float x, float y) { store_shared(a, float2{x, y}); }
inline void store_shared_f4(uint32_t a, float x, float y, float z, float w) { store_shared(a, float4{x, y, z, w}); }
inline void store_shared_u4(uint32_t a, uint4 v) { store_shared(a, v); }
inline void store_shared_u(uint32_t a, uint32_t v) { store_shared(a, v); }
inline void store_shared_f(uint32_t a, float x) { store_shared(a, x); }
inline void store_shared_zero16(uint32_t a) { store_shared(a, uint4{0, 0, 0, 0}); }

// Where lane `lane`'s value `element` (0 or 1) of a matrix lies, whose rows' addresses the warp has brought.
inline uint32_t fragment_place(const uint64_t* rows, int matrix, int element, bool across) {
    const int lane = emulated::lane(), far = lane / 4, near = 2 * (lane % 4) + element;
    const int row = across ? near : far, column = across ? far : near;
    return static_cast<uint32_t>(rows[8 * matrix + row]) + static_cast<uint32_t>(2 * column);
}
inline void load_matrices_as(uint32_t* r, uint32_t a, bool across) {
    if (a % 16) emulated::machine().fail("a matrix row at %u of shared memory: not aligned", a & emulated::kOffsetMask);
    const uint64_t* rows = emulated::machine().meet_warp(a);
    for (int m = 0; m < 4; m++)
        r[m] = load_shared<uint16_t>(fragment_place(rows, m, 0, across)) | static_cast<uint32_t>(load_shared<uint16_t>(fragment_place(rows, m, 1, across)))
                                                                               << 16;
}
inline void store_matrices_as(uint32_t a, const uint32_t* r, bool across) {
    if (a % 16) emulated::machine().fail("a matrix row at %u of shared memory: not aligned", a & emulated::kOffsetMask);
    const uint64_t* rows = emulated::machine().meet_warp(a);
    for (int m = 0; m < 4; m++)
        for (int e = 0; e < 2; e++) store_shared(fragment_place(rows, m, e, across), static_cast<uint16_t>(r[m] >> (16 * e)));
}
inline void load_matrices_across(uint32_t* r, uint32_t a) { load_matrices_as(r, a, true); }
inline void load_matrices(uint32_t* r, uint32_t a) { load_matrices_as(r, a, false); }
inline void store_matrices(uint32_t a, const uint32_t* r) { store_matrices_as(a, r, false); }
inline void store_matrices_across(uint32_t a, const uint32_t* r) { store_matrices_as(a, r, true); }

}  // namespace fqla::sm90
