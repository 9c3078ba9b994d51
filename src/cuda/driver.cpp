#include "driver.h"

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "mutex.h"
#include "status.h"

namespace fqla::cuda {
namespace {

using GetProcAddress = CUresult (*)(const char*, void**, int, cuuint64_t, CUdriverProcAddressQueryResult*);

struct State {
    Driver driver;
    bool tried = false;
    int32_t status = FLASHQLA_STATUS_OK;
    char message[256];
};
State g_state;
Mutex g_mutex;

#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
int32_t
remember(State& s, int32_t status, const char* format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(s.message, sizeof s.message, format, args);
    va_end(args);
    return s.status = status;
}

int32_t resolve(State& s, GetProcAddress get) {
    void* address = nullptr;
    CUdriverProcAddressQueryResult found{};
#define FQLA_RESOLVE(name, version)                                                                                                             \
    if (get(#name, &address, version, CU_GET_PROC_ADDRESS_DEFAULT, &found) != CUDA_SUCCESS || !address)                                         \
        return remember(s, FLASHQLA_STATUS_DRIVER_TOO_OLD, "the CUDA driver has no %s of version %d: r580 or newer is needed", #name, version); \
    memcpy(static_cast<void*>(&s.driver.name), &address, sizeof address);
    FQLA_DRIVER_FUNCTIONS(FQLA_RESOLVE)
#undef FQLA_RESOLVE
    return FLASHQLA_STATUS_OK;
}

int32_t open(State& s) {
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) return remember(s, FLASHQLA_STATUS_NO_DRIVER, "libcuda.so.1 could not be opened: %.180s", dlerror());
    void* symbol = dlsym(library, "cuGetProcAddress_v2");
    if (!symbol) return remember(s, FLASHQLA_STATUS_DRIVER_TOO_OLD, "libcuda.so.1 has no %s: r580 or newer is needed", "cuGetProcAddress_v2");
    GetProcAddress get = nullptr;
    memcpy(&get, &symbol, sizeof get);
    // The version first: of an old driver the user shall hear its age, not a function's name.
    void* address = nullptr;
    CUdriverProcAddressQueryResult found{};
    int version = 0;
    if (get("cuDriverGetVersion", &address, 2020, CU_GET_PROC_ADDRESS_DEFAULT, &found) == CUDA_SUCCESS && address) {
        decltype(&::cuDriverGetVersion) get_version = nullptr;
        memcpy(static_cast<void*>(&get_version), &address, sizeof address);
        get_version(&version);
    }
    if (version < kDriverFloor)
        return remember(s, FLASHQLA_STATUS_DRIVER_TOO_OLD, "the CUDA driver is too old: CUDA 13.0 (r580) is needed, this one is version %d", version);
    if (const int32_t e = resolve(s, get)) return e;
    const CUresult result = s.driver.cuInit(0);
    if (result == CUDA_SUCCESS) return FLASHQLA_STATUS_OK;
    const char* name = "";
    s.driver.cuGetErrorName(result, &name);
    const bool nothing = result == CUDA_ERROR_NO_DEVICE;
    return remember(s, nothing ? FLASHQLA_STATUS_NO_DRIVER : FLASHQLA_STATUS_CUDA_ERROR, "cuInit: %s (%d)", name ? name : "", static_cast<int>(result));
}

}  // namespace

int32_t open_driver(const Driver*& out) {
    Lock lock(g_mutex);
    if (!g_state.tried) {
        g_state.tried = true;
        open(g_state);
    }
    if (g_state.status) return fail(g_state.status, "%s", g_state.message);
    out = &g_state.driver;
    return FLASHQLA_STATUS_OK;
}

int32_t driver_failure(const Driver& driver, CUresult result, const char* call) {
    const char *name = nullptr, *text = nullptr;
    driver.cuGetErrorName(result, &name);
    driver.cuGetErrorString(result, &text);
    const int32_t status = result == CUDA_ERROR_OUT_OF_MEMORY                                                  ? FLASHQLA_STATUS_OUT_OF_MEMORY
                           : result == CUDA_ERROR_NO_BINARY_FOR_GPU                                            ? FLASHQLA_STATUS_NO_IMAGE
                           : result == CUDA_ERROR_INVALID_CONTEXT || result == CUDA_ERROR_CONTEXT_IS_DESTROYED ? FLASHQLA_STATUS_NO_CONTEXT
                                                                                                               : FLASHQLA_STATUS_CUDA_ERROR;
    return fail(status, "%s: %s (%d), %s", call, name ? name : "unknown error", static_cast<int>(result), text ? text : "");
}

}  // namespace fqla::cuda
