// flashqla_create and flashqla_destroy.
#include <cstdio>
#include <cstdlib>
#include <new>

#include "cpu.h"
#include "desc.h"
#include "device.h"
#include "handle.h"
#include "images.h"
#include "status.h"

using namespace fqla;

namespace {

// Objects on the C heap: operator new would be the one thing that this library wants of libstdc++.
template <class T, class... Args>
T* make(const Args&... args) {
    void* memory = aligned_alloc(alignof(T), (sizeof(T) + alignof(T) - 1) / alignof(T) * alignof(T));
    return memory ? new (memory) T(args...) : nullptr;
}

template <class T>
void dispose(T* object) {
    if (!object) return;
    object->~T();
    free(object);
}

int32_t open_cpu(const flashqla_config& config, flashqla_handle& h) {
    h.pool = make<cpu::ThreadPool>(config.threads);
    if (!h.pool || !h.pool->ok())
        return fail(FLASHQLA_STATUS_OUT_OF_MEMORY, "config.threads = %d: threads or their scratch memory could not be had", config.threads);
    h.caps.device = FLASHQLA_DEVICE_CPU;
    h.caps.threads = h.pool->threads();
    h.caps.simd_name = cpu::simd_name();
    snprintf(h.name, sizeof h.name, "CPU");
    snprintf(h.image, sizeof h.image, "%s", h.caps.simd_name);
    return FLASHQLA_STATUS_OK;
}

int32_t open_cuda(int32_t ordinal, flashqla_handle& h) {
    if (const int32_t s = cuda::open_device(ordinal, h.caps, h.name)) return s;
    snprintf(h.image, sizeof h.image, "%s", cuda::image_name(h.caps.image));
    return FLASHQLA_STATUS_OK;
}

bool open_best_cuda(flashqla_handle& h) {
    const KeptMessage kept;
    const int32_t current = cuda::current_device();
    if (!open_cuda(current >= 0 ? current : 0, h)) return true;
    char message[sizeof "no usable CUDA device, using the CPU: " + 512];
    snprintf(message, sizeof message, "no usable CUDA device, using the CPU: %.500s", last_message());
    h.say(FLASHQLA_LOG_INFO, message);
    return false;
}

int32_t open_best(const flashqla_config& config, flashqla_handle& h) {
    if (open_best_cuda(h)) return FLASHQLA_STATUS_OK;
    h.caps = {};
    return open_cpu(config, h);
}

}  // namespace

extern "C" int32_t flashqla_create(flashqla_handle** out, const flashqla_config* config) {
    if (!out) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "out is NULL");
    *out = nullptr;
    flashqla_config c;
    if (const int32_t s = read_config(config, c)) return s;
    auto* h = make<flashqla_handle>(flashqla_handle{});
    if (!h) return fail(FLASHQLA_STATUS_OUT_OF_MEMORY, "%zu bytes for a handle could not be had", sizeof(flashqla_handle));
    h->log = c.log;
    h->log_user = c.log_user;
    const int32_t status = c.device == FLASHQLA_DEVICE_CPU ? open_cpu(c, *h) : c.device == FLASHQLA_DEVICE_BEST ? open_best(c, *h) : open_cuda(c.device, *h);
    if (status)
        flashqla_destroy(h);
    else
        *out = h;
    return status;
}

extern "C" void flashqla_destroy(flashqla_handle* handle) {
    if (!handle) return;
    dispose(handle->pool);
    dispose(handle);
}
