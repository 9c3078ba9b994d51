// What looks unusual and is allowed: views of packed rows, states in place, repeated inputs, nothing to do at all.
#include <cmath>
#include <cstring>
#include <vector>

#include "call.h"

namespace {

constexpr int32_t kOk = FLASHQLA_STATUS_OK;

std::vector<float> copy(const float* p, size_t count) { return {p, p + count}; }

bool equal(const std::vector<float>& wanted, const float* p) { return std::memcmp(wanted.data(), p, wanted.size() * sizeof(float)) == 0; }

constexpr size_t kOut = Call::kTokens * Call::kValueHeads * Call::kValueDim;

std::vector<float> plain_out() {
    Call c;
    REQUIRE(c.forward() == kOk);
    return copy(c.out, kOut);
}

void stride(flashqla_tensor& t, float* data, int64_t row, int64_t token, int64_t head) {
    t.data = data, t.stride_row = row, t.stride_token = token, t.stride_head = head;
}

}  // namespace

TEST_SUITE("accept") {
    TEST_CASE("every array but the outputs stays as it was") {
        Call c;
        c.give_states();
        c.memory.remember();
        CHECK(c.forward() == kOk);
        CHECK(c.memory.unchanged_but({c.out, c.write_pool, c.scratch}));
        c.memory.remember();
        CHECK(c.backward() == kOk);
        CHECK(c.memory.unchanged_but({c.dq, c.dk, c.dv, c.d_gate, c.d_beta, c.d_initial, c.scratch}));
    }

    TEST_CASE("q, k, v and out interleaved in one packed row") {
        const std::vector<float> wanted = plain_out();
        for (const bool offsets : {false, true}) {
            CAPTURE(offsets);
            Call c;
            constexpr int kQ = 0, kK = 16, kV = 32, kOutAt = 96, kWidth = 160;
            float* row = c.memory.take<float>(Call::kTokens * kWidth);
            for (int t = 0; t < Call::kTokens; t++) {
                std::memcpy(row + t * kWidth + kQ, c.q + t * 16, 16 * sizeof(float));
                std::memcpy(row + t * kWidth + kK, c.k + t * 16, 16 * sizeof(float));
                std::memcpy(row + t * kWidth + kV, c.v + t * 64, 64 * sizeof(float));
            }
            if (offsets) c.give_offsets();
            stride(c.args.q, row + kQ, 4 * kWidth, kWidth, 8);
            stride(c.args.k, row + kK, 4 * kWidth, kWidth, 8);
            stride(c.args.v, row + kV, 4 * kWidth, kWidth, 16);
            stride(c.args.out, row + kOutAt, 4 * kWidth, kWidth, 16);
            c.memory.remember();
            CHECK(c.forward() == kOk);
            CHECK(c.memory.unchanged_but({row, c.scratch}));
            for (int t = 0; t < Call::kTokens; t++) CHECK(std::memcmp(row + t * kWidth + kOutAt, wanted.data() + t * 64, 64 * sizeof(float)) == 0);
            // One head wider and it meets the next row's q.
            stride(c.args.out, row + kOutAt + 8, 4 * kWidth, kWidth, 16);
            CHECK(c.forward() == FLASHQLA_STATUS_INVALID_ARGUMENT);
        }
    }

    TEST_CASE("decode: rows of one token in a packed row") {
        Call c;
        constexpr int kWidth = 160;
        float* row = c.memory.take<float>(Call::kRows * kWidth);
        for (int i = 0; i < Call::kRows * kWidth; i++) row[i] = 0.01F * static_cast<float>(i % 37);
        c.sequences.tokens = Call::kRows;
        stride(c.args.q, row, kWidth, 0, 8);
        stride(c.args.k, row + 16, kWidth, 0, 8);
        stride(c.args.v, row + 32, kWidth, 0, 16);
        stride(c.args.out, row + 96, kWidth, 0, 16);
        CHECK(c.forward() == kOk);
        stride(c.args.out, row + 95, kWidth, 0, 16);
        CHECK(c.forward() == FLASHQLA_STATUS_INVALID_ARGUMENT);
    }

    TEST_CASE("gradients interleaved in one packed row") {
        Call c;
        REQUIRE(c.backward() == kOk);
        const std::vector<float> dq = copy(c.dq, Call::kTokens * 16), dv = copy(c.dv, kOut);
        constexpr int kWidth = 96;
        float* row = c.memory.take<float>(Call::kTokens * kWidth);
        stride(c.grads.dq, row, 4 * kWidth, kWidth, 8);
        stride(c.grads.dk, row + 16, 4 * kWidth, kWidth, 8);
        stride(c.grads.dv, row + 32, 4 * kWidth, kWidth, 16);
        CHECK(c.backward() == kOk);
        for (int t = 0; t < Call::kTokens; t++) {
            CHECK(std::memcmp(row + t * kWidth, dq.data() + t * 16, 16 * sizeof(float)) == 0);
            CHECK(std::memcmp(row + t * kWidth + 32, dv.data() + t * 64, 64 * sizeof(float)) == 0);
        }
    }

    TEST_CASE("states in place") {
        Call apart, within;
        apart.give_states();
        apart.state.write_slots = apart.read_slots;
        within.give_states();
        within.state.write_slots = within.read_slots;
        within.state.write_data = within.read_pool;
        REQUIRE(apart.forward() == kOk);
        within.memory.remember();
        REQUIRE(within.forward() == kOk);
        CHECK(within.memory.unchanged_but({within.out, within.read_pool, within.scratch}));
        CHECK(equal(copy(apart.out, kOut), within.out));
        CHECK(equal(copy(apart.write_pool, Call::kRows * Call::kState), within.read_pool));
    }

    TEST_CASE("inputs may be one array, or repeat") {
        Call c;
        c.args.k.data = c.q;
        CHECK(c.forward() == kOk);
        Call r;
        stride(r.args.q, r.q, 0, 16, 8);  // every row the same q
        stride(r.args.gate, r.gate, 0, 0, 1);
        stride(r.args.beta, r.beta, 0, 1, 0);
        CHECK(r.forward() == kOk);
        CHECK(r.backward() == kOk);
        CHECK(r.memory.unchanged_but({r.out, r.scratch, r.dq, r.dk, r.dv, r.d_gate, r.d_beta, r.d_initial}));
    }

    TEST_CASE("no gradients wanted, only some, no d_final") {
        Call all, one;
        REQUIRE(all.backward() == kOk);
        for (flashqla_tensor* t : {&one.grads.dq, &one.grads.dv, &one.grads.d_gate, &one.grads.d_beta, &one.grads.d_initial}) t->data = nullptr;
        CHECK(one.backward() == kOk);
        CHECK(one.memory.unchanged_but({one.dk, one.scratch}));
        CHECK(equal(copy(all.dk, Call::kTokens * 16), one.dk));
        one.grads.dk.data = nullptr;
        one.memory.remember();
        CHECK(one.backward() == kOk);
        CHECK(one.memory.unchanged_but({one.scratch}));
        all.grads.d_final.data = nullptr;
        CHECK(all.backward() == kOk);
    }

    TEST_CASE("no rows") {
        Call c;
        c.give_states();
        c.sequences.rows = 0;
        c.sequences.tokens = 0;
        c.memory.remember();
        CHECK(c.forward() == kOk);
        CHECK(c.backward() == kOk);
        CHECK(c.query(FLASHQLA_OP_FORWARD) == kOk);
        for (flashqla_tensor* t : {&c.args.q, &c.args.k, &c.args.v, &c.args.gate, &c.args.beta, &c.args.out}) t->data = nullptr;
        c.use_state = nullptr, c.workspace = nullptr, c.workspace_bytes = 0;
        CHECK(c.forward() == kOk);
        CHECK(c.memory.unchanged());
    }

    TEST_CASE("no tokens: states are copied through") {
        Call c;
        c.give_states();
        c.sequences.tokens = 0;
        for (flashqla_tensor* t : {&c.args.q, &c.args.k, &c.args.v, &c.args.gate, &c.args.beta, &c.args.out}) t->data = nullptr;
        c.memory.remember();
        CHECK(c.forward() == kOk);
        CHECK(c.memory.unchanged_but({c.write_pool, c.scratch}));
        for (int n = 0; n < Call::kRows; n++)
            CHECK(std::memcmp(c.read_pool + n * Call::kState, c.write_pool + (Call::kSlots - 1 - n) * Call::kState, Call::kState * sizeof(float)) == 0);
    }

    TEST_CASE("f64 on a CPU handle") {
        Call c;
        auto *data = c.memory.take<double>(kOut), *result = c.memory.take<double>(kOut);
        for (size_t i = 0; i < kOut; i++) data[i] = 0.05 * std::cos(static_cast<double>(i));
        c.problem.dtype = FLASHQLA_DTYPE_F64;
        for (flashqla_tensor* t : {&c.args.q, &c.args.k, &c.args.v, &c.args.gate, &c.args.beta}) t->data = data;
        c.args.out.data = result;
        CHECK(c.forward() == kOk);
        CHECK(std::isfinite(result[kOut - 1]));
    }

    TEST_CASE("no tokens at all: states are copied, tensors may be NULL, A_log and dt_bias of raw gates too") {
        flashqla_config config;
        flashqla_config_init(&config, sizeof config);
        config.device = FLASHQLA_DEVICE_CPU, config.threads = 1;
        flashqla_handle* handle = nullptr;
        REQUIRE(flashqla_create(&handle, &config) == kOk);
        flashqla_problem problem;
        flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_QWEN);
        problem.key_heads = 1, problem.value_heads = 2, problem.key_dim = problem.value_dim = 4;
        flashqla_sequences sequences;
        flashqla_sequences_init(&sequences, sizeof sequences);
        sequences.rows = 2;
        std::vector<float> before(2 * 2 * 16), after(before.size());
        for (size_t i = 0; i < before.size(); i++) before[i] = static_cast<float>(i);
        flashqla_state state;
        flashqla_state_init(&state, sizeof state);
        state.read_data = before.data(), state.write_data = after.data();
        flashqla_forward_args args;
        flashqla_forward_args_init(&args, sizeof args);
        CHECK(flashqla_forward(handle, &problem, &sequences, &state, &args, nullptr, 0, nullptr) == kOk);
        CHECK(before == after);
        flashqla_destroy(handle);
    }
}
