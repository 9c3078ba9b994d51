// Where the elements of a tensor lie: one layout for each way of passing strides.
#pragma once
#include <vector>

#include "case.h"

namespace numeric {

// Element (row r, token t, head h, i) at base + r*row + t*token + h*head + i. Without offsets there are several rows, else one.
struct Layout {
    int64_t rows = 1, tokens = 0, heads = 1, dim = 1;
    int64_t base = 0, row = 0, token = 0, head = 0;
    bool packed = false;   // given to the call as zeros
    int64_t elements = 0;  // of the memory

    int64_t at(int64_t r, int64_t t, int64_t h) const { return base + r * row + t * token + h * head; }
};

// A tensor's extents; set by the caller before it is laid out.
Layout shape_of(const Case& c, int64_t tokens, int64_t heads, int64_t dim);

// Lays out tensors of one element type that may share memory (Strides::projection: side by side in each token's row). Returns the
// elements of their memory where they share it, else 0 and each has `elements` of its own.
int64_t lay_out(Strides strides, const std::vector<Layout*>& group);

// [rows, HV, K*V] of d_final and d_initial.
Layout lay_out_states(const Case& c);

}  // namespace numeric
