#include "outcome.h"

#include <algorithm>
#include <cstring>

namespace numeric {

Grid::Grid(const char* grid_name, int32_t stored, std::vector<int64_t> extents, double usual)
    : name(grid_name), dtype(stored), shape(std::move(extents)), natural(usual) {
    value.assign(static_cast<size_t>(inner(0)), 0.0);
    written.assign(value.size(), 0);
}

int64_t Grid::inner(size_t from) const {
    int64_t n = 1;
    for (size_t i = from; i < shape.size(); i++) n *= shape[i];
    return n;
}

void Grid::fill(int64_t begin, int64_t count, double x) {
    std::fill_n(value.begin() + begin, count, x);
    std::fill_n(written.begin() + begin, count, uint8_t{1});
}

Grid* Outcome::find(const char* name) {
    for (Grid& g : grids)
        if (!std::strcmp(g.name, name)) return &g;
    return nullptr;
}

Outcome empty_forward(const Sample& s) {
    const Case& c = s.c;
    Outcome o;
    o.grids.emplace_back("out", c.dtype, std::vector<int64_t>{s.tokens, c.value_heads, c.value_dim}, c.output_scale());
    if (c.writes_state()) o.grids.emplace_back("state", c.state_dtype, std::vector<int64_t>{s.tables.slots, c.value_heads, c.key_dim, c.value_dim}, 1.0);
    return o;
}

Outcome empty_backward(const Sample& s) {
    const Case& c = s.c;
    const auto tensor = [](int64_t a, int64_t b, int64_t d) { return std::vector<int64_t>{a, b, d}; };
    Outcome o;
    o.grids.emplace_back("dq", c.dtype, tensor(s.tokens, c.key_heads, c.key_dim), c.output_scale());
    o.grids.emplace_back("dk", c.dtype, tensor(s.tokens, c.key_heads, c.key_dim), 1.0);
    o.grids.emplace_back("dv", c.dtype, tensor(s.tokens, c.value_heads, c.value_dim), 1.0);
    o.grids.emplace_back("d_gate", c.gate_dtype, tensor(s.tokens, c.value_heads, 1), 1.0);
    o.grids.emplace_back("d_beta", c.gate_dtype, tensor(s.tokens, c.value_heads, 1), 1.0);
    if (c.gate == FLASHQLA_GATE_RAW) {
        o.grids.emplace_back("dA_log", c.gate_dtype, tensor(1, c.value_heads, 1), 1.0);
        o.grids.emplace_back("ddt_bias", c.gate_dtype, tensor(1, c.value_heads, 1), 1.0);
    }
    o.grids.emplace_back("d_initial", c.state_dtype, std::vector<int64_t>{c.rows(), c.value_heads, c.key_dim, c.value_dim}, 1.0);
    return o;
}

}  // namespace numeric
