// After a warm-up no call of the problem is cold: whatever its bounds, alignment and state options, it can be captured.
#include <chrono>
#include <cstdio>

#include "gpu_call.h"

namespace {

// A call of these bounds under capture, saving or reading what was saved where there is such a thing.
int32_t captured_call(GpuCall& c, int32_t op, int32_t rows, int64_t tokens, bool aligned, bool states, bool saved) {
    c.sequences.rows = rows, c.sequences.tokens = tokens;
    c.use_state = states ? &c.state : nullptr;
    c.state.read_slots_count = c.state.write_slots_count = rows;
    c.place();
    c.grads.saved = c.args.saved = saved ? device_pointer(0x2000000000000) : nullptr;
    c.args.saved_bytes = c.grads.saved_bytes = saved ? GpuCall::kWorkspaceBytes : 0;
    if (!aligned) c.args.q.data = static_cast<char*>(c.args.q.data) + 4;
    return op == FLASHQLA_OP_FORWARD ? c.forward() : c.backward();
}

void check_all_bounds(GpuCall& c, int32_t op) {
    int calls = 0;
    for (const int32_t rows : {1, 3, 17, 100, 333, 5000})
        for (const int64_t each : {1, 2, 5, 63, 100, 3000, 50000})
            for (int bits = 0; bits < 8; bits++) {
                if (rows * each > 6000000 || bits == 4 || bits == 6) continue;  // a forward of unaligned views cannot save
                const int32_t status = captured_call(c, op, rows, rows * each, bits & 1, bits & 2, bits & 4);
                CHECK_MESSAGE(status == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
                calls++;
            }
    CHECK(calls > 100);
    // Prefill beside decode.
    c.sequences.offsets = device_pointer(0x2100000000000);
    for (const int32_t longer : {1, 2, 5})
        for (const int32_t shorter : {16, 50, 200, 1000})
            for (const int64_t each : {100, 700, 3000, 20000}) {
                c.sequences.max_tokens = each;
                CHECK_MESSAGE(captured_call(c, op, longer + shorter, longer * each + shorter, true, true, false) == FLASHQLA_STATUS_OK,
                              std::string(flashqla_last_error()));
            }
    // Rows whose lengths nobody tells.
    c.sequences.max_tokens = 0;
    for (const int32_t rows : {3, 4, 6})
        for (const int64_t tokens : {1000, 5424, 16384, 32768})
            CHECK_MESSAGE(captured_call(c, op, rows, tokens, true, true, false) == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
}

}  // namespace

TEST_CASE("after a warm-up no call is cold") {
    FakeCuda& fake = fake_cuda();
    for (const int32_t op : {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD})
        for (const int32_t dtype : {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16, FLASHQLA_DTYPE_F16})
            for (const int32_t dim : {64, 128, 256})
                for (const int32_t layout : {FLASHQLA_STATE_KV, FLASHQLA_STATE_VK}) {
                    GpuCall c;
                    if (dim == 128) c.problem.flags = FLASHQLA_PROBLEM_KEYS_BOUNDED, c.problem.key_heads = 8, c.problem.value_heads = 16;
                    fake.context++;  // a cold one
                    c.problem.engine = FLASHQLA_ENGINE_AUTO;
                    c.problem.dtype = dtype, c.problem.key_dim = c.problem.value_dim = dim, c.problem.state_layout = layout;
                    fake.capturing = false;
                    REQUIRE(flashqla_warmup(c.handle, &c.problem, op) == FLASHQLA_STATUS_OK);
                    fake.capturing = true;
                    check_all_bounds(c, op);
                    fake.launches.clear();
                    fake.capturing = false;
                }
}

TEST_CASE("a warm-up takes no longer than its kernels") {
    fake_cuda().context = 7;
    GpuCall c;
    REQUIRE(c.warm() == FLASHQLA_STATUS_OK);
    const auto from = std::chrono::steady_clock::now();
    REQUIRE(c.warm() == FLASHQLA_STATUS_OK);
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - from).count();
    std::printf("second warm-up: %.2f ms\n", ms);
    CHECK(ms < 100);
}
