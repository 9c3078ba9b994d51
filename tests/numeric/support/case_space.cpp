#include "case_space.h"

#include <utility>

#include "pairwise.h"

namespace numeric {
namespace {

enum Axis {
    heads,
    head_map,
    dims,
    dtype,
    gate_dtype,
    state_dtype,
    gate,
    gates,
    beta,
    beta_scale,
    keys,
    norm,
    layout,
    offsets,
    rows,
    strides,
    states,
    extra,
    flags,
    axes
};

struct Sizes {
    std::vector<std::pair<int32_t, int32_t>> heads, dims;
    std::vector<int32_t> dtypes;
    std::vector<std::vector<int64_t>> rows;
};

Sizes sizes_of(Space space) {
    Sizes s;
    s.heads = {{1, 1}, {2, 2}, {1, 3}, {2, 4}};
    s.dims = {{128, 128}, {64, 128}, {8, 12}, {1, 1}, {33, 17}, {256, 256}, {96, 64}};
    s.rows = {{0, 1, 63, 64, 65}, {130, 0, 7}, {1, 1, 1, 1, 1, 1, 1}, {5}, {16, 17}};
    s.dtypes = {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16};
    if (space == Space::cpu) s.dtypes.push_back(FLASHQLA_DTYPE_F64);
    if (space == Space::tensor) {
        s.dims = {{128, 128}};
        s.dtypes = {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16};
        s.rows = {{0, 1, 63, 64, 65}, {384, 65, 1, 300}, {1, 1, 1, 1, 1, 1, 1}, {1100}, {128, 0, 192}};
    }
    return s;
}

constexpr uint64_t kFlags[] = {0, FLASHQLA_PROBLEM_KEYS_BOUNDED, FLASHQLA_PROBLEM_BATCH_INVARIANT, FLASHQLA_PROBLEM_APPROXIMATE_WARMUP};
constexpr int32_t kFloats[] = {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16};

Case case_of(const Sizes& s, const Choice& x) {
    const auto at = [&](Axis axis) { return static_cast<size_t>(x[axis]); };
    Case c;
    c.key_heads = s.heads[at(heads)].first, c.value_heads = s.heads[at(heads)].second;
    c.key_dim = s.dims[at(dims)].first, c.value_dim = s.dims[at(dims)].second;
    c.dtype = s.dtypes[at(dtype)];
    c.gate_dtype = kFloats[at(gate_dtype)], c.state_dtype = kFloats[at(state_dtype)];
    c.head_map = x[head_map], c.gate = x[gate], c.beta = x[beta], c.qk_norm = x[norm], c.state_layout = x[layout];
    c.gates = static_cast<Gates>(x[gates]), c.keys = static_cast<Keys>(x[keys]);
    c.beta_scale = x[beta_scale] ? 2 : 1;
    c.offsets = static_cast<Offsets>(x[offsets]), c.strides = static_cast<Strides>(x[strides]);
    c.states = static_cast<States>(x[states]), c.extra = static_cast<Extra>(x[extra]);
    c.lengths = s.rows[at(rows)];
    c.flags = kFlags[at(flags)];
    return c;
}

}  // namespace

std::vector<Case> covering_cases(Space space, uint64_t seed, size_t one_of) {
    const Sizes s = sizes_of(space);
    std::vector<int> values(axes, 2);
    values[heads] = static_cast<int>(s.heads.size()), values[dims] = static_cast<int>(s.dims.size()), values[dtype] = static_cast<int>(s.dtypes.size());
    values[rows] = static_cast<int>(s.rows.size());
    values[gate_dtype] = values[gate] = values[keys] = 3;
    values[gates] = values[offsets] = values[flags] = 4;
    values[strides] = 6, values[states] = 7, values[extra] = 5;
    Random random(seed);
    // A choice that make_valid() changes is taken back to the values that the case then has, so that only true pairs count.
    const auto valid = [&](Choice& x) {
        Case c = case_of(s, x);
        make_valid(c);
        x[states] = static_cast<int>(c.states), x[keys] = static_cast<int>(c.keys);
        if (c.flags != kFlags[x[flags]]) x[flags] = 0;
        if (c.dtype == FLASHQLA_DTYPE_F64) x[gate_dtype] = x[state_dtype] = 0;
    };
    std::vector<Case> cases;
    size_t index = 0;
    for (const Choice& x : pairwise(values, random, valid)) {
        Case c = case_of(s, x);
        make_valid(c);
        c.seed = mix(seed + ++index);
        c.tight_max_tokens = c.offsets == Offsets::none || index % 2;
        if (index % one_of == 0) cases.push_back(c);
    }
    return cases;
}

}  // namespace numeric
