// libcuda, opened when first needed: this library has no link-time driver and loads where there is none.
#pragma once
#include <cuda.h>

#include <cstdint>

namespace fqla::cuda {

// X(function, lowest driver version that has it): the newest ABI of a symbol would shut out older drivers.
#define FQLA_DRIVER_FUNCTIONS(X)     \
    X(cuInit, 2000)                  \
    X(cuDriverGetVersion, 2020)      \
    X(cuDeviceGetCount, 2000)        \
    X(cuDeviceGet, 2000)             \
    X(cuDeviceGetName, 2000)         \
    X(cuDeviceGetAttribute, 2000)    \
    X(cuCtxGetCurrent, 4000)         \
    X(cuCtxGetDevice, 2000)          \
    X(cuCtxGetId, 12000)             \
    X(cuCtxGetDevResource, 12040)    \
    X(cuLibraryLoadData, 12000)      \
    X(cuLibraryGetKernel, 12000)     \
    X(cuKernelGetFunction, 12000)    \
    X(cuKernelGetAttribute, 12000)   \
    X(cuKernelSetAttribute, 12000)   \
    X(cuLaunchKernelEx, 11060)       \
    X(cuStreamIsCapturing, 10000)    \
    X(cuTensorMapEncodeTiled, 12000) \
    X(cuGetErrorName, 6000)          \
    X(cuGetErrorString, 6000)

// The lowest driver that runs images of the toolkit that built them: CUDA 13.0, r580.
constexpr int kDriverFloor = 13000;

struct Driver {
#define FQLA_MEMBER(name, version) decltype(&::name) name;
    FQLA_DRIVER_FUNCTIONS(FQLA_MEMBER)
#undef FQLA_MEMBER
};

// The one driver of the process, opened and initialised once. NO_DRIVER, DRIVER_TOO_OLD or CUDA_ERROR with the message set; else `out`
// is set. Thread-safe; a failure is remembered.
int32_t open_driver(const Driver*& out);

// Message and status for a failed driver call.
int32_t driver_failure(const Driver& driver, CUresult result, const char* call);

}  // namespace fqla::cuda

// Runs driver.call(...) and returns its failure from the enclosing function.
#define FQLA_TRY(driver, call, ...)                                                                                         \
    do {                                                                                                                    \
        if (const CUresult fqla_result_ = (driver).call(__VA_ARGS__)) return driver_failure((driver), fqla_result_, #call); \
    } while (0)
