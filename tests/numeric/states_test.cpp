// Where states come from and go to: pieces of a row, checkpoints, verify and rollback, empty rows.
#include <algorithm>

#include "check.h"

using namespace numeric;

namespace {

struct Piece {
    Numbers out, state;
};

// Row n's tokens [begin, begin + length) from `state`, as a call of their own.
Piece run_piece(const Sample& sample, int64_t n, int64_t begin, int64_t length, const Numbers& state) {
    Call call(cut_row(sample, n, begin, length, state), {});
    const Outcome got = must_run(call);
    return {got.find("out")->value, state_of(got, 0)};
}

void append(Piece& to, const Piece& more) {
    to.out.insert(to.out.end(), more.out.begin(), more.out.end());
    to.state = more.state;
}

Numbers start_state(const Sample& sample, int64_t n) {
    const auto from = sample.values.pool.begin() + n * sample.c.state_elements();
    return Numbers(from, from + sample.c.state_elements());
}

void check_close(const Case& c, const Numbers& got, const Numbers& want, int32_t dtype, Arithmetic arithmetic, const char* what) {
    Grid x("x", dtype, {static_cast<int64_t>(want.size())}, 1), y = x;
    x.value = got, y.value = want;
    y.fill(0, 0, 0);
    std::fill(y.written.begin(), y.written.end(), uint8_t{1});
    const Difference d = compare(x, y, 2 * bound_of(c, y, arithmetic));
    CHECK_MESSAGE(d.good(), what, ": error ", d.relative, ", bound ", d.bound, " ", c.text());
}

void check_pieces(int32_t dtype) {
    Case c = plain_case("pieces");
    c.dtype = dtype;
    c.key_dim = c.value_dim = 128;
    c.lengths = {100};
    const Sample sample = make_sample(c);
    const Numbers start = start_state(sample, 0);
    const Piece whole = run_piece(sample, 0, 0, 100, start);
    Piece two, decoded{{}, start};
    append(two, run_piece(sample, 0, 0, 37, start));
    append(two, run_piece(sample, 0, 37, 63, two.state));
    for (int64_t t = 0; t < 100; t++) append(decoded, run_piece(sample, 0, t, 1, decoded.state));
    Call call(sample, {});
    const Arithmetic arithmetic = arithmetic_of(c, call);
    for (const Piece* pieces : {&two, &decoded}) {
        const char* what = pieces == &two ? "37 + 63 tokens" : "token by token";
        check_close(c, pieces->out, whole.out, c.dtype, arithmetic, what);
        check_close(c, pieces->state, whole.state, c.state_dtype, arithmetic, what);
        MESSAGE(dtype_name(dtype), ", ", what, ": ", same_bits(pieces->out, whole.out) && same_bits(pieces->state, whole.state) ? "same bits" : "close");
    }
}

}  // namespace

TEST_SUITE_BEGIN("states");

TEST_CASE("a row in pieces, and token by token, is the row in one") {
    check_pieces(FLASHQLA_DTYPE_F32);
    check_pieces(FLASHQLA_DTYPE_BF16);
}

TEST_CASE("checkpoints are the final states of shorter rows") {
    Case c = plain_case("checkpoints");
    c.lengths = {200, 64, 63, 0};
    c.extra = Extra::checkpoints;
    Sample sample = make_sample(c);
    const int64_t width = sample.tables.checkpoint_width;
    for (int64_t n = 0; n < c.rows(); n++)  // every entry wanted, those behind the row's end too
        for (int64_t j = 0; j < width; j++) sample.tables.checkpoint_slots[static_cast<size_t>(n * width + j)] = static_cast<int32_t>(c.rows() + n * width + j);
    Call call(sample, {});
    const Outcome got = must_run(call);
    const Grid& states = *got.find("state");
    for (int64_t n = 0; n < c.rows(); n++)
        for (int64_t j = 0; j < width; j++) {
            const int64_t count = (j + 1) * c.checkpoint_interval, slot = c.rows() + n * width + j;
            CAPTURE(n);
            CAPTURE(count);
            if (count > c.lengths[static_cast<size_t>(n)])
                CHECK(states.written[static_cast<size_t>(slot * states.inner(1))] == 0);
            else
                check_close(c, state_of(got, slot), run_piece(sample, n, 0, count, start_state(sample, n)).state, c.state_dtype, arithmetic_of(c, call),
                            "checkpoint");
        }
}

TEST_CASE("verify, then roll back to what was accepted, is plain decoding") {
    Case c = plain_case("verify");
    c.lengths.assign(6, 4);
    c.states = States::in_place_slots;
    c.extra = Extra::no_final;
    c.token_width = 4;
    Sample draft = make_sample(c);
    const auto rows = static_cast<size_t>(c.rows());
    Tables& t = draft.tables;
    for (size_t i = 0; i < rows; i++) t.write_slots[i] = t.read_slots[i];
    std::vector<int32_t> free;  // slots that hold no row's start: one for each token
    for (int32_t slot = 0; slot < t.slots; slot++)
        if (std::find(t.read_slots.begin(), t.read_slots.end(), slot) == t.read_slots.end()) free.push_back(slot);
    for (size_t i = 0; i < t.token_slots.size(); i++) t.token_slots[i] = free[i];
    Call first(draft, {});
    const Outcome verified = must_run(first);
    std::string wrong = report(draft, verified, oracle_forward(draft), arithmetic_of(c, first));
    CHECK_MESSAGE(wrong.empty(), wrong);

    c.extra = Extra::accepted;
    c.seed++;
    Sample next = make_sample(c);
    next.tables = draft.tables;
    next.values.pool = verified.find("state")->value;
    next.tables.accepted = {0, 1, 2, 3, 4, 2};
    Call second(next, {});
    const Outcome got = must_run(second);
    for (size_t i = 0; i < rows; i++) {
        const auto n = static_cast<int64_t>(i);
        Numbers start(draft.values.pool.begin() + t.read_slots[i] * c.state_elements(), draft.values.pool.begin() + (t.read_slots[i] + 1) * c.state_elements());
        const int64_t kept = next.tables.accepted[i];
        if (kept) start = state_of(oracle_forward(cut_row(draft, n, 0, kept, start)), 0);
        const Outcome want = oracle_forward(cut_row(next, n, 0, 4, start));
        const int64_t width = c.value_heads * c.value_dim, begin = next.tables.offsets[i] * width;
        const Numbers& out = got.find("out")->value;
        CAPTURE(kept);
        check_close(c, Numbers(out.begin() + begin, out.begin() + begin + 4 * width), want.find("out")->value, c.dtype, arithmetic_of(c, second), "output");
        check_close(c, state_of(got, next.tables.write_slots[i]), state_of(want, 0), c.state_dtype, arithmetic_of(c, second), "state");
    }
}

TEST_CASE("empty rows copy their state, bit by bit") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16}) {
        for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{0, 0, 0}, std::vector<int64_t>{0, 9, 0, 0}}) {
            Case c = plain_case("empty rows");
            c.lengths = lengths;
            c.state_dtype = dtype;
            c.state_layout = FLASHQLA_STATE_VK;
            const Sample sample = make_sample(c);
            Call call(sample, {});
            const Outcome got = must_run(call);
            CHECK(got.damage == "");
            for (int64_t n = 0; n < c.rows(); n++)
                if (!c.lengths[static_cast<size_t>(n)]) CHECK(same_bits(state_of(got, n), start_state(sample, n)));
        }
        Case c = plain_case("empty backward");
        c.lengths = {0, 3, 0};
        check_backward(make_sample(c));
    }
}

TEST_CASE("rows without a start state write the zero state when empty") {
    Case c = plain_case("empty from zero");
    c.lengths = {0, 3, 0};
    c.states = States::write;
    check_forward(make_sample(c));
    check_backward(make_sample(c));
}

TEST_CASE("no rows and no tokens are no error") {
    for (const Offsets offsets : {Offsets::none, Offsets::i32, Offsets::i64, Offsets::gaps}) {
        Case c = plain_case("nothing");
        c.offsets = offsets;
        c.lengths.clear();
        check_forward(make_sample(c));
        check_backward(make_sample(c));
        c.lengths = {0, 0};
        check_forward(make_sample(c));
        check_backward(make_sample(c));
    }
}

TEST_SUITE_END();
