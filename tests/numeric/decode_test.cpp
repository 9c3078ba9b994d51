// Decode and verify: rows of one token, or of a few, that the host knows to be, in every form that has kernels of its own for them.
#include <cstring>
#include <functional>

#include "check.h"

using namespace numeric;

namespace {

// The dials that do not multiply the cases turn with their number.
Case decode_case(int32_t dtype, int32_t state_dtype, int32_t gate, States states, size_t number) {
    constexpr int32_t scalars[] = {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16};
    constexpr Strides strides[] = {Strides::packed, Strides::projection, Strides::head_major, Strides::padded};
    Case c = plain_case("decode");
    c.seed += number;
    c.key_heads = number % 5 ? 2 : 4, c.value_heads = number % 5 == 1 ? 6 : 4, c.key_dim = c.value_dim = 128;
    c.dtype = dtype, c.state_dtype = state_dtype, c.gate = gate, c.states = states;
    c.gate_dtype = scalars[number % 3];
    c.head_map = number / 2 % 2 ? FLASHQLA_HEADS_TILED : FLASHQLA_HEADS_GROUPED;
    c.beta = number % 2 ? FLASHQLA_BETA_LOGIT : FLASHQLA_BETA_VALUE;
    c.beta_scale = number / 4 % 2 ? 2 : 1;
    c.qk_norm = number / 3 % 2 ? FLASHQLA_NORM_NONE : FLASHQLA_NORM_L2;
    if (number % 7 == 0) c.scale = -0.7, c.eps = 0.25;
    c.strides = strides[number / 5 % 4];
    c.state_layout = FLASHQLA_STATE_VK;
    c.offsets = Offsets::none;
    c.lengths.assign(7, 1);
    return c;
}

// Against the oracle, and the bits against those of the same rows by offsets, which the device may change: those go to the recurrent kernel.
void check_known_lengths(const Case& c, const char* kernel) {
    const bool names_kernels = session().cuda() && !session().engine;
    CAPTURE(c.text());
    const Sample sample = make_sample(c);
    Call call(sample, {});
    if (names_kernels) CHECK(std::strstr(call.explain().c_str(), kernel));
    const Outcome got = must_run(call);
    const std::string wrong = report(sample, got, oracle_forward(sample), arithmetic_of(c, call));
    CHECK_MESSAGE(wrong.empty(), wrong);
    Sample cut = sample;
    cut.c.offsets = Offsets::i32;
    Call by_offsets(cut, {});
    if (names_kernels) CHECK(std::strstr(by_offsets.explain().c_str(), "gdn_recurrent"));
    const Outcome other = must_run(by_offsets);
    for (const char* name : {"out", "state"}) CHECK_MESSAGE(same_bits(got.find(name)->value, other.find(name)->value), name, " differs in bits");
}

void each_form(const std::function<void(Case)>& check) {
    size_t number = 0;
    for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16})
        for (const int32_t state_dtype : {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16})
            for (const int32_t gate : {FLASHQLA_GATE_LOG, FLASHQLA_GATE_LINEAR, FLASHQLA_GATE_RAW})
                for (const States states : {States::separate, States::in_place, States::in_place_slots, States::special_slots})
                    check(decode_case(dtype, state_dtype, gate, states, number++));
    MESSAGE(number, " forms");
}

}  // namespace

TEST_SUITE_BEGIN("states");

TEST_CASE("decode in all its forms, and with offsets the same bits") {
    each_form([](const Case& c) { check_known_lengths(c, "gdn_decode"); });
}

TEST_CASE("verify of few rows in all its forms, and with offsets the same bits") {
    each_form([](Case c) {
        const auto turn = static_cast<int64_t>(c.seed % 7);
        c.lengths.assign(static_cast<size_t>(1 + turn), 2 + (turn + 2) % 7);
        c.extra = turn % 3 == 0 ? Extra::none : turn % 3 == 1 ? Extra::token_states : Extra::no_final;
        c.token_width = turn % 2 ? 8 : 3;
        check_known_lengths(c, "gdn_short");
    });
}

// What the decode kernel does not take: the pools' alignment and the rest are known at the call.
TEST_CASE("decode that keeps to the recurrent kernel") {
    const auto check = [](const char* what, void (*edit)(Case&)) {
        Case c = decode_case(FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F32, FLASHQLA_GATE_RAW, States::in_place_slots, 2);
        edit(c);
        CAPTURE(what);
        const Sample sample = make_sample(c);
        Call call(sample, {});
        if (session().cuda() && !session().engine) CHECK(std::strstr(call.explain().c_str(), "gdn_recurrent"));
        const std::string wrong = run_and_report(call, oracle_forward(sample));
        CHECK_MESSAGE(wrong.empty(), wrong);
    };
    check("no states to read", [](Case& c) { c.states = States::write; });
    check("no states to write", [](Case& c) { c.states = States::read; });
    check("no states", [](Case& c) { c.states = States::none; });
    check("the final state is not wanted", [](Case& c) { c.extra = Extra::no_final; });
    check("states of what was accepted", [](Case& c) { c.extra = Extra::accepted; });
    check("KV states", [](Case& c) { c.state_layout = FLASHQLA_STATE_KV; });
    check("f32 tensors", [](Case& c) { c.dtype = FLASHQLA_DTYPE_F32; });
    check("no keys of 128", [](Case& c) { c.key_dim = 64; });
}

TEST_SUITE_END();
