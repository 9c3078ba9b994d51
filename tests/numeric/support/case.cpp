#include "case.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "numbers.h"

namespace numeric {

int64_t Case::longest() const { return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end()); }

int64_t Case::key_head_of(int64_t value_head) const {
    return head_map == FLASHQLA_HEADS_TILED ? value_head % key_heads : value_head / (value_heads / key_heads);
}

double Case::output_scale() const { return scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(key_dim)); }

std::string Case::text() const {
    constexpr const char* gate_forms[] = {"log", "linear", "raw"};
    constexpr const char* offset_forms[] = {"none", "i32", "i64", "gaps"};
    constexpr const char* stride_forms[] = {"packed", "projection", "head_major", "padded", "repeated", "unaligned"};
    constexpr const char* state_forms[] = {"none", "read", "write", "separate", "in_place", "in_place_slots", "special_slots"};
    constexpr const char* extras[] = {"none", "checkpoints", "token_states", "accepted", "no_final"};
    constexpr const char* gate_values[] = {"none", "gentle", "model", "strong"};
    constexpr const char* key_values[] = {"random", "alike", "long"};
    std::string rows_text;
    for (size_t i = 0; i < lengths.size() && i < 8; i++) rows_text += (i ? "+" : "") + std::to_string(lengths[i]);
    if (lengths.size() > 8) rows_text += "+... " + std::to_string(lengths.size()) + " rows";
    char line[640];
    std::snprintf(
        line, sizeof line,
        "heads %d/%d %s dims %dx%d dtype %s/%s/%s gate %s %s beta %s x%g keys %s%s state %s %s extra %s rows %s offsets %s strides %s flags %llx seed %llx",
        key_heads, value_heads, head_map ? "tiled" : "grouped", key_dim, value_dim, dtype_name(dtype), dtype_name(gate_dtype), dtype_name(state_dtype),
        gate_forms[gate], gate_values[static_cast<int>(gates)], beta ? "logit" : "value", beta_scale, key_values[static_cast<int>(keys)], qk_norm ? " l2" : "",
        state_layout ? "VK" : "KV", state_forms[static_cast<int>(states)], extras[static_cast<int>(extra)], rows_text.c_str(),
        offset_forms[static_cast<int>(offsets)], stride_forms[static_cast<int>(strides)], static_cast<unsigned long long>(flags),
        static_cast<unsigned long long>(seed));
    return line;
}

void make_valid(Case& c) {
    if (c.dtype == FLASHQLA_DTYPE_F64) c.gate_dtype = c.state_dtype = FLASHQLA_DTYPE_F64;
    if (c.extra == Extra::accepted) c.states = States::in_place_slots;
    if (c.extra != Extra::none && !c.writes_state()) c.states = States::separate;
    // Beyond beta |k|^2 = 2 the recurrence itself diverges in few dimensions.
    if (c.keys == Keys::long_ && (c.qk_norm == FLASHQLA_NORM_L2 || (c.beta_scale > 1 && c.key_dim < 64))) c.keys = Keys::random;
    if ((c.flags & FLASHQLA_PROBLEM_KEYS_BOUNDED) && (c.keys == Keys::long_ || c.beta_scale > 1)) c.flags &= ~uint64_t{FLASHQLA_PROBLEM_KEYS_BOUNDED};
    if (c.offsets == Offsets::none && !c.lengths.empty()) c.lengths.assign(c.lengths.size() > 3 ? 3 : c.lengths.size(), c.longest());
}

}  // namespace numeric
