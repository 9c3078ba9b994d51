// Contents of device arrays cannot be refused: offsets and slots that make no sense are clamped or skipped, and nothing outside the
// arrays is read into a result or written. On one thread, since overlapping rows write the same tokens.
#include <climits>
#include <cmath>
#include <cstring>

#include "call.h"

namespace {

constexpr int32_t kOk = FLASHQLA_STATUS_OK;
constexpr size_t kRowOut = Call::kValueHeads * Call::kValueDim;

bool poisoned(const float* p, size_t count) {
    for (size_t i = 0; i < count * sizeof(float); i++)
        if (reinterpret_cast<const unsigned char*>(p)[i] != Arena::kPoison) return false;
    return true;
}

bool zeros(const float* p, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (p[i] != 0) return false;
    return true;
}

bool written(const float* p, size_t count) { return !poisoned(p, count) && !zeros(p, count); }

void check_offsets(std::initializer_list<int32_t> offsets, std::initializer_list<int> covered_tokens) {
    Call c(1);
    c.give_states();
    c.give_offsets();
    std::memcpy(c.offsets, offsets.begin(), offsets.size() * sizeof(int32_t));
    c.memory.remember();
    CHECK(c.forward() == kOk);
    CHECK(c.memory.unchanged_but({c.out, c.write_pool, c.scratch}));
    for (int t = 0; t < Call::kTokens; t++) {
        CAPTURE(t);
        bool covered = false;
        for (const int wanted : covered_tokens) covered = covered || t == wanted;
        CHECK(written(c.out + static_cast<size_t>(t) * kRowOut, kRowOut) == covered);
        if (!covered) CHECK(poisoned(c.out + static_cast<size_t>(t) * kRowOut, kRowOut));
    }
    c.memory.remember();
    CHECK(c.backward() == kOk);
    CHECK(c.memory.unchanged_but({c.dq, c.dk, c.dv, c.d_gate, c.d_beta, c.d_initial, c.scratch}));
}

// Slots of row 1 in place of a good one: the row is PAD, its neighbours are not.
void check_pad(int32_t slot, bool write_side) {
    CAPTURE(slot);
    CAPTURE(write_side);
    Call c(1);
    c.give_states();
    (write_side ? c.write_slots : c.read_slots)[1] = slot;
    c.memory.remember();
    CHECK(c.forward() == kOk);
    CHECK(c.memory.unchanged_but({c.out, c.write_pool, c.scratch}));
    CHECK(written(c.out, 4 * kRowOut));
    CHECK(zeros(c.out + 4 * kRowOut, 4 * kRowOut));
    CHECK(written(c.out + 8 * kRowOut, 4 * kRowOut));
    for (int s = 0; s < Call::kSlots; s++) CHECK(poisoned(c.write_pool + s * Call::kState, Call::kState) == (s != 5 && s != 3));
    if (write_side) return;  // the backward has no write side
    c.memory.remember();
    CHECK(c.backward() == kOk);
    CHECK(c.memory.unchanged_but({c.dq, c.dk, c.dv, c.d_gate, c.d_beta, c.d_initial, c.scratch}));
    CHECK(zeros(c.dv + 4 * kRowOut, 4 * kRowOut));
    CHECK(zeros(c.d_initial + Call::kState, Call::kState));
    CHECK(written(c.dv, 4 * kRowOut));
}

}  // namespace

TEST_SUITE("contents") {
    TEST_CASE("offsets in order, with tokens before, between and behind the rows") { check_offsets({2, 5, 5, 9}, {2, 3, 4, 5, 6, 7, 8}); }
    TEST_CASE("offsets that decrease") {
        check_offsets({0, 4, 2, 1}, {0, 1, 2, 3});
        check_offsets({12, 8, 4, 0}, {});
    }
    TEST_CASE("offsets past either end") {
        check_offsets({-7, 3, 6, 100}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
        check_offsets({INT_MAX, INT_MAX, INT_MIN, INT_MAX}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
        check_offsets({INT_MIN, INT_MIN, INT_MIN, INT_MIN}, {});
    }
    TEST_CASE("rows longer than max_tokens are cut") {
        Call c(1);
        c.give_offsets();
        c.sequences.max_tokens = 3;
        CHECK(c.forward() == kOk);
        for (int t = 0; t < Call::kTokens; t++) CHECK(poisoned(c.out + static_cast<size_t>(t) * kRowOut, kRowOut) == (t % 4 == 3));
    }

    TEST_CASE("64-bit offsets") {
        Call c(1);
        auto* wide = c.memory.take<int64_t>(Call::kRows + 1);
        const int64_t values[] = {INT64_MIN, 4, INT64_MAX, 4};
        std::memcpy(wide, values, sizeof values);
        c.sequences.offsets = wide;
        c.sequences.offsets_dtype = FLASHQLA_DTYPE_I64;
        c.memory.remember();
        CHECK(c.forward() == kOk);
        CHECK(c.memory.unchanged_but({c.out, c.scratch}));
        CHECK(written(c.out, Call::kTokens * kRowOut));
    }

    TEST_CASE("slots outside the pool are PAD") {
        for (const bool write_side : {false, true})
            for (const int32_t slot : {int{FLASHQLA_SLOT_PAD}, -3, int{Call::kSlots}, INT_MAX, INT_MIN}) check_pad(slot, write_side);
    }

    TEST_CASE("NONE: start from zero, store nothing") {
        Call c(1);
        c.give_states();
        for (int n = 0; n < Call::kRows; n++) c.read_slots[n] = FLASHQLA_SLOT_NONE, c.write_slots[n] = FLASHQLA_SLOT_NONE;
        c.memory.remember();
        CHECK(c.forward() == kOk);
        CHECK(c.memory.unchanged_but({c.out, c.scratch}));
        Call plain(1);
        CHECK(plain.forward() == kOk);
        CHECK(std::memcmp(plain.out, c.out, Call::kTokens * kRowOut * sizeof(float)) == 0);
    }

    TEST_CASE("tables of checkpoints and per-token states outside the pool store nothing") {
        Call c(1);
        c.give_states();
        c.state.flags = FLASHQLA_STATE_NO_FINAL;
        c.state.token_slots = c.token_slots, c.state.token_width = Call::kTableWidth;
        c.state.checkpoint_slots = c.checkpoint_slots, c.state.checkpoint_width = Call::kTableWidth, c.state.checkpoint_interval = 64;
        constexpr int32_t wild[] = {INT_MAX, INT_MIN, Call::kSlots, -2};
        for (int i = 0; i < Call::kRows * Call::kTableWidth; i++) c.token_slots[i] = c.checkpoint_slots[i] = wild[i % 4];
        c.token_slots[1 * Call::kTableWidth + 2] = 4;  // one good entry: row 1, token 2
        c.memory.remember();
        CHECK(c.forward() == kOk);
        CHECK(c.memory.unchanged_but({c.out, c.write_pool, c.scratch}));
        for (int s = 0; s < Call::kSlots; s++) CHECK(poisoned(c.write_pool + s * Call::kState, Call::kState) == (s != 4));
    }

    TEST_CASE("accepted counts outside the table are PAD") {
        for (const int32_t count : {-1, int{Call::kTableWidth} + 1, INT_MAX, INT_MIN, 2}) {  // entry 2 - 1 of the table is PAD too
            CAPTURE(count);
            Call c(1);
            c.give_states();
            c.state.read_data = c.write_pool;
            std::memset(c.write_pool, 0, Call::kSlots * Call::kState * sizeof(float));
            c.state.token_slots = c.token_slots, c.state.token_width = Call::kTableWidth, c.state.accepted = c.accepted;
            c.accepted[1] = count;
            c.memory.remember();
            CHECK(c.forward() == kOk);
            CHECK(c.memory.unchanged_but({c.out, c.write_pool, c.scratch}));
            CHECK(zeros(c.out + 4 * kRowOut, 4 * kRowOut));
            CHECK(zeros(c.write_pool + 4 * Call::kState, Call::kState));  // row 1 writes slot 4
            CHECK(written(c.write_pool + 5 * Call::kState, Call::kState));
        }
    }
}
