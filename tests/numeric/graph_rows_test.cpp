// One captured decode call that serves any number of rows up to its bound: rows beyond are PAD, and slots and offsets change from
// replay to replay. Without CUDA the call itself is repeated, which the same tables must steer alike.
#include <algorithm>

#include "check.h"

using namespace numeric;

namespace {

class Replay {
public:
    explicit Replay(Call& call) : call_(call), device_(session().device) {
        if (!device_.is_cuda) return;
        CHECK_MESSAGE(flashqla_warmup(session().handle, &call.problem, FLASHQLA_OP_FORWARD) == FLASHQLA_STATUS_OK, flashqla_last_error());
        REQUIRE(!fqla_dev_stream_create(&device_, &stream_));
        REQUIRE_MESSAGE(!fqla_dev_capture_begin(&device_, stream_), fqla_dev_error(&device_));
        const int32_t status = call.run(stream_);
        REQUIRE_MESSAGE(!fqla_dev_capture_end(&device_, stream_, &graph_), fqla_dev_error(&device_));
        REQUIRE_MESSAGE(status == FLASHQLA_STATUS_OK, flashqla_last_error());
    }
    ~Replay() {
        fqla_dev_graph_destroy(&device_, graph_);
        fqla_dev_stream_destroy(&device_, stream_);
    }
    Replay(const Replay&) = delete;
    Replay& operator=(const Replay&) = delete;

    void run() {
        if (!device_.is_cuda) {
            CHECK_MESSAGE(call_.run() == FLASHQLA_STATUS_OK, flashqla_last_error());
            return;
        }
        REQUIRE_MESSAGE(!fqla_dev_graph_launch(&device_, graph_, stream_), fqla_dev_error(&device_));
        REQUIRE_MESSAGE(!fqla_dev_stream_sync(&device_, stream_), fqla_dev_error(&device_));
    }

private:
    Call& call_;
    fqla_dev& device_;
    void *stream_ = nullptr, *graph_ = nullptr;
};

constexpr int64_t kRows = 12;

Case decode_case(const char* what, int32_t dtype, Offsets offsets) {
    Case c = qwen_case(what, dtype);
    c.strides = Strides::projection;
    c.offsets = offsets;
    c.lengths.assign(static_cast<size_t>(kRows), 1);
    return c;
}

// The first `live` rows decode, in place or from another slot; those beyond are PAD. Where the call has offsets, every other PAD row is
// empty, as an engine leaves it that writes the offsets of its live rows alone; its tokens then belong to the last row.
Sample with_live_rows(Case c, int64_t live, uint64_t seed) {
    c.seed = seed;
    if (c.offsets != Offsets::none)
        for (int64_t n = live; n + 1 < kRows; n += 2) c.lengths[static_cast<size_t>(n)] = 0, c.lengths.back()++;
    Sample sample = make_sample(c);
    Tables& t = sample.tables;
    for (auto n = static_cast<size_t>(live); n < static_cast<size_t>(kRows); n++) t.read_slots[n] = t.write_slots[n] = FLASHQLA_SLOT_PAD;
    return sample;
}

// A row beyond `live` may be longer than one token only when it is PAD; the call's bound is then that of the longest.
void check_replays(const Case& c, const std::string& what) {
    Case bound = c;
    if (c.offsets != Offsets::none) bound.tight_max_tokens = false;
    const Sample first = with_live_rows(bound, kRows, bound.seed);
    Call call(first, {});
    Replay replay(call);
    Random random(bound.seed);
    std::vector<int64_t> live = {kRows, 0, 1, kRows - 1, 2, 7};
    for (int i = 0; i < (session().quick ? 2 : session().cuda() ? 20 : 6); i++) live.push_back(random.below(kRows + 1));
    for (const int64_t rows : live) {
        const Sample sample = with_live_rows(bound, rows, random.bits());
        call.refill(sample);
        replay.run();
        const std::string wrong = report(sample, call.read(), oracle_forward(sample), arithmetic_of(bound, call));
        CHECK_MESSAGE(wrong.empty(), what, ", ", rows, " live rows", wrong);
    }
}

}  // namespace

TEST_SUITE_BEGIN("graphs");

TEST_CASE("one captured decode call serves changing slots, offsets and row counts") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F32}) {
        check_replays(decode_case("equal rows", dtype, Offsets::none), "equal rows");
        check_replays(decode_case("offsets", dtype, Offsets::i32), "offsets");
        Case verify = decode_case("verify", dtype, Offsets::i32);
        verify.extra = Extra::accepted;
        verify.token_width = 4;
        check_replays(verify, "accepted counts");
    }
}

TEST_SUITE_END();
