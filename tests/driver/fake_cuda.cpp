#include "fake_cuda.h"

#include <cstring>
#include <deque>
#include <mutex>

namespace {

FakeCuda g_fake;
std::mutex g_mutex;
std::deque<std::string> g_kernels;  // a CUkernel is the address of its name

CUresult seen(const char* name) {
    if (g_fake.recording) {
        const std::lock_guard<std::mutex> lock(g_mutex);
        g_fake.calls.emplace_back(name);
    }
    return *g_fake.failing && !std::strcmp(g_fake.failing, name) ? g_fake.failure : CUDA_SUCCESS;
}

// Records the call, fails if it is to fail, else goes on.
#define SEEN(name) \
    if (const CUresult failed = seen(#name)) return failed

CUresult fake_cuInit(unsigned) {
    SEEN(cuInit);
    return CUDA_SUCCESS;
}
CUresult fake_cuDriverGetVersion(int* version) {
    SEEN(cuDriverGetVersion);
    *version = g_fake.driver_version;
    return CUDA_SUCCESS;
}
CUresult fake_cuDeviceGetCount(int* count) {
    SEEN(cuDeviceGetCount);
    *count = g_fake.device_count;
    return CUDA_SUCCESS;
}
CUresult fake_cuDeviceGet(CUdevice* device, int ordinal) {
    SEEN(cuDeviceGet);
    *device = ordinal;
    return CUDA_SUCCESS;
}
CUresult fake_cuDeviceGetName(char* name, int size, CUdevice) {
    SEEN(cuDeviceGetName);
    std::strncpy(name, "Fake GPU", static_cast<size_t>(size));
    return CUDA_SUCCESS;
}
CUresult fake_cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    SEEN(cuDeviceGetAttribute);
    switch (attribute) {
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR:
            *value = g_fake.major;
            break;
        case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
            *value = g_fake.minor;
            break;
        case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
            *value = g_fake.multiprocessors;
            break;
        case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN:
            *value = g_fake.shared_bytes;
            break;
        case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE:
            *value = g_fake.l2_bytes;
            break;
        case CU_DEVICE_ATTRIBUTE_INTEGRATED:
            *value = g_fake.integrated;
            break;
        default:
            return CUDA_ERROR_INVALID_VALUE;
    }
    return CUDA_SUCCESS;
}
CUresult fake_cuCtxGetCurrent(CUcontext* context) {
    SEEN(cuCtxGetCurrent);
    *context = reinterpret_cast<CUcontext>(static_cast<uintptr_t>(g_fake.context));
    return CUDA_SUCCESS;
}
CUresult fake_cuCtxGetDevice(CUdevice* device) {
    SEEN(cuCtxGetDevice);
    *device = g_fake.context_device;
    return g_fake.context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
CUresult fake_cuCtxGetId(CUcontext context, unsigned long long* id) {
    SEEN(cuCtxGetId);
    *id = static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(context));
    return CUDA_SUCCESS;
}
CUresult fake_cuCtxGetDevResource(CUcontext, CUdevResource* resource, CUdevResourceType) {
    SEEN(cuCtxGetDevResource);
    resource->sm.smCount = g_fake.context_multiprocessors;
    return CUDA_SUCCESS;
}
CUresult fake_cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned, CUlibraryOption*, void**, unsigned) {
    SEEN(cuLibraryLoadData);
    *library = reinterpret_cast<CUlibrary>(const_cast<void*>(code));
    uint32_t magic = 0;
    std::memcpy(&magic, code, sizeof magic);
    return magic == 0xBA55ED50U ? CUDA_SUCCESS : CUDA_ERROR_INVALID_IMAGE;  // a fatbin's first word
}
CUresult fake_cuLibraryGetKernel(CUkernel* kernel, CUlibrary, const char* name) {
    SEEN(cuLibraryGetKernel);
    const std::lock_guard<std::mutex> lock(g_mutex);
    *kernel = reinterpret_cast<CUkernel>(&g_kernels.emplace_back(name));
    return CUDA_SUCCESS;
}
CUresult fake_cuKernelGetFunction(CUfunction* function, CUkernel kernel) {
    SEEN(cuKernelGetFunction);
    *function = reinterpret_cast<CUfunction>(kernel);
    return CUDA_SUCCESS;
}
CUresult fake_cuKernelGetAttribute(int* value, CUfunction_attribute, CUkernel, CUdevice) {
    SEEN(cuKernelGetAttribute);
    *value = 1024;
    return CUDA_SUCCESS;
}
CUresult fake_cuKernelSetAttribute(CUfunction_attribute, int value, CUkernel, CUdevice) {
    SEEN(cuKernelSetAttribute);
    return value == g_fake.shared_bytes - 1024 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult fake_cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** params, void**) {
    SEEN(cuLaunchKernelEx);
    if (!g_fake.recording) return CUDA_SUCCESS;
    FakeLaunch launch{*reinterpret_cast<const std::string*>(function),
                      {config->gridDimX, config->gridDimY, config->gridDimZ},
                      config->blockDimX,
                      config->sharedMemBytes,
                      config->hStream,
                      {},
                      config->numAttrs == 1 && config->attrs[0].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION};
    std::memcpy(launch.params, params[0], sizeof launch.params);
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_fake.launches.push_back(launch);
    return CUDA_SUCCESS;
}
CUresult fake_cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
    SEEN(cuStreamIsCapturing);
    *status = g_fake.capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
CUresult fake_cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t, void* data, const cuuint64_t* extents, const cuuint64_t* strides,
                                     const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                     CUtensorMapFloatOOBfill) {
    SEEN(cuTensorMapEncodeTiled);
    *map = {};
    const std::lock_guard<std::mutex> lock(g_mutex);
    g_fake.maps.push_back({data, {extents[0], extents[1], extents[2], extents[3]}, {strides[0], strides[1], strides[2]}});
    return CUDA_SUCCESS;
}

CUresult fake_cuGetErrorName(CUresult error, const char** name) {
    *name = error == CUDA_ERROR_UNKNOWN ? "CUDA_ERROR_UNKNOWN" : error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OTHER";
    return CUDA_SUCCESS;
}
CUresult fake_cuGetErrorString(CUresult, const char** text) {
    *text = "a text of the driver";
    return CUDA_SUCCESS;
}

template <class Function>
void* address_of(Function* function) {
    void* address = nullptr;
    std::memcpy(&address, &function, sizeof address);
    return address;
}

#define FIND(name) \
    if (!std::strcmp(wanted, #name)) return address_of(fake_##name)

void* find(const char* wanted) {
    FIND(cuInit);
    FIND(cuDriverGetVersion);
    FIND(cuDeviceGetCount);
    FIND(cuDeviceGet);
    FIND(cuDeviceGetName);
    FIND(cuDeviceGetAttribute);
    FIND(cuCtxGetCurrent);
    FIND(cuCtxGetDevice);
    FIND(cuCtxGetId);
    FIND(cuCtxGetDevResource);
    FIND(cuLibraryLoadData);
    FIND(cuLibraryGetKernel);
    FIND(cuKernelGetFunction);
    FIND(cuKernelGetAttribute);
    FIND(cuKernelSetAttribute);
    FIND(cuLaunchKernelEx);
    FIND(cuStreamIsCapturing);
    FIND(cuTensorMapEncodeTiled);
    FIND(cuGetErrorName);
    FIND(cuGetErrorString);
    return nullptr;
}

}  // namespace

extern "C" FakeCuda& fake_cuda() { return g_fake; }

extern "C" __attribute__((visibility("default"))) CUresult cuGetProcAddress_v2(const char* symbol, void** function, int version, cuuint64_t,
                                                                               CUdriverProcAddressQueryResult*) {
    g_fake.asked.push_back({symbol, version});
    *function = std::strcmp(symbol, g_fake.missing) ? find(symbol) : nullptr;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
