#include "loader.h"

#include <cstring>

#include "embedded.h"
#include "mutex.h"
#include "status.h"

namespace fqla::cuda {
namespace {

// Libraries and kernels are context-independent (cuLibrary*): one each for the process. What is per context is whether the driver has
// brought a kernel's code onto the device, which it may not do while a stream of that context is being captured.
struct LoadedIn {
    unsigned long long context;  // cuCtxGetId: never reused, unlike the pointer
    bool kernel[kKernelSlots];
};

constexpr int kContexts = 64;  // a process with more recycles entries: those contexts warm up again

struct Cache {
    Mutex mutex;
    CUlibrary libraries[kEmbeddedCount + 1];
    CUkernel kernel[kKernelSlots];
    LoadedIn loaded[kContexts];
    int contexts = 0, oldest = 0;
};
Cache g_cache;

LoadedIn& entry_of(unsigned long long context) {
    for (int i = 0; i < g_cache.contexts; i++)
        if (g_cache.loaded[i].context == context) return g_cache.loaded[i];
    const int at = g_cache.contexts < kContexts ? g_cache.contexts++ : g_cache.oldest++ % kContexts;
    g_cache.loaded[at] = {};
    g_cache.loaded[at].context = context;
    return g_cache.loaded[at];
}

int32_t load_library(const Driver& driver, const char* source, CUlibrary& out) {
    for (int i = 0; i < kEmbeddedCount; i++) {
        if (strcmp(kEmbedded[i].source, source) != 0) continue;
        if (!g_cache.libraries[i]) FQLA_TRY(driver, cuLibraryLoadData, &g_cache.libraries[i], kEmbedded[i].data, nullptr, nullptr, 0, nullptr, nullptr, 0);
        out = g_cache.libraries[i];
        return FLASHQLA_STATUS_OK;
    }
    return fail(FLASHQLA_STATUS_INTERNAL, "no kernels named %s inside", source);
}

int32_t load(const Driver& driver, const Caps& caps, KernelId id) {
    const int i = static_cast<int>(id);
    if (!g_cache.kernel[i]) {
        CUlibrary library = nullptr;
        if (const int32_t s = load_library(driver, kKernels[i].source, library)) return s;
        FQLA_TRY(driver, cuLibraryGetKernel, &g_cache.kernel[i], library, kKernels[i].symbol);
    }
    // Up to the device's limit, so that each launch may take what its plan says.
    int fixed = 0;
    FQLA_TRY(driver, cuKernelGetAttribute, &fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, g_cache.kernel[i], caps.device);
    FQLA_TRY(driver, cuKernelSetAttribute, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(caps.shared_memory_bytes) - fixed,
             g_cache.kernel[i], caps.device);
    CUfunction function = nullptr;  // asking for it brings the code onto the device
    FQLA_TRY(driver, cuKernelGetFunction, &function, g_cache.kernel[i]);
    return FLASHQLA_STATUS_OK;
}

int32_t get_kernel(const Driver& driver, const Caps& caps, KernelId id, CUstream stream, LoadedIn& loaded, CUkernel& out) {
    const int i = static_cast<int>(id);
    if (!loaded.kernel[i]) {
        CUstreamCaptureStatus capturing = CU_STREAM_CAPTURE_STATUS_NONE;
        FQLA_TRY(driver, cuStreamIsCapturing, stream, &capturing);
        if (capturing != CU_STREAM_CAPTURE_STATUS_NONE)
            return fail(FLASHQLA_STATUS_NOT_WARM, "the stream is being captured and %s is not loaded in this context: call flashqla_warmup before",
                        kKernels[i].symbol);
        if (const int32_t s = load(driver, caps, id)) return s;
        loaded.kernel[i] = true;
    }
    out = g_cache.kernel[i];
    return FLASHQLA_STATUS_OK;
}

}  // namespace

int32_t get_kernels(const Driver& driver, const Caps& caps, const KernelId* ids, int count, CUstream stream, CUkernel* out) {
    CUcontext context = nullptr;
    unsigned long long context_id = 0;
    FQLA_TRY(driver, cuCtxGetCurrent, &context);
    FQLA_TRY(driver, cuCtxGetId, context, &context_id);
    Lock lock(g_cache.mutex);
    LoadedIn& loaded = entry_of(context_id);
    for (int i = 0; i < count; i++)
        if (const int32_t s = get_kernel(driver, caps, ids[i], stream, loaded, out[i])) return s;
    return FLASHQLA_STATUS_OK;
}

int32_t warm_up(const Caps& caps, const bool (&wanted)[kKernelSlots]) {
    if (const int32_t s = check_context(caps)) return s;
    const Driver* driver = nullptr;
    if (const int32_t s = open_driver(driver)) return s;
    KernelId ids[kKernelSlots];
    CUkernel kernels[kKernelSlots];
    int count = 0;
    for (int i = 0; i < kKernelCount; i++)
        if (wanted[i]) ids[count++] = static_cast<KernelId>(i);
    return get_kernels(*driver, caps, ids, count, nullptr, kernels);
}

}  // namespace fqla::cuda
