// Tensor maps of the emulated driver: what cuTensorMapEncodeTiled notes in the 128 bytes, and boxes by them.
#pragma once
#include <cstdint>
#include <cstring>

#include "numbers.h"

namespace emulated {

struct TensorBox {
    char* data;
    uint64_t extents[4];  // dim, head, token, row
    uint64_t strides[3];  // bytes; of head, token, row
};
static_assert(sizeof(TensorBox) <= 128, "of a CUtensorMap");

inline TensorBox tensor_box(const void* opaque) {
    TensorBox t;
    memcpy(&t, opaque, sizeof t);
    return t;
}

// visit(element of the tensor, or null outside it; its place in the swizzled tile at shared address `address`)
template <class Visit>
void for_each_of_box(const void* opaque, uint32_t address, int dim, int head, int token, int row, const Visit& visit) {
    const TensorBox t = tensor_box(opaque);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            const int64_t at[4] = {dim + j, head, token + i, row};
            bool inside = true;
            for (int d = 0; d < 4; d++) inside &= at[d] >= 0 && at[d] < static_cast<int64_t>(t.extents[d]);
            char* element = inside ? t.data + at[0] * 2 + at[1] * static_cast<int64_t>(t.strides[0]) + at[2] * static_cast<int64_t>(t.strides[1]) +
                                         at[3] * static_cast<int64_t>(t.strides[2])
                                   : nullptr;
            const uint32_t offset = static_cast<uint32_t>(i * 128 + j * 2);
            visit(element, swizzle_128(address + offset) - address);
        }
}

inline void load_box(const void* opaque, char* shared, uint32_t address, int dim, int head, int token, int row) {
    for_each_of_box(opaque, address, dim, head, token, row, [&](const char* element, uint32_t place) {
        if (element)
            memcpy(shared + place, element, 2);
        else
            memset(shared + place, 0, 2);
    });
}

inline void store_box(const void* opaque, const char* shared, uint32_t address, int dim, int head, int token, int row) {
    for_each_of_box(opaque, address, dim, head, token, row, [&](char* element, uint32_t place) {
        if (element) memcpy(element, shared + place, 2);
    });
}

}  // namespace emulated
