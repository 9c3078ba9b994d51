// Each way that a driver can fail us has its own status and message. A driver is opened once a process: CTest runs each case alone.
#include <vector>

#include "gpu_call.h"

namespace {

int32_t create(int32_t device) {
    flashqla_config config;
    flashqla_config_init(&config, sizeof config);
    config.device = device;
    auto* handle = reinterpret_cast<flashqla_handle*>(uintptr_t{1});
    const int32_t status = flashqla_create(&handle, &config);
    CHECK((handle == nullptr) == (status != FLASHQLA_STATUS_OK));
    if (handle) flashqla_destroy(handle);
    return status;
}

std::vector<std::string> g_log;

void remember(void*, int32_t level, const char* message) { g_log.push_back(std::to_string(level) + ' ' + message); }

flashqla_device best() {
    flashqla_config config;
    flashqla_config_init(&config, sizeof config);
    config.log = remember;
    flashqla_handle* handle = nullptr;
    REQUIRE(flashqla_create(&handle, &config) == FLASHQLA_STATUS_OK);
    flashqla_device device{};
    device.struct_size = sizeof device;
    REQUIRE(flashqla_device_info(handle, &device) == FLASHQLA_STATUS_OK);
    flashqla_destroy(handle);
    return device;
}

}  // namespace

TEST_CASE("driver too old") {
    fake_cuda().driver_version = 12090;
    CHECK(create(0) == FLASHQLA_STATUS_DRIVER_TOO_OLD);
    CHECK(says({"12090", "13.0", "r580"}));
    CHECK(fake_cuda().count("cuInit") == 0);
    fake_cuda().driver_version = 13000;  // too late: the failure is remembered, as the process would have to start again with a new driver
    CHECK(create(0) == FLASHQLA_STATUS_DRIVER_TOO_OLD);
}

TEST_CASE("function missing") {
    fake_cuda().missing = "cuCtxGetDevResource";
    CHECK(create(0) == FLASHQLA_STATUS_DRIVER_TOO_OLD);
    CHECK(says({"cuCtxGetDevResource", "r580"}));
}

TEST_CASE("driver sees no device") {
    fake_cuda().failing = "cuInit";
    fake_cuda().failure = CUDA_ERROR_NO_DEVICE;
    CHECK(create(0) == FLASHQLA_STATUS_NO_DRIVER);
    CHECK(says({"cuInit", "100"}));
}

TEST_CASE("driver does not start") {
    fake_cuda().failing = "cuInit";
    fake_cuda().failure = CUDA_ERROR_UNKNOWN;
    CHECK(create(0) == FLASHQLA_STATUS_CUDA_ERROR);
    CHECK(says({"cuInit", "CUDA_ERROR_UNKNOWN", "999"}));
}

TEST_CASE("devices") {
    FakeCuda& fake = fake_cuda();
    CHECK(create(2) == FLASHQLA_STATUS_INVALID_ARGUMENT);
    CHECK(says({"config.device", "= 2", "2 devices"}));
    CHECK(create(1) == FLASHQLA_STATUS_OK);
    fake.device_count = 0;
    CHECK(create(0) == FLASHQLA_STATUS_NO_DRIVER);
    CHECK(says({"no device"}));
    fake.device_count = 1;
    fake.major = 7, fake.minor = 5;
    CHECK(create(0) == FLASHQLA_STATUS_NO_IMAGE);
    CHECK(says({"Fake GPU", "7.5", "it has sm_"}));
    fake.major = 8, fake.minor = 7, fake.integrated = 1;  // a Tegra runs no desktop image
    CHECK(create(0) == (FAKE_HAS_PTX ? FLASHQLA_STATUS_OK : FLASHQLA_STATUS_NO_IMAGE));
    fake.major = FAKE_MAJOR, fake.minor = 0, fake.integrated = 0;
    for (const char* function : {"cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute"}) {
        fake.failing = function, fake.failure = CUDA_ERROR_UNKNOWN;
        CHECK(create(0) == FLASHQLA_STATUS_CUDA_ERROR);
        CHECK(says({function, "CUDA_ERROR_UNKNOWN", "a text of the driver"}));
    }
}

TEST_CASE("best device") {
    FakeCuda& fake = fake_cuda();
    CHECK(best().device == 0);
    fake.context = 7, fake.context_device = 1;
    CHECK(best().device == 1);
    CHECK(g_log.empty());
    fake.context = 0, fake.major = 7;
    CHECK(best().device == FLASHQLA_DEVICE_CPU);
    REQUIRE(g_log.size() == 1);
    CHECK(g_log[0].find("1 ") == 0);
    CHECK(g_log[0].find("using the CPU") != std::string::npos);
    CHECK(g_log[0].find("7.0") != std::string::npos);
    CHECK(std::string(flashqla_last_error()).empty());
}

TEST_CASE("contexts") {
    FakeCuda& fake = fake_cuda();
    GpuCall call(1);
    CHECK(call.forward() == FLASHQLA_STATUS_NO_CONTEXT);
    CHECK(says({"context"}));
    CHECK(call.warm() == FLASHQLA_STATUS_NO_CONTEXT);
    fake.context = 7;
    CHECK(call.forward() == FLASHQLA_STATUS_WRONG_DEVICE);
    CHECK(says({"device 0", "device 1"}));
    CHECK(call.warm() == FLASHQLA_STATUS_WRONG_DEVICE);
    CHECK(fake.launches.empty());
    fake.context_device = 1;
    CHECK(call.forward() == FLASHQLA_STATUS_OK);
    // A query needs no context.
    fake.context = 0;
    flashqla_query_info info{};
    info.struct_size = sizeof info;
    fake.calls.clear();
    CHECK(flashqla_query(call.handle, &call.problem, &call.sequences, &call.state, FLASHQLA_OP_FORWARD, &info) == FLASHQLA_STATUS_OK);
    CHECK(info.launches == 1);
    CHECK(fake.calls.empty());
}

TEST_CASE("capture") {
    FakeCuda& fake = fake_cuda();
    GpuCall call;
    fake.context = 7;
    fake.capturing = true;
    CHECK(call.forward() == FLASHQLA_STATUS_NOT_WARM);
    CHECK(says({"gdn_decode", "flashqla_warmup"}));
    CHECK(fake.launches.empty());
    fake.capturing = false;
    CHECK(call.warm() == FLASHQLA_STATUS_OK);
    fake.capturing = true;
    CHECK(call.forward() == FLASHQLA_STATUS_OK);
    CHECK(fake.launches.size() == 1);
    // Every form of the problem that a call may take is warm: unaligned tensors go through another kernel.
    call.args.q.data = device_pointer(0x600000000002);
    CHECK(call.forward() == FLASHQLA_STATUS_OK);
    CHECK(fake.launches.back().kernel.rfind("gdn_recurrent_any", 0) == 0);
    // Another context is cold, and its kernels come without loading the library again.
    const int loaded = fake.count("cuLibraryLoadData");
    fake.context = 8;
    CHECK(call.forward() == FLASHQLA_STATUS_NOT_WARM);
    fake.capturing = false;
    CHECK(call.warm() == FLASHQLA_STATUS_OK);
    fake.capturing = true;
    CHECK(call.forward() == FLASHQLA_STATUS_OK);
    fake.context = 7;
    CHECK(call.forward() == FLASHQLA_STATUS_OK);
    CHECK(fake.count("cuLibraryLoadData") == loaded);
}

TEST_CASE("driver calls fail") {
    FakeCuda& fake = fake_cuda();
    GpuCall call(0, remember);
    fake.context = 7;
    const struct {
        const char* function;
        CUresult failure;
        int32_t status;
    } cases[] = {
        {"cuCtxGetCurrent", CUDA_ERROR_UNKNOWN, FLASHQLA_STATUS_CUDA_ERROR},
        {"cuCtxGetDevice", CUDA_ERROR_CONTEXT_IS_DESTROYED, FLASHQLA_STATUS_NO_CONTEXT},
        {"cuCtxGetId", CUDA_ERROR_INVALID_CONTEXT, FLASHQLA_STATUS_NO_CONTEXT},
        {"cuStreamIsCapturing", CUDA_ERROR_UNKNOWN, FLASHQLA_STATUS_CUDA_ERROR},
        {"cuLibraryLoadData", CUDA_ERROR_OUT_OF_MEMORY, FLASHQLA_STATUS_OUT_OF_MEMORY},
        {"cuLibraryLoadData", CUDA_ERROR_NO_BINARY_FOR_GPU, FLASHQLA_STATUS_NO_IMAGE},
        {"cuLibraryGetKernel", CUDA_ERROR_UNKNOWN, FLASHQLA_STATUS_CUDA_ERROR},
        {"cuKernelGetAttribute", CUDA_ERROR_UNKNOWN, FLASHQLA_STATUS_CUDA_ERROR},
        {"cuKernelSetAttribute", CUDA_ERROR_UNKNOWN, FLASHQLA_STATUS_CUDA_ERROR},
        {"cuKernelGetFunction", CUDA_ERROR_OUT_OF_MEMORY, FLASHQLA_STATUS_OUT_OF_MEMORY},
        {"cuLaunchKernelEx", CUDA_ERROR_UNKNOWN, FLASHQLA_STATUS_CUDA_ERROR},
    };
    for (const auto& c : cases) {
        CAPTURE(std::string(c.function));
        fake.failing = c.function, fake.failure = c.failure;
        g_log.clear();
        CHECK(call.forward() == c.status);
        CHECK(g_log.size() == (c.status == FLASHQLA_STATUS_CUDA_ERROR ? 1 : 0));  // the others are the caller's doing
        CHECK(says({c.function, "a text of the driver"}));
        CHECK(fake.launches.empty());
    }
    fake.failing = "";
    CHECK(call.forward() == FLASHQLA_STATUS_OK);  // none of the failures stays
}
