#include "layout.h"

#include <algorithm>

namespace numeric {
namespace {

void finish(Layout& x) {
    const auto last = [](int64_t extent, int64_t stride) { return extent > 0 ? (extent - 1) * stride : 0; };
    x.elements = x.base + last(x.rows, x.row) + last(x.tokens, x.token) + last(x.heads, x.head) + x.dim;
}

void lay_out_alone(Strides strides, Layout& x) {
    const int64_t tokens = std::max<int64_t>(x.tokens, 1);
    if (strides == Strides::head_major) {
        x.token = x.dim, x.head = tokens * x.dim, x.row = x.heads * x.head;
    } else {
        // Multiples of eight elements keep what was aligned to 16 bytes aligned; odd ones make sure that nothing is.
        const bool padded = strides == Strides::padded, odd = strides == Strides::unaligned;
        x.base = odd ? 1 : 0;
        x.head = x.dim + (padded ? 8 : odd ? 1 : 0);
        x.token = x.heads * x.head + (padded ? 16 : odd ? 3 : 0);
        x.row = tokens * x.token + (padded ? 64 : odd ? 5 : 0);
        x.packed = strides == Strides::packed;
    }
    finish(x);
}

}  // namespace

Layout shape_of(const Case& c, int64_t tokens, int64_t heads, int64_t dim) {
    Layout x;
    x.rows = c.offsets == Offsets::none ? c.rows() : 1;
    x.tokens = c.offsets == Offsets::none ? c.longest() : tokens;
    x.heads = heads;
    x.dim = dim;
    return x;
}

int64_t lay_out(Strides strides, const std::vector<Layout*>& group) {
    if (strides != Strides::projection) {
        for (Layout* x : group) lay_out_alone(strides, *x);
        return 0;
    }
    constexpr int64_t spare = 16;  // something else of the model lies behind
    int64_t width = 0, elements = 0;
    for (Layout* x : group) {
        x->base = width;
        x->head = x->dim;
        width += x->heads * x->dim;
    }
    width += spare;
    for (Layout* x : group) {
        x->token = width;
        x->row = std::max<int64_t>(x->tokens, 1) * width;
        finish(*x);
        elements = std::max(elements, x->elements);
    }
    return elements;
}

Layout lay_out_states(const Case& c) {
    Layout x;
    x.rows = c.rows(), x.tokens = 1, x.heads = c.value_heads, x.dim = int64_t{c.key_dim} * c.value_dim;
    x.packed = c.strides == Strides::packed;
    x.head = x.dim + (x.packed ? 0 : 8);
    x.row = x.heads * x.head + (x.packed ? 0 : 24);
    finish(x);
    return x;
}

}  // namespace numeric
