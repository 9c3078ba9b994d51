// One combination of forms: everything about a call but its numbers and the contents of its tables.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "flashqla.h"

namespace numeric {

enum class Offsets { none, i32, i64, gaps };  // gaps: i32, with tokens before the first row and behind the last
enum class Strides { packed, projection, head_major, padded, repeated, unaligned };
enum class States { none, read, write, separate, in_place, in_place_slots, special_slots };
enum class Extra { none, checkpoints, token_states, accepted, no_final };
enum class Gates { none, gentle, model, strong };  // distributions, as bench/compare.py's Case makes them
enum class Keys { random, alike, long_ };          // alike: cosine about 0.9; long: norm 1.4

struct Case {
    int32_t key_heads = 2, value_heads = 4, key_dim = 32, value_dim = 32;
    int32_t dtype = FLASHQLA_DTYPE_F32, gate_dtype = FLASHQLA_DTYPE_F32, state_dtype = FLASHQLA_DTYPE_F32;
    int32_t head_map = FLASHQLA_HEADS_GROUPED, gate = FLASHQLA_GATE_LOG, beta = FLASHQLA_BETA_VALUE, qk_norm = FLASHQLA_NORM_NONE;
    int32_t state_layout = FLASHQLA_STATE_KV;
    double beta_scale = 1, scale = 0, eps = 0;
    uint64_t flags = 0;
    std::vector<int64_t> lengths{70};  // of rows; equal ones where offsets are none
    bool tight_max_tokens = true;      // else max_tokens is left 0
    Offsets offsets = Offsets::i32;
    Strides strides = Strides::packed;
    States states = States::separate;
    Extra extra = Extra::none;
    int64_t checkpoint_interval = 64, token_width = 3;
    Gates gates = Gates::model;
    Keys keys = Keys::random;
    uint64_t seed = 1;

    int64_t rows() const { return static_cast<int64_t>(lengths.size()); }
    int64_t longest() const;
    int64_t state_elements() const { return int64_t{value_heads} * key_dim * value_dim; }
    int64_t key_head_of(int64_t value_head) const;
    bool reads_state() const { return states != States::none && states != States::write; }
    bool writes_state() const { return states != States::none && states != States::read; }
    bool in_place() const { return states == States::in_place || states == States::in_place_slots; }
    bool has_slot_tables() const { return states == States::in_place_slots || states == States::special_slots; }
    bool stores_tokens() const { return extra == Extra::token_states || extra == Extra::accepted || extra == Extra::no_final; }
    double output_scale() const;

    std::string text() const;  // one line
};

// Makes the combination one that the library takes: what a choice forces, later fields give way to earlier ones.
void make_valid(Case& c);

}  // namespace numeric
