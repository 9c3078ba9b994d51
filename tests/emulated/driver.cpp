// libcuda.so.1 of a machine with one emulated H100: device memory is host memory, streams are done when a call returns, captured streams note what
// they would have done. What flashqla and bindings/c/examples/device.h ask of a driver, and no more.
#include <cuda.h>
#include <sys/mman.h>
// The older name, which device.h asks for.
#undef cuEventElapsedTime

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"
#include "multiprocessor.h"
#include "tensor_box.h"

struct CUgraph_st {
    std::vector<std::function<void()>> nodes;
};
struct CUgraphExec_st {
    CUgraph_st graph;
};
struct CUstream_st {
    CUgraph capturing;
};
struct CUctx_st {
    unsigned long long id;
};
struct CUevent_st {
    std::chrono::steady_clock::time_point at;
};

namespace {

constexpr int kMultiprocessors = 132, kMostThreads = 1024;
std::mutex g_device;  // one thing at a time, as in one stream
thread_local CUcontext t_context;
std::atomic<unsigned long long> g_contexts{1};
uint64_t g_launches;
CUctx_st g_primary{1};

void enqueue(CUstream stream, std::function<void()> work) {
    if (stream && stream->capturing) {
        stream->capturing->nodes.push_back(std::move(work));
        return;
    }
    const std::lock_guard<std::mutex> lock(g_device);
    work();
}

// Clusters are dealt to as many host threads as the machine has.
void run_kernel(const emulated::Kernel& kernel, const std::vector<char>& parameters, emulated::Dim grid, int threads, uint32_t shared_bytes) {
    static std::vector<std::unique_ptr<emulated::Multiprocessor>> machines;
    emulated::g_grid = grid;
    emulated::g_block = {static_cast<unsigned>(threads), 1, 1};
    const emulated::Launch launch{kernel.name, kernel.bind(parameters.data()), threads, kernel.cluster, shared_bytes, ++g_launches * 7919};
    const unsigned clusters = grid.x * grid.y * grid.z / static_cast<unsigned>(kernel.cluster);
    std::atomic<unsigned> next{0};
    const auto work = [&](emulated::Multiprocessor* machine) {
        for (unsigned i; (i = next++) < clusters;) {
            const unsigned block = i * static_cast<unsigned>(kernel.cluster);
            machine->run(launch, {block % grid.x, block / grid.x % grid.y, block / grid.x / grid.y});
        }
    };
    const unsigned workers = std::min(clusters, std::max(1u, std::thread::hardware_concurrency()));
    while (machines.size() < workers) machines.push_back(std::make_unique<emulated::Multiprocessor>());
    std::vector<std::thread> others;
    for (unsigned i = 1; i < workers; i++) others.emplace_back(work, machines[i].get());
    work(machines[0].get());
    for (std::thread& t : others) t.join();
}

CUdeviceptr address(const void* p) { return reinterpret_cast<CUdeviceptr>(p); }
void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char** name) { return *name = error ? "CUDA_ERROR_OF_THE_EMULATION" : "CUDA_SUCCESS", CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult, const char** text) { return *text = "see the emulated driver", CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) { return *device = ordinal, ordinal ? CUDA_ERROR_INVALID_DEVICE : CUDA_SUCCESS; }
CUresult cuDeviceGetName(char* name, int capacity, CUdevice) {
    if (capacity > 0) name[0] = 0, strncat(name, "Emulated H100", static_cast<size_t>(capacity) - 1);
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    const std::map<int, int> values = {{CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
                                       {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
                                       {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, kMultiprocessors},
                                       {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, static_cast<int>(emulated::kSharedBytes)},
                                       {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20},
                                       {CU_DEVICE_ATTRIBUTE_INTEGRATED, 0}};
    const auto found = values.find(attribute);
    if (found == values.end()) return CUDA_ERROR_INVALID_VALUE;
    *value = found->second;
    return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return *context = &g_primary, CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }
CUresult cuCtxCreate_v2(CUcontext* context, unsigned, CUdevice) { return *context = t_context = new CUctx_st{++g_contexts}, CUDA_SUCCESS; }
CUresult cuCtxDestroy_v2(CUcontext context) {
    if (t_context == context) t_context = nullptr;
    delete context;
    return CUDA_SUCCESS;
}
CUresult cuCtxSetCurrent(CUcontext context) { return t_context = context, CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext* context) { return *context = t_context, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* device) { return *device = 0, t_context ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT; }
CUresult cuCtxGetId(CUcontext context, unsigned long long* id) { return *id = context->id, CUDA_SUCCESS; }
CUresult cuCtxGetDevResource(CUcontext, CUdevResource* resource, CUdevResourceType) { return resource->sm.smCount = kMultiprocessors, CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { return CUDA_SUCCESS; }

// Fresh memory is NaN. Of a large allocation only the beginning: most of it is never touched, and need not be there.
constexpr size_t kLarge = size_t{256} << 20;

size_t mapped_bytes(size_t bytes) { return (std::max(bytes, size_t{1}) + 4095) / 4096 * 4096; }
struct Mappings {
    std::mutex mutex;
    std::map<CUdeviceptr, size_t> bytes;
};
Mappings& mappings() {
    static Mappings all;
    return all;
}

CUresult cuMemAlloc(CUdeviceptr* at, size_t bytes) {
    void* p = mmap(nullptr, mapped_bytes(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    memset(p, 0xFF, std::min(bytes, kLarge));
    *at = address(p);
    const std::lock_guard<std::mutex> lock(mappings().mutex);
    mappings().bytes[*at] = mapped_bytes(bytes);
    return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr at) {
    const std::lock_guard<std::mutex> lock(mappings().mutex);
    const auto found = mappings().bytes.find(at);
    if (found == mappings().bytes.end()) return at ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
    munmap(pointer(at), found->second);
    mappings().bytes.erase(found);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) { return memcpy(pointer(to), from, bytes), CUDA_SUCCESS; }
CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) { return memcpy(to, pointer(from), bytes), CUDA_SUCCESS; }
CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    enqueue(stream, [=] { memmove(pointer(to), pointer(from), bytes); });
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
    enqueue(stream, [=] { memset(pointer(to), value, bytes); });
    return CUDA_SUCCESS;
}
CUresult cuMemsetD8(CUdeviceptr to, unsigned char value, size_t bytes) { return cuMemsetD8Async(to, value, bytes, nullptr); }

CUresult cuStreamCreate(CUstream* stream, unsigned) { return *stream = new CUstream_st{}, CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream stream) { return delete stream, CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream) { return CUDA_SUCCESS; }
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
    *status = stream && stream->capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
    return CUDA_SUCCESS;
}
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode) { return stream->capturing = new CUgraph_st{}, CUDA_SUCCESS; }
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
    *graph = stream->capturing;
    stream->capturing = nullptr;
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) { return *exec = new CUgraphExec_st{*graph}, CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph graph) { return delete graph, CUDA_SUCCESS; }
CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
    for (const auto& node : exec->graph.nodes) enqueue(stream, node);
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec exec) { return delete exec, CUDA_SUCCESS; }

CUresult cuEventCreate(CUevent* event, unsigned) { return *event = new CUevent_st{}, CUDA_SUCCESS; }
CUresult cuEventDestroy(CUevent event) { return delete event, CUDA_SUCCESS; }
CUresult cuEventRecord(CUevent event, CUstream) { return event->at = std::chrono::steady_clock::now(), CUDA_SUCCESS; }
CUresult cuEventSynchronize(CUevent) { return CUDA_SUCCESS; }
CUresult cuEventElapsedTime(float* ms, CUevent start, CUevent end) {
    *ms = std::chrono::duration<float, std::milli>(end->at - start->at).count();
    return CUDA_SUCCESS;
}

// The image itself is for a GPU; its kernels are here by name.
CUresult cuLibraryLoadData(CUlibrary* library, const void* code, CUjit_option*, void**, unsigned, CUlibraryOption*, void**, unsigned) {
    *library = reinterpret_cast<CUlibrary>(const_cast<void*>(code));
    return CUDA_SUCCESS;
}
CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary, const char* name) {
    *kernel = reinterpret_cast<CUkernel>(const_cast<emulated::Kernel*>(emulated::find_kernel(name)));
    return *kernel ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuKernelGetFunction(CUfunction* function, CUkernel kernel) { return *function = reinterpret_cast<CUfunction>(kernel), CUDA_SUCCESS; }
CUresult cuKernelGetAttribute(int* value, CUfunction_attribute, CUkernel, CUdevice) { return *value = 0, CUDA_SUCCESS; }
CUresult cuKernelSetAttribute(CUfunction_attribute, int, CUkernel, CUdevice) { return CUDA_SUCCESS; }
CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void**) {
    const auto* kernel = reinterpret_cast<const emulated::Kernel*>(function);
    const emulated::Dim grid{config->gridDimX, config->gridDimY, config->gridDimZ};
    const int threads = static_cast<int>(config->blockDimX);
    const uint32_t shared_bytes = config->sharedMemBytes;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || threads == 0 || threads % emulated::kWarp || threads > kMostThreads ||
        shared_bytes > emulated::kSharedBytes || grid.x % static_cast<unsigned>(kernel->cluster))
        return CUDA_ERROR_INVALID_VALUE;
    const auto* bytes = static_cast<const char*>(parameters[0]);
    enqueue(config->hStream, [=, copy = std::vector<char>(bytes, bytes + kernel->parameter_bytes)] { run_kernel(*kernel, copy, grid, threads, shared_bytes); });
    return CUDA_SUCCESS;
}
CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* data, const cuuint64_t* extents, const cuuint64_t* strides,
                                const cuuint32_t* box, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle swizzle, CUtensorMapL2promotion,
                                CUtensorMapFloatOOBfill) {
    if (rank != 4 || box[0] != 64 || box[1] != 1 || box[2] != 64 || box[3] != 1 || swizzle != CU_TENSOR_MAP_SWIZZLE_128B || address(data) % 16)
        return CUDA_ERROR_INVALID_VALUE;
    emulated::TensorBox t{static_cast<char*>(data), {extents[0], extents[1], extents[2], extents[3]}, {strides[0], strides[1], strides[2]}};
    memset(map, 0, sizeof *map);
    memcpy(map, &t, sizeof t);
    return CUDA_SUCCESS;
}

// By the plain name, whatever version is asked for: all of them are here with the parameters of cuda.h.
CUresult cuGetProcAddress_v2(const char* name, void** function, int, cuuint64_t, CUdriverProcAddressQueryResult*) {
#define FQLA_FOUND(f) \
    { #f, reinterpret_cast < void*>(&f) }
    static const std::map<std::string, void*> functions = {
        FQLA_FOUND(cuInit),
        FQLA_FOUND(cuDriverGetVersion),
        FQLA_FOUND(cuGetErrorName),
        FQLA_FOUND(cuGetErrorString),
        FQLA_FOUND(cuDeviceGetCount),
        FQLA_FOUND(cuDeviceGet),
        FQLA_FOUND(cuDeviceGetName),
        FQLA_FOUND(cuDeviceGetAttribute),
        FQLA_FOUND(cuCtxGetCurrent),
        FQLA_FOUND(cuCtxGetDevice),
        FQLA_FOUND(cuCtxGetId),
        FQLA_FOUND(cuCtxGetDevResource),
        FQLA_FOUND(cuStreamIsCapturing),
        FQLA_FOUND(cuLibraryLoadData),
        FQLA_FOUND(cuLibraryGetKernel),
        FQLA_FOUND(cuKernelGetFunction),
        FQLA_FOUND(cuKernelGetAttribute),
        FQLA_FOUND(cuKernelSetAttribute),
        FQLA_FOUND(cuLaunchKernelEx),
        FQLA_FOUND(cuTensorMapEncodeTiled),
    };
    const auto found = functions.find(name);
    *function = found == functions.end() ? nullptr : found->second;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

}  // extern "C"
