// The same bits: over runs, threads, streams and, where promised, over batches.
#include <thread>

#include "check.h"

using namespace numeric;

namespace {

// Ragged, with every kind of sum: grouped heads, raw gates, the norm.
Case wide_case(const char* what, int32_t dtype) {
    Case c = plain_case(what);
    c.dtype = dtype;
    c.key_dim = c.value_dim = 128;
    c.gate = FLASHQLA_GATE_RAW;
    c.beta = FLASHQLA_BETA_LOGIT;
    c.qk_norm = FLASHQLA_NORM_L2;
    c.lengths = {130, 0, 1, 64, 7};
    return c;
}

struct Stream {
    void* stream = nullptr;
    Stream() { CHECK(!fqla_dev_stream_create(&session().device, &stream)); }
    ~Stream() { fqla_dev_stream_destroy(&session().device, stream); }
};

}  // namespace

TEST_SUITE_BEGIN("determinism");

TEST_CASE("cpu: one, two and three threads give the same bits") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F64}) {
        Case c = wide_case("threads", dtype);
        if (dtype == FLASHQLA_DTYPE_BF16) c.value_dim = 40, c.lengths.assign(3, 1), c.state_layout = FLASHQLA_STATE_VK;  // decode, odd columns
        make_valid(c);
        const Sample sample = make_sample(c);
        for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) {
            std::vector<uint8_t> first;
            for (const int32_t threads : {1, 2, 3, 7}) {
                flashqla_handle* handle = cpu_handle(threads);
                REQUIRE(handle);
                Call::Options options;
                options.op = op;
                options.handle = handle;
                Call call(sample, options);
                CHECK(call.run() == FLASHQLA_STATUS_OK);
                const std::vector<uint8_t> bytes = call.bytes();
                if (first.empty()) first = bytes;
                CHECK_MESSAGE(bytes == first, dtype_name(dtype), ", op ", op, ", ", threads, " threads");
                flashqla_destroy(handle);
            }
        }
    }
}

TEST_CASE("equal runs give equal bits") {
    const int runs = session().quick ? 5 : session().cuda() ? 1000 : 20;
    for (const int32_t dtype : {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16}) {
        for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) {
            Case c = wide_case("equal runs", dtype);
            Call::Options options;
            options.op = op;
            Call call(make_sample(c), options);
            CHECK(call.run() == FLASHQLA_STATUS_OK);
            const std::vector<uint8_t> first = call.bytes();
            int different = 0;
            for (int i = 1; i < runs; i++) {
                if (i == runs / 2) call.reset();  // poisoned anew, once
                different += call.run() != FLASHQLA_STATUS_OK || call.bytes() != first;
            }
            CHECK_MESSAGE(different == 0, dtype_name(dtype), ", op ", op, ": ", different, " of ", runs, " runs differ");
        }
    }
}

TEST_CASE("poison of outputs and workspace leaves no trace") {
    for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD}) {
        const Sample sample = make_sample(wide_case("poison", FLASHQLA_DTYPE_BF16));
        Outcome first;
        for (const uint64_t poison : {uint64_t{0}, fresh_seed("poison a"), fresh_seed("poison b")}) {
            Call::Options options;
            options.op = op;
            options.poison = poison;
            Call call(sample, options);
            const Outcome got = must_run(call);
            CHECK(got.damage == "");
            if (first.grids.empty()) first = got;
            for (size_t g = 0; g < got.grids.size(); g++) CHECK_MESSAGE(same_bits(got.grids[g].value, first.grids[g].value), got.grids[g].name);
        }
    }
}

TEST_CASE("two threads on one handle, each with its own stream, memory and workspace") {
    const int rounds = session().quick ? 3 : 20;
    std::vector<std::unique_ptr<Call>> calls;
    std::vector<std::vector<uint8_t>> alone;
    for (int i = 0; i < 2; i++) {
        Call::Options options;
        options.op = i ? FLASHQLA_OP_BACKWARD : FLASHQLA_OP_FORWARD;
        calls.push_back(std::make_unique<Call>(make_sample(wide_case(i ? "thread b" : "thread a", FLASHQLA_DTYPE_BF16)), options));
        CHECK(calls.back()->run() == FLASHQLA_STATUS_OK);
        alone.push_back(calls.back()->bytes());
    }
    Stream streams[2];
    int bad[2] = {0, 0};
    const auto work = [&](size_t i) {
        fqla_dev_attach(&session().device);
        for (int round = 0; round < rounds; round++) {
            bad[i] += calls[i]->run(streams[i].stream) != FLASHQLA_STATUS_OK;
            fqla_dev_stream_sync(&session().device, streams[i].stream);
            bad[i] += calls[i]->bytes() != alone[i];
        }
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    CHECK(bad[0] == 0);
    CHECK(bad[1] == 0);
}

TEST_CASE("BATCH_INVARIANT: a row alone is the row in its batch, bit by bit") {
    for (const int32_t dtype : {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16}) {
        Case c = wide_case("batch", dtype);
        c.gate = FLASHQLA_GATE_LOG;
        c.flags = FLASHQLA_PROBLEM_BATCH_INVARIANT;
        c.lengths = {1, 200, 65, 7};
        const Sample sample = make_sample(c);
        Call batch(sample, {});
        const Outcome all = must_run(batch);
        for (int64_t n = 0; n < c.rows(); n++) {
            const auto pool = sample.values.pool.begin() + n * c.state_elements();
            Sample alone = cut_row(sample, n, 0, c.lengths[static_cast<size_t>(n)], Numbers(pool, pool + c.state_elements()));
            alone.c.offsets = c.offsets;
            Call single(alone, {});
            const Outcome one = must_run(single);
            const Numbers& out = all.find("out")->value;
            const int64_t width = c.value_heads * c.value_dim, begin = sample.tables.offsets[static_cast<size_t>(n)] * width;
            CHECK(same_bits(one.find("out")->value, Numbers(out.begin() + begin, out.begin() + begin + alone.tokens * width)));
            CHECK(same_bits(state_of(one, 0), state_of(all, n)));
        }
    }
}

TEST_SUITE_END();
