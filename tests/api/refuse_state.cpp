// What flashqla_state refuses.
#include "rule.h"

namespace {

// Breaks one field of a state that has everything: pools, slots, checkpoints, per-token states in one pool, accepted counts.
template <class Break>
std::function<void(Call&)> with_states(Break broken_by) {
    return [broken_by](Call& c) {
        c.give_states();
        broken_by(c, c.state);
    };
}
#define STATE(...) with_states([](Call& c, flashqla_state& s) { (void)c, __VA_ARGS__; })

void give_tables(Call& c) {
    flashqla_state& s = c.state;
    s.checkpoint_interval = 64, s.checkpoint_slots = c.checkpoint_slots, s.checkpoint_width = Call::kTableWidth;
    s.token_slots = c.token_slots, s.token_width = Call::kTableWidth;
}

void give_one_pool(Call& c) {
    give_tables(c);
    c.state.read_data = c.write_pool;
    c.state.accepted = c.accepted;
}

constexpr int64_t kPacked = Call::kState;

const std::vector<Rule> kRules = {
    {"struct_size", STATE(s.struct_size = 100), {"flashqla_state.struct_size", "= 100", "at least 128"}},
    {"reserved", STATE(s.reserved = 1), {"state.reserved", "= 1", "must be 0"}},
    {"flags", STATE(s.flags = 2), {"state.flags", "0x2", "unknown"}},
    {"read slots without a pool", STATE(s.read_data = nullptr), {"state.read_slots", "state.read_data is NULL", "need a pool"}},
    {"write slots without a pool", STATE(s.write_data = nullptr), {"state.write_slots", "state.write_data is NULL", "need a pool"}},
    {"read slots misaligned", STATE(s.read_slots = shifted(s.read_slots, 1)), {"state.read_slots", "4-byte aligned"}},
    {"write slots misaligned", STATE(s.write_slots = shifted(s.write_slots, 2)), {"state.write_slots", "4-byte aligned"}},
    {"read pool misaligned", STATE(s.read_data = shifted(c.read_pool, 2)), {"state.read_data", "aligned", "4 bytes"}},
    {"write pool misaligned", STATE(s.write_data = shifted(c.write_pool, 1)), {"state.write_data", "aligned", "4 bytes"}},
    {"read slot count negative", STATE(s.read_slots_count = -1), {"state.read_slots_count", "= -1", ">= 0"}},
    {"write slot count negative", STATE(s.write_slots_count = -1), {"state.write_slots_count", "= -1", ">= 0"}},
    {"read stride negative", STATE(s.read_slot_stride = -512), {"state.read_slot_stride", "= -512", "HV*K*V = 512"}},
    {"read stride short", STATE(s.read_slot_stride = kPacked - 1), {"state.read_slot_stride", "= 511", "HV*K*V = 512"}},
    {"write stride short", STATE(s.write_slot_stride = 1), {"state.write_slot_stride", "= 1", "HV*K*V = 512"}},
    {"read pool past int64", STATE(s.read_slots_count = INT64_MAX), {"state.read_slots_count", "9223372036854775807", "int64"}},
    {"write pool past int64", STATE(s.write_slot_stride = INT64_MAX / 2), {"state.write_slots_count", "int64"}},
    {"fewer slots than rows, no table", STATE(s.read_slots = nullptr, s.read_slots_count = 2), {"state.read_slots_count", "= 2", "3 rows"}},
    {"fewer write slots than rows, no table", STATE(s.write_slots = nullptr, s.write_slots_count = 1), {"state.write_slots_count", "= 1", "3 rows"}},
    {"checkpoint interval negative", STATE(give_tables(c), s.checkpoint_interval = -64), {"state.checkpoint_interval", "= -64", "multiple of 64"}},
    {"checkpoint interval off the grid", STATE(give_tables(c), s.checkpoint_interval = 100), {"state.checkpoint_interval", "= 100", "multiple of 64"}},
    {"checkpoint width negative", STATE(give_tables(c), s.checkpoint_width = -1), {"state.checkpoint_width", "= -1", ">= 0"}},
    {"checkpoints without a table", STATE(give_tables(c), s.checkpoint_slots = nullptr), {"state.checkpoint_slots", "NULL", "checkpoint_interval = 64"}},
    {"checkpoints without an interval", STATE(give_tables(c), s.checkpoint_interval = 0), {"state.checkpoint_interval", "= 0", "together"}},
    {"checkpoints misaligned", STATE(give_tables(c), s.checkpoint_slots = shifted(s.checkpoint_slots, 2)), {"state.checkpoint_slots", "4-byte aligned"}},
    {"checkpoints without a pool", STATE(give_tables(c), s.write_slots = nullptr, s.write_data = nullptr), {"state.write_data", "NULL", "checkpoint_slots"}},
    {"checkpoint table past int64", STATE(give_tables(c), s.checkpoint_width = INT64_MAX / 2), {"state.checkpoint_width", "4611686018427387903", "int64"}},
    {"token width negative", STATE(give_tables(c), s.token_width = -1), {"state.token_width", "= -1", ">= 0"}},
    {"token width without a table", STATE(s.token_width = 3), {"state.token_slots", "NULL", "token_width = 3"}},
    {"token slots misaligned", STATE(give_tables(c), s.token_slots = shifted(s.token_slots, 3)), {"state.token_slots", "4-byte aligned"}},
    {"token slots without a pool",
     STATE(s.token_slots = c.token_slots, s.token_width = 4, s.write_slots = nullptr, s.write_data = nullptr),
     {"state.write_data", "NULL", "token_slots"}},
    {"token table past int64", STATE(give_tables(c), s.token_width = INT64_MAX), {"token_width = 9223372036854775807", "int64"}},
    {"accepted without token slots", STATE(give_one_pool(c), s.token_slots = nullptr, s.token_width = 0), {"state.accepted", "token_slots"}},
    {"accepted over two pools", STATE(give_one_pool(c), s.read_data = c.read_pool), {"state.accepted", "same pool"}},
    {"accepted without reading", STATE(give_one_pool(c), s.read_slots = nullptr, s.read_data = nullptr), {"state.accepted", "same pool"}},
    {"accepted misaligned", STATE(give_one_pool(c), s.accepted = shifted(s.accepted, 2)), {"state.accepted", "4-byte aligned"}},
    {"one pool of two counts", STATE(s.read_data = c.write_pool, s.read_slots_count = 5), {"state.write_data", "(5, 6)", "equal"}},
    {"one pool of two strides", STATE(s.read_data = c.write_pool, s.read_slot_stride = 600), {"state.write_data", "(600, 512)", "equal"}},
};

}  // namespace

TEST_SUITE("refuse") {
    TEST_CASE("state") { check_rules(kRules, through_all); }
}
