// What a call does with the driver: no more than it must, everything as the caller gave it.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <thread>
#include <vector>

#include "gpu_call.h"
#include "kernel_params.h"
#include "sm90_backward_params.h"
#include "sm90_params.h"

namespace {

bool one_of(const std::string& name, std::initializer_list<const char*> names) {
    return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
}

// A card that has the Hopper kernels, with a context.
FakeCuda& fake_hopper() {
    FakeCuda& fake = fake_cuda();
    fake.context = 7;
    fake.major = 9;
    return fake;
}

template <class Params>
Params params_of(const FakeLaunch& launch) {
    Params params;
    std::memcpy(static_cast<void*>(&params), launch.params, sizeof params);
    return params;
}

}  // namespace

TEST_CASE("only what was allowed is asked of the driver") {
    fake_cuda().context = 7;
    GpuCall call;
    REQUIRE(call.forward() == FLASHQLA_STATUS_OK);
    // Nothing that allocates, frees, copies, waits, or makes a context or a stream.
    for (const FakeAsked& asked : fake_cuda().asked)
        CHECK_MESSAGE(one_of(asked.name, {"cuInit",
                                          "cuDriverGetVersion",
                                          "cuDeviceGetCount",
                                          "cuDeviceGet",
                                          "cuDeviceGetName",
                                          "cuDeviceGetAttribute",
                                          "cuCtxGetCurrent",
                                          "cuCtxGetDevice",
                                          "cuCtxGetId",
                                          "cuCtxGetDevResource",
                                          "cuLibraryLoadData",
                                          "cuLibraryGetKernel",
                                          "cuKernelGetFunction",
                                          "cuKernelGetAttribute",
                                          "cuKernelSetAttribute",
                                          "cuLaunchKernelEx",
                                          "cuStreamIsCapturing",
                                          "cuTensorMapEncodeTiled",
                                          "cuGetErrorName",
                                          "cuGetErrorString",
                                          "cuTensorMapEncodeTiled"}),
                      asked.name);
    // A warm call: the context is looked at, the kernel is launched.
    fake_cuda().calls.clear();
    REQUIRE(call.forward() == FLASHQLA_STATUS_OK);
    for (const std::string& name : fake_cuda().calls)
        CHECK_MESSAGE(one_of(name, {"cuCtxGetCurrent", "cuCtxGetDevice", "cuCtxGetId", "cuLaunchKernelEx"}), name);
    CHECK(fake_cuda().count("cuLaunchKernelEx") == 1);
    CHECK(fake_cuda().calls.size() <= 8);
}

TEST_CASE("parameters arrive as they were given") {
    fake_cuda().context = 7;
    GpuCall call;
    call.sequences.tokens = 16;
    call.args.q.stride_row = 8192, call.args.q.stride_token = 4096, call.args.q.stride_head = 128;
    call.args.gate.dtype = FLASHQLA_DTYPE_BF16;
    call.problem.scale = 0.25, call.problem.beta_scale = 2, call.problem.head_map = FLASHQLA_HEADS_TILED;
    REQUIRE(call.forward() == FLASHQLA_STATUS_OK);
    REQUIRE(fake_cuda().launches.size() == 1);
    const FakeLaunch& launch = fake_cuda().launches[0];
    auto p = params_of<fqla::RecurrentParams>(launch);
    CHECK(launch.kernel == "gdn_recurrent_bf16_f32vk");
    CHECK(launch.stream == call.stream);
    CHECK(launch.grid[1] == 8);
    CHECK(launch.grid[0] == 32U * p.tiles.value);
    CHECK(p.call.form.key_heads == 16);
    CHECK(p.call.form.value_heads == 32);
    CHECK(p.call.form.head_map == FLASHQLA_HEADS_TILED);
    CHECK(p.call.form.gate == FLASHQLA_GATE_RAW);
    CHECK(p.call.form.beta == FLASHQLA_BETA_LOGIT);
    CHECK(p.call.form.qk_norm == FLASHQLA_NORM_L2);
    CHECK(p.call.form.scale == 0.25);
    CHECK(p.call.form.beta_scale == 2);
    CHECK(p.call.form.eps == 1e-6);
    CHECK(p.call.rows.count == 8);
    CHECK(p.call.rows.max_tokens == 2);
    CHECK(p.call.rows.offsets == nullptr);
    CHECK(p.call.state.read.data == call.state.read_data);
    CHECK(p.call.state.write.table == call.state.write_slots);
    CHECK(p.call.state.read.slots == 100);
    CHECK(p.call.state.read.slot_stride == 32 * 128 * 128);
    CHECK(p.call.state.store_final == 1);
    CHECK(p.call.in.q.data == call.args.q.data);
    CHECK(p.call.in.q.row == 8192);
    CHECK(p.call.in.q.head == 128);
    CHECK(p.call.in.v.row == 2 * 32 * 128);
    CHECK(p.call.in.gate.dtype == FLASHQLA_DTYPE_BF16);
    CHECK(p.call.in.beta.dtype == FLASHQLA_DTYPE_F32);
    CHECK(p.call.in.a_log.data == call.args.A_log.data);
    CHECK(p.call.out.data == call.args.out.data);
}

TEST_CASE("decode parameters arrive in bytes") {
    FakeCuda& fake = fake_cuda();
    fake.context = 7;
    GpuCall call;
    call.args.q.stride_row = 8192, call.args.q.stride_token = 8192, call.args.q.stride_head = 128;
    call.args.gate.dtype = FLASHQLA_DTYPE_BF16;
    call.problem.scale = 0.25, call.problem.beta_scale = 2, call.problem.head_map = FLASHQLA_HEADS_TILED;
    const auto launched = [&] {
        fake.launches.clear();
        REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
        REQUIRE(fake.launches.size() == 1);
        auto p = params_of<fqla::DecodeParams>(fake.launches[0]);
        return p;
    };
    fqla::DecodeParams p = launched();
    CHECK(fake.launches[0].kernel == "gdn_decode_bf16_f32vk");
    CHECK(fake.launches[0].stream == call.stream);
    CHECK(fake.launches[0].grid[0] * fake.launches[0].threads == 8 * 32);  // a warp for 16 columns
    CHECK(fake.launches[0].grid[1] == 32);
    CHECK(fake.launches[0].grid[2] == 8);
    CHECK(p.form.gate == FLASHQLA_GATE_RAW);
    CHECK(p.scale == 0.25F);
    CHECK(p.beta_scale == 2);
    CHECK(p.eps == 1e-6F);
    CHECK(p.heads.value == 16);
    CHECK(p.q.data == call.args.q.data);
    CHECK(p.q.row == 2 * 8192);
    CHECK(p.q.head == 2 * 128);
    CHECK(p.v.row == 2 * 32 * 128);
    CHECK(p.gate.dtype == FLASHQLA_DTYPE_BF16);
    CHECK(p.gate.row == 2 * 32);
    CHECK(p.beta.row == 4 * 32);
    CHECK(p.a_log.data == call.args.A_log.data);
    CHECK(p.a_log.row == 0);
    CHECK(p.a_log.head == 4);
    CHECK(p.out.data == call.args.out.data);
    CHECK(p.read.data == call.state.read_data);
    CHECK(p.read.table == call.state.read_slots);
    CHECK(p.write.table == call.state.write_slots);
    CHECK(p.read.slots == 100);
    CHECK(p.write.slot_bytes == 4 * 32 * 128 * 128);
    CHECK(p.zero == 0);

    // Where the form has no A_log and dt_bias, their loads are the gate's.
    call.problem.gate = FLASHQLA_GATE_LOG;
    call.args.A_log = {}, call.args.dt_bias = {};
    p = launched();
    CHECK(p.a_log.data == call.args.gate.data);
    CHECK(p.a_log.row == 0);
    CHECK(p.a_log.head == 0);
    CHECK(p.dt_bias.data == call.args.gate.data);
}

TEST_CASE("decode that the decode kernel does not reach") {
    FakeCuda& fake = fake_cuda();
    fake.context = 7;
    const auto check = [&](const char* kernel, void (*edit)(GpuCall&)) {
        GpuCall call;
        edit(call);
        fake.launches.clear();
        REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
        CHECK(fake.launches[0].kernel == kernel);
    };
    const char *const decode = "gdn_decode_bf16_f32vk", *const recurrent = "gdn_recurrent_bf16_f32vk";
    check(decode, [](GpuCall&) {});
    check(recurrent, [](GpuCall& c) { c.state.read_data = c.state.write_data = device_pointer(0x700000000008); });
    check(recurrent, [](GpuCall& c) { c.state.read_slot_stride = c.state.write_slot_stride = 32 * 128 * 128 + 1; });
    check(recurrent, [](GpuCall& c) { c.state.write_data = nullptr, c.state.write_slots = nullptr, c.state.write_slots_count = 0; });
    check(recurrent, [](GpuCall& c) { c.sequences.offsets = device_pointer(0x2100000000000), c.sequences.max_tokens = 1; });
    check("gdn_recurrent_any_128", [](GpuCall& c) { c.args.q.data = device_pointer(0x600000000002); });
    // 2^31 bytes from the first row to behind the last: too many by a row.
    constexpr int64_t kRow = (int64_t{1} << 30) / 8;
    static constexpr auto set_row_stride = [](GpuCall& c, int64_t elements) {
        c.args.v.stride_row = c.args.v.stride_token = elements, c.args.v.stride_head = 128;
    };
    check(decode, [](GpuCall& c) { set_row_stride(c, kRow - 32 * 128); });
    check(recurrent, [](GpuCall& c) { set_row_stride(c, kRow); });
}

// Chunked on a Hopper card: maps for q, k, v and out, the solve, then the recurrence that may start early.
TEST_CASE("tensor-core calls") {
    FakeCuda& fake = fake_hopper();
    GpuCall call;
    call.problem.engine = FLASHQLA_ENGINE_CHUNKED;
    call.sequences.tokens = 8 * 1000;
    REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.maps.size() == 4);
    CHECK(fake.maps[0].data == call.args.q.data);
    CHECK(fake.maps[1].data == call.args.k.data);
    CHECK(fake.maps[2].data == call.args.v.data);
    CHECK(fake.maps[3].data == call.args.out.data);
    CHECK(fake.maps[2].extents[0] == 128);
    CHECK(fake.maps[2].extents[1] == 32);
    CHECK(fake.maps[2].extents[2] == 1000);
    CHECK(fake.maps[2].extents[3] == 8);
    CHECK(fake.maps[2].strides[1] == 32 * 128 * 2);
    REQUIRE(fake.launches.size() == 2);
    CHECK(fake.launches[0].kernel == "gdn_solve_bf16");
    CHECK(!fake.launches[0].overlaps);
    CHECK(fake.launches[1].kernel == "gdn_forward_bf16_v128");
    CHECK(fake.launches[1].overlaps);
    auto p = params_of<fqla::Sm90ForwardParams>(fake.launches[1]);
    CHECK(p.segments == 1);
    CHECK(p.records == call.kWorkspace);
    CHECK(p.state.read.data == call.state.read_data);
    CHECK(p.rows.max_tokens == 1000);
}

// Prefill beside decode: every launch has all rows, and tells by their lengths which are its own.
TEST_CASE("mixed calls") {
    FakeCuda& fake = fake_hopper();
    GpuCall call;
    call.problem.engine = FLASHQLA_ENGINE_AUTO;
    call.problem.qk_norm = FLASHQLA_NORM_NONE;
    call.sequences.rows = 64, call.sequences.tokens = 2048 + 63, call.sequences.max_tokens = 2048;
    call.sequences.offsets = device_pointer(0x2100000000000);
    const auto rows_of = [&](size_t launch, size_t at) {
        fqla::Rows rows;
        std::memcpy(static_cast<void*>(&rows), fake.launches[launch].params + at, sizeof rows);
        CHECK(rows.offsets == call.sequences.offsets);
        CHECK(rows.count == 64);
        CHECK(rows.tokens == 2048 + 63);
        CHECK(rows.max_tokens == 2048);
        return rows;
    };
    REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.maps.size() == 4);
    REQUIRE(fake.launches.size() == 3);
    CHECK(fake.launches[0].kernel == "gdn_recurrent_bf16_f32vk_large");
    CHECK(fake.launches[0].grid[1] == 64);
    CHECK(fake.launches[1].kernel == "gdn_solve_bf16");
    CHECK(!fake.launches[1].overlaps);
    CHECK(fake.launches[2].kernel == "gdn_forward_bf16_v64_mixed");
    CHECK(fake.launches[2].grid[0] == 132);  // take units in turn
    const fqla::Rows shorts = rows_of(0, offsetof(fqla::RecurrentParams, call) + offsetof(fqla::Forward, rows)),
                     solved = rows_of(1, offsetof(fqla::Sm90SolveParams, rows)), others = rows_of(2, offsetof(fqla::Sm90ForwardParams, rows));
    CHECK(shorts.least == 0);
    CHECK(shorts.most == 16);
    CHECK(solved.least == 17);
    CHECK(solved.most == 0);
    CHECK(others.least == 17);
    CHECK(others.most == 0);

    flashqla_query_info info{};
    info.struct_size = sizeof info;
    REQUIRE(flashqla_query(call.handle, &call.problem, &call.sequences, &call.state, FLASHQLA_OP_FORWARD, &info) == FLASHQLA_STATUS_OK);
    CHECK(info.launches == 3);
    CHECK(info.engine == FLASHQLA_ENGINE_CHUNKED);
    CHECK(std::string(info.reason).find("rows of up to 16 tokens") != std::string::npos);

    char text[4096];
    REQUIRE(flashqla_explain(call.handle, &call.problem, &call.sequences, &call.state, FLASHQLA_OP_FORWARD, text, sizeof text, nullptr) == FLASHQLA_STATUS_OK);
    CHECK(std::strstr(text, "launch gdn_recurrent_bf16_f32vk_large"));
    CHECK(std::strstr(text, "rows of up to 16 tokens\n"));
    CHECK(std::strstr(text, "rows of more than 16 tokens\n"));

    // Of bounded keys, the longer rows go to one fused kernel.
    fake.launches.clear();
    call.problem.qk_norm = FLASHQLA_NORM_L2;
    REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.launches.size() == 2);
    CHECK(fake.launches[1].kernel == "gdn_fused_bf16_trio_l2");
    CHECK(fake.launches[1].grid[0] == 99);
    CHECK(rows_of(0, offsetof(fqla::RecurrentParams, call) + offsetof(fqla::Forward, rows)).most == 16);
    CHECK(rows_of(1, offsetof(fqla::Sm90ForwardParams, rows)).least == 17);

    // An engine that is asked for has all rows.
    fake.launches.clear();
    call.problem.engine = FLASHQLA_ENGINE_FUSED;
    REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.launches.size() == 1);
    CHECK(rows_of(0, offsetof(fqla::Sm90ForwardParams, rows)).least == 0);
}

TEST_CASE("tensor-core backward calls") {
    FakeCuda& fake = fake_hopper();
    GpuCall call;
    call.problem.engine = FLASHQLA_ENGINE_CHUNKED;
    call.sequences.tokens = 8 * 1000;
    REQUIRE_MESSAGE(call.backward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.maps.size() == 5);
    CHECK(fake.maps[3].data == call.grads.d_out.data);
    CHECK(fake.maps[4].data == call.grads.dv.data);
    REQUIRE(fake.launches.size() == 4);
    CHECK(fake.launches[0].kernel == "gdn_solve_bf16");
    CHECK(fake.launches[1].kernel == "gdn_chains_bf16");
    CHECK(fake.launches[1].grid[0] == 4 * 8 * 32);
    CHECK(fake.launches[2].kernel == "gdn_gradients_bf16");
    CHECK(fake.launches[2].overlaps);
    CHECK(fake.launches[3].kernel == "gdn_backward_sums");
    CHECK(!fake.launches[3].overlaps);
    auto p = params_of<fqla::Sm90GradientParams>(fake.launches[2]);
    CHECK(p.window.first == 0);
    CHECK(p.window.end == 8 * 16);
    CHECK(!p.dv_tiles);
    CHECK(p.heads == 2);
    CHECK(p.partial_sums != nullptr);
    auto chains = params_of<fqla::Sm90ChainParams>(fake.launches[1]);
    CHECK(chains.first_carries != nullptr);
    CHECK(p.first_carries == chains.first_carries);
    CHECK(p.never == 0);
    CHECK(p.call.grad.initial.data == call.grads.d_initial.data);

    // dv that nobody wants goes through the workspace.
    fake.maps.clear(), fake.launches.clear();
    call.grads.dv = {};
    REQUIRE(call.backward() == FLASHQLA_STATUS_OK);
    CHECK(fake.maps.size() == 4);
    chains = params_of<fqla::Sm90ChainParams>(fake.launches[1]);
    p = params_of<fqla::Sm90GradientParams>(fake.launches[2]);
    CHECK(chains.dv_tiles > call.kWorkspace);
    CHECK(p.dv_tiles == chains.dv_tiles);
}

// Windows of 8 GiB: upwards, S at their ends; then downwards all else, each on its own slots of the same memory.
TEST_CASE("a backward that keeps more than the workspace limit") {
    FakeCuda& fake = fake_hopper();
    GpuCall call;
    call.problem.engine = FLASHQLA_ENGINE_CHUNKED;
    call.sequences.rows = 3, call.sequences.tokens = 3 * 100000;
    REQUIRE_MESSAGE(call.backward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    constexpr int64_t slots = 3 * 1563, each = 2029;  // 132,264 bytes a chunk and head
    std::vector<std::string> want;
    std::vector<int64_t> windows;
    for (const int64_t n : {0, 1})
        for (const char* kernel : {"gdn_solve_bf16", "gdn_chain_summary_bf16"}) want.emplace_back(kernel), windows.push_back(n);
    for (const int64_t n : {2, 1, 0})
        for (const char* kernel : {"gdn_solve_bf16", "gdn_chains_bf16", "gdn_gradients_bf16"}) want.emplace_back(kernel), windows.push_back(n);
    want.emplace_back("gdn_backward_sums");
    REQUIRE(fake.launches.size() == want.size());
    const char* records = nullptr;
    for (size_t i = 0; i < want.size(); i++) {
        CAPTURE(i);
        CHECK(fake.launches[i].kernel == want[i]);
        CHECK(fake.launches[i].overlaps == (want[i] != "gdn_solve_bf16" && want[i] != "gdn_backward_sums"));
        if (i == windows.size()) break;
        const fqla::SlotWindow window{windows[i] * each, std::min((windows[i] + 1) * each, slots)};
        fqla::SlotWindow got{};
        if (want[i] == "gdn_solve_bf16") {
            auto p = params_of<fqla::Sm90SolveParams>(fake.launches[i]);
            got = p.window, records = static_cast<const char*>(p.records);
            CHECK(records >= call.kWorkspace);
        } else if (want[i] == "gdn_gradients_bf16") {
            auto p = params_of<fqla::Sm90GradientParams>(fake.launches[i]);
            got = p.window;
        } else {
            auto p = params_of<fqla::Sm90ChainParams>(fake.launches[i]);
            got = p.window;
            CHECK(p.windows == 3);
            CHECK(p.number == windows[i]);
            CHECK(static_cast<const char*>(p.forward.records) + window.first * 32 * fqla::ChunkRecord::kBytes == records);
            CHECK(fake.launches[i].grid[0] == (want[i] == "gdn_chains_bf16" ? 4 * 3 * 32 : 2 * 32));
        }
        CHECK(got.first == window.first);
        CHECK(got.end == window.end);
    }
}

TEST_CASE("a forward that saves, and the backward that reads it") {
    FakeCuda& fake = fake_hopper();
    GpuCall call;
    call.problem.engine = FLASHQLA_ENGINE_AUTO;
    call.sequences.tokens = 8 * 1000;
    const auto bytes_for = [&](int32_t op) {
        flashqla_query_info info{};
        info.struct_size = sizeof info;
        CHECK(flashqla_query(call.handle, &call.problem, &call.sequences, nullptr, op, &info) == FLASHQLA_STATUS_OK);
        return info.saved_bytes;
    };
    const uint64_t bytes = bytes_for(FLASHQLA_OP_FORWARD);
    constexpr uint64_t kOfChunk = fqla::ChunkRecord::kBytes + fqla::BackwardTiles::kMatrixBytes + fqla::BackwardTiles::kTokensBytes;
    CHECK(bytes == 8 * 16 * 32 * kOfChunk);
    CHECK(bytes_for(FLASHQLA_OP_BACKWARD) == bytes);

    char* const saved = static_cast<char*>(device_pointer(0x2000000000000));
    const auto give = [&](void* at, uint64_t size) {
        call.grads.saved = call.args.saved = at, call.args.saved_bytes = call.grads.saved_bytes = size;
        fake.launches.clear(), fake.maps.clear();
    };
    give(saved, bytes);
    REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.launches.size() == 2);
    CHECK(fake.launches[0].kernel == "gdn_solve_bf16");
    CHECK(fake.launches[1].kernel == "gdn_forward_bf16_saving");
    CHECK(fake.launches[1].grid[0] == 2 * 8 * 32);
    auto forward = params_of<fqla::Sm90ForwardParams>(fake.launches[1]);
    CHECK(forward.records == saved);
    CHECK(static_cast<char*>(forward.states) > saved);
    CHECK(static_cast<char*>(forward.updates) > saved);
    CHECK(static_cast<char*>(forward.updates) < saved + bytes);

    give(saved, bytes);
    REQUIRE_MESSAGE(call.backward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    REQUIRE(fake.launches.size() == 3);
    CHECK(fake.launches[0].kernel == "gdn_chains_bf16");
    CHECK(fake.launches[0].grid[0] == 2 * 8 * 32);
    CHECK(!fake.launches[0].overlaps);  // nothing of this call is before it
    CHECK(fake.launches[1].kernel == "gdn_gradients_bf16");
    CHECK(fake.launches[1].overlaps);
    auto gradients = params_of<fqla::Sm90GradientParams>(fake.launches[1]);
    CHECK(gradients.states == forward.states);
    CHECK(gradients.updates == forward.updates);
    CHECK(gradients.first_carries == nullptr);  // the forward may have overwritten the states

    const auto refused = [&](int32_t status, std::initializer_list<const char*> parts) {
        fake.calls.clear();
        CHECK(call.forward() == status);
        CHECK(says(parts));
        CHECK(fake.calls.empty());
    };
    give(saved, bytes - 1);
    refused(FLASHQLA_STATUS_INVALID_ARGUMENT, {"args.saved_bytes", std::to_string(bytes - 1).c_str(), std::to_string(bytes).c_str()});
    CHECK(call.backward() == FLASHQLA_STATUS_INVALID_ARGUMENT);
    give(saved + 128, bytes);
    refused(FLASHQLA_STATUS_INVALID_ARGUMENT, {"args.saved", "aligned to 256"});
    give(call.args.out.data, bytes);
    refused(FLASHQLA_STATUS_INVALID_ARGUMENT, {"args.out", "overlaps", "args.saved"});
    // Views that tensor cores do not take: a forward that cannot save says so, a backward recomputes.
    give(saved, bytes);
    call.args.v.data = static_cast<char*>(call.args.v.data) + 4;
    refused(FLASHQLA_STATUS_UNSUPPORTED, {"args.saved", "16 bytes"});
    call.place();
    give(saved, bytes);
    call.grads.dq.data = static_cast<char*>(call.grads.dq.data) + 4;
    REQUIRE_MESSAGE(call.backward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    CHECK(fake.launches[0].kernel == "gdn_backward_scan_128");
    // Nothing to save: what is given is not looked at.
    for (const int32_t engine : {FLASHQLA_ENGINE_AUTO, FLASHQLA_ENGINE_RECURRENT}) {
        call.problem.engine = engine;
        call.sequences.tokens = engine ? 8 * 1000 : 8;
        call.place();
        CHECK(bytes_for(FLASHQLA_OP_FORWARD) == 0);
        CHECK(bytes_for(FLASHQLA_OP_BACKWARD) == 0);
        give(saved, 0);
        REQUIRE_MESSAGE(call.forward() == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
        CHECK(fake.launches[0].kernel == (engine ? "gdn_recurrent_bf16_f32vk" : "gdn_decode_bf16_f32vk"));
        CHECK(call.backward() == FLASHQLA_STATUS_OK);
    }
}

TEST_CASE("what is refused launches nothing and asks nothing") {
    FakeCuda& fake = fake_cuda();
    fake.context = 7;
    GpuCall call;
    REQUIRE(call.forward() == FLASHQLA_STATUS_OK);
    fake.calls.clear();
    const auto refused = [&](int32_t status, std::initializer_list<const char*> parts) {
        CHECK(call.forward() == status);
        CHECK(says(parts));
        CHECK(fake.calls.empty());
    };
    call.problem.dtype = FLASHQLA_DTYPE_F64;
    refused(FLASHQLA_STATUS_UNSUPPORTED, {"problem.dtype", "F64", "CPU"});
    flashqla_query_info info{};
    info.struct_size = sizeof info;
    CHECK(flashqla_query(call.handle, &call.problem, &call.sequences, nullptr, FLASHQLA_OP_FORWARD, &info) == FLASHQLA_STATUS_OK);
    CHECK(info.status == FLASHQLA_STATUS_UNSUPPORTED);
    CHECK(std::string(info.reason).find("F64") != std::string::npos);
    CHECK(call.warm() == FLASHQLA_STATUS_UNSUPPORTED);
    call.problem.dtype = FLASHQLA_DTYPE_BF16;
    call.problem.gate = FLASHQLA_GATE_LOG_PER_KEY;
    refused(FLASHQLA_STATUS_UNSUPPORTED, {"problem.gate", "LOG_PER_KEY"});
    call.problem.gate = FLASHQLA_GATE_RAW;
    call.args.out.data = call.args.v.data;
    refused(FLASHQLA_STATUS_INVALID_ARGUMENT, {"args.out", "overlaps", "args.v"});
    call.place();
    call.sequences.rows = 0, call.sequences.tokens = 0;
    CHECK(call.forward() == FLASHQLA_STATUS_OK);
    CHECK(fake.calls.empty());
}

TEST_CASE("the lowest version of each function is asked for") {
    GpuCall call;
    // From the toolkit's cudaTypedefs.h: the version that brought today's signature.
    const std::vector<FakeAsked> lowest = {{"cuInit", 2000},
                                           {"cuDriverGetVersion", 2020},
                                           {"cuDeviceGetCount", 2000},
                                           {"cuDeviceGet", 2000},
                                           {"cuDeviceGetName", 2000},
                                           {"cuDeviceGetAttribute", 2000},
                                           {"cuCtxGetCurrent", 4000},
                                           {"cuCtxGetDevice", 2000},
                                           {"cuCtxGetId", 12000},
                                           {"cuCtxGetDevResource", 12040},
                                           {"cuLibraryLoadData", 12000},
                                           {"cuLibraryGetKernel", 12000},
                                           {"cuKernelGetFunction", 12000},
                                           {"cuKernelGetAttribute", 12000},
                                           {"cuKernelSetAttribute", 12000},
                                           {"cuLaunchKernelEx", 11060},
                                           {"cuStreamIsCapturing", 10000},
                                           {"cuTensorMapEncodeTiled", 12000},
                                           {"cuGetErrorName", 6000},
                                           {"cuGetErrorString", 6000},
                                           {"cuTensorMapEncodeTiled", 12000}};
    for (const FakeAsked& asked : fake_cuda().asked) {
        const auto it = std::find_if(lowest.begin(), lowest.end(), [&](const FakeAsked& l) { return l.name == asked.name; });
        REQUIRE_MESSAGE(it != lowest.end(), asked.name);
        CHECK_MESSAGE(asked.version == it->version, asked.name);
    }
}

TEST_CASE("multiprocessors are those of the current context") {
    FakeCuda& fake = fake_cuda();
    fake.context = 7, fake.context_multiprocessors = 16;
    const auto multiprocessors = [](int32_t ordinal) {
        GpuCall call(ordinal);
        flashqla_device device{};
        device.struct_size = sizeof device;
        REQUIRE(flashqla_device_info(call.handle, &device) == FLASHQLA_STATUS_OK);
        return device.multiprocessors;
    };
    CHECK(multiprocessors(0) == 16);
    CHECK(multiprocessors(1) == 132);  // the context is of device 0
    fake.context = 0;
    CHECK(multiprocessors(0) == 132);
}

TEST_CASE("threads that start together load each library once") {
    FakeCuda& fake = fake_cuda();
    fake.context = 7;
    GpuCall call;
    std::vector<std::thread> threads;
    int32_t status[8] = {};
    for (int32_t& s : status) threads.emplace_back([&s, &call] { s = call.forward(); });
    for (std::thread& t : threads) t.join();
    for (const int32_t s : status) CHECK(s == FLASHQLA_STATUS_OK);
    CHECK(fake.count("cuLibraryLoadData") == 1);
    CHECK(fake.count("cuInit") == 1);
    CHECK(fake.launches.size() == 8);
}

namespace {

// Nanoseconds of the library's own host code for a call, the best of 20 rounds.
double host_time(GpuCall& c, int32_t (GpuCall::*run)()) {
    constexpr int kCalls = 1000;
    double best = 1e9;
    for (int round = 0; round < 20; round++) {
        const auto from = std::chrono::steady_clock::now();
        for (int i = 0; i < kCalls; i++) (c.*run)();
        best = std::min(best, std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - from).count() / kCalls);
    }
    return best;
}

}  // namespace

TEST_CASE("host time of a call") {
    FakeCuda& fake = fake_cuda();
    fake.context = 7;
    for (int32_t (GpuCall::*run)() : {&GpuCall::forward, &GpuCall::backward}) {
        GpuCall call;
        fake.launches.clear();
        REQUIRE((call.*run)() == FLASHQLA_STATUS_OK);
        const int launches = static_cast<int>(fake.launches.size());
        fake.recording = false;
        const double ns = host_time(call, run);
        fake.recording = true;
        std::printf("%s of %d launches: %.0f ns of host time a call, the driver's own excluded\n", run == &GpuCall::forward ? "forward" : "backward", launches,
                    ns);
#if defined(NDEBUG) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        CHECK(ns < 10000 + 3000 * std::max(0, launches - 2));
#endif
    }
}
