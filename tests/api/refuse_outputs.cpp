// What forward and backward refuse of their outputs: where they lie, and what they may not meet.
#include "rule.h"

namespace {

void packed_out(flashqla_tensor& t) { t.stride_head = 16, t.stride_token = 64, t.stride_row = 256; }

const std::vector<Rule> kForward = {
    {"no args", [](Call& c) { c.use_args = nullptr; }, {"flashqla_forward_args", "NULL"}},
    {"struct_size", [](Call& c) { c.args.struct_size = 400; }, {"flashqla_forward_args.struct_size", "= 400", "at least 472"}},
    {"reserved", [](Call& c) { c.args.reserved = 9; }, {"args.reserved", "= 9", "must be 0"}},
    {"out not given", [](Call& c) { c.args.out.data = nullptr; }, {"args.out", "NULL", "required"}},
    {"out misaligned", [](Call& c) { c.args.out.data = shifted(c.out, 1); }, {"args.out.data", "aligned"}},
    {"out of another dtype", [](Call& c) { c.args.out.dtype = FLASHQLA_DTYPE_F16; }, {"args.out.dtype", "= 3", "problem.dtype"}},
    {"out repeats rows", [](Call& c) { packed_out(c.args.out), c.args.out.stride_row = 0; }, {"args.out.stride_row", "= 0", "at least 16"}},
    {"out repeats tokens", [](Call& c) { packed_out(c.args.out), c.args.out.stride_token = 0; }, {"args.out.stride_token", "= 0", "at least 16"}},
    {"out repeats heads", [](Call& c) { packed_out(c.args.out), c.args.out.stride_head = 0; }, {"args.out.stride_head", "= 0", "at least 16"}},
    {"heads of out reach into the next token", [](Call& c) { packed_out(c.args.out), c.args.out.stride_token = 63; }, {"args.out", "token 63", "share memory"}},
    {"rows of out reach into each other", [](Call& c) { packed_out(c.args.out), c.args.out.stride_row = 192; }, {"args.out", "row 192", "share memory"}},
    {"out over q", [](Call& c) { c.args.out.data = c.q; }, {"args.out", "overlaps", "args.q"}},
    {"out over the end of v", [](Call& c) { c.args.out.data = c.v + 64; }, {"args.out", "overlaps", "args.v"}},
    {"out over gate", [](Call& c) { c.args.gate.data = c.out + 700; }, {"args.out", "overlaps", "args.gate"}},
    {"out over A_log", [](Call& c) { c.make_raw(), c.args.A_log.data = c.out; }, {"args.out", "overlaps", "args.A_log"}},
    {"out over offsets", [](Call& c) { c.sequences.offsets = c.out; }, {"args.out", "overlaps", "sequences.offsets"}},
    {"out over slots", [](Call& c) { c.give_states(), c.state.read_slots = reinterpret_cast<int32_t*>(c.out); }, {"args.out", "overlaps", "state.read_slots"}},
    {"out over the read pool", [](Call& c) { c.give_states(), c.args.out.data = c.read_pool + 512; }, {"args.out", "overlaps", "state.read_data"}},
    {"out over the write pool", [](Call& c) { c.give_states(), c.args.out.data = c.write_pool + 4; }, {"args.out", "overlaps", "state.write_data"}},
    {"write pool over k", [](Call& c) { c.give_states(), c.args.k.data = c.write_pool; }, {"state.write_data", "overlaps", "args.k"}},
    {"write pool over its slots",
     [](Call& c) { c.give_states(), c.state.write_slots = reinterpret_cast<int32_t*>(c.write_pool + 9); },
     {"state.write_data", "overlaps", "state.write_slots"}},
    {"write pool partly over the read pool",
     [](Call& c) { c.give_states(), c.state.read_data = c.write_pool + Call::kState, c.state.read_slots_count = 5; },
     {"state.write_data", "overlaps", "state.read_data"}},
    {"workspace over beta", [](Call& c) { c.args.beta.data = c.scratch; }, {"workspace", "overlaps", "args.beta"}},
    {"workspace over out", [](Call& c) { c.args.out.data = c.scratch + 64; }, {"workspace", "overlaps", "args.out"}},
    {"saved over workspace", [](Call& c) { c.args.saved = c.scratch + 256, c.args.saved_bytes = 64; }, {"args.saved", "overlaps", "workspace"}},
    {"saved over v", [](Call& c) { c.args.saved = c.v, c.args.saved_bytes = 64; }, {"args.saved", "overlaps", "args.v"}},
};

const std::vector<Rule> kBackward = {
    {"no args", [](Call& c) { c.use_grads = nullptr; }, {"flashqla_backward_args", "NULL"}},
    {"struct_size", [](Call& c) { c.grads.struct_size = 472; }, {"flashqla_backward_args.struct_size", "= 472", "at least 976"}},
    {"reserved", [](Call& c) { c.grads.reserved = 1; }, {"args.reserved", "= 1", "must be 0"}},
    {"no d_out", [](Call& c) { c.grads.d_out.data = nullptr; }, {"args.d_out", "NULL", "required"}},
    {"d_final over tokens", [](Call& c) { c.grads.d_final.stride_token = 512; }, {"args.d_final.stride_token", "= 512", "must be 0"}},
    {"d_final f16", [](Call& c) { c.grads.d_final.dtype = FLASHQLA_DTYPE_F16; }, {"args.d_final.dtype", "= 3", "F32 or BF16"}},
    {"d_final misaligned", [](Call& c) { c.grads.d_final.data = shifted(c.d_final, 2); }, {"args.d_final.data", "aligned"}},
    {"d_initial over tokens", [](Call& c) { c.grads.d_initial.stride_token = 1; }, {"args.d_initial.stride_token", "= 1", "must be 0"}},
    {"d_initial repeats rows", [](Call& c) { c.grads.d_initial.stride_head = 128; }, {"args.d_initial.stride_row", "= 0", "at least 128"}},
    {"d_initial over d_final", [](Call& c) { c.grads.d_initial.data = c.d_final; }, {"args.d_initial", "overlaps", "args.d_final"}},
    {"d_initial over the read pool", [](Call& c) { c.give_states(), c.grads.d_initial.data = c.read_pool; }, {"args.d_initial", "overlaps", "state.read_data"}},
    {"dq of another dtype", [](Call& c) { c.grads.dq.dtype = FLASHQLA_DTYPE_F64; }, {"args.dq.dtype", "= 4", "problem.dtype"}},
    {"dq repeats heads", [](Call& c) { c.grads.dq.stride_token = 16, c.grads.dq.stride_row = 64; }, {"args.dq.stride_head", "= 0", "at least 8"}},
    {"dq over q", [](Call& c) { c.grads.dq.data = c.q; }, {"args.dq", "overlaps", "args.q"}},
    {"dk over dq", [](Call& c) { c.grads.dk.data = c.dq; }, {"args.dk", "overlaps", "args.dq"}},
    {"dv over d_out", [](Call& c) { c.grads.dv.data = c.d_out; }, {"args.dv", "overlaps", "args.d_out"}},
    {"d_gate misaligned", [](Call& c) { c.grads.d_gate.data = shifted(c.d_gate, 2); }, {"args.d_gate.data", "aligned"}},
    {"d_gate of offsets' dtype", [](Call& c) { c.grads.d_gate.dtype = FLASHQLA_DTYPE_I32; }, {"args.d_gate.dtype", "= 5", "F32, BF16 or F16"}},
    {"d_beta over d_gate", [](Call& c) { c.grads.d_beta.data = c.d_gate + 1; }, {"args.d_beta", "overlaps", "args.d_gate"}},
    {"d_beta over beta", [](Call& c) { c.grads.d_beta.data = c.beta; }, {"args.d_beta", "overlaps", "args.beta"}},
    {"dA_log without a raw gate", [](Call& c) { c.grads.dA_log.data = c.d_a_log; }, {"args.dA_log", "must be NULL", "not RAW"}},
    {"ddt_bias without a raw gate", [](Call& c) { c.grads.ddt_bias.data = c.d_dt_bias; }, {"args.ddt_bias", "must be NULL", "not RAW"}},
    {"dA_log over A_log", [](Call& c) { c.make_raw(), c.grads.dA_log.data = c.a_log; }, {"args.dA_log", "overlaps", "args.A_log"}},
    {"dA_log repeats heads", [](Call& c) { c.make_raw(), c.grads.dA_log.stride_token = 1; }, {"args.dA_log.stride_head", "= 0", "at least 1"}},
    {"saved over dq", [](Call& c) { c.grads.saved = c.dq, c.grads.saved_bytes = 64; }, {"args.dq", "overlaps", "args.saved"}},
    {"workspace over dv", [](Call& c) { c.grads.dv.data = c.scratch + 512; }, {"workspace", "overlaps", "args.dv"}},
    {"no workspace", [](Call& c) { c.workspace = nullptr; }, {"workspace", "NULL", "bytes"}},
    {"workspace too small", [](Call& c) { c.workspace_bytes = 255; }, {"workspace_bytes", "= 255", "needs"}, FLASHQLA_STATUS_WORKSPACE_TOO_SMALL},
    {"no workspace bytes", [](Call& c) { c.workspace_bytes = 0; }, {"workspace_bytes", "= 0", "needs"}, FLASHQLA_STATUS_WORKSPACE_TOO_SMALL},
};

}  // namespace

TEST_SUITE("refuse") {
    TEST_CASE("forward outputs") { check_rules(kForward, through_forward); }
    TEST_CASE("backward outputs") { check_rules(kBackward, through_backward); }

    TEST_CASE("one byte less than the query tells") {
        Call c;
        REQUIRE(c.query(FLASHQLA_OP_BACKWARD) == FLASHQLA_STATUS_OK);
        const uint64_t needed = c.info.workspace_bytes;
        REQUIRE(needed > 0);
        REQUIRE(needed <= Call::kScratch);
        c.workspace_bytes = needed;
        CHECK(c.backward() == FLASHQLA_STATUS_OK);
        c.memory.remember();
        c.workspace_bytes = needed - 1;
        CHECK(c.backward() == FLASHQLA_STATUS_WORKSPACE_TOO_SMALL);
        CHECK(std::string(flashqla_last_error()).find(std::to_string(needed)) != std::string::npos);
        CHECK(c.memory.unchanged());
    }
}
