/* device.h: device memory, streams, events and graphs for the examples, tests and benchmarks of flashqla.
 *
 * flashqla allocates no device memory and creates no context; a program that has neither can take both from here. This header opens
 * the CUDA driver by dlopen when it is asked for a GPU, so that one binary runs on any machine, and needs no CUDA header and no CUDA
 * library to compile or link (add -ldl where libc wants it). Opened with a negative ordinal it serves the CPU by the same calls: device
 * memory is then host memory, streams are NULL and everything is done when a call returns.
 *
 *     fqla_dev dev;
 *     if (fqla_dev_open(&dev, 0)) fprintf(stderr, "%s\n", fqla_dev_error(&dev));   the primary context of GPU 0, current on this thread
 *     float* x = (float*)fqla_dev_alloc(&dev, bytes);
 *     fqla_dev_upload(&dev, x, host, bytes);  ...  fqla_dev_download(&dev, host, x, bytes);
 *     fqla_dev_free(&dev, x);
 *     fqla_dev_close(&dev);
 *
 * Functions that return int return 0 when all went well; fqla_dev_error(&dev) then tells what did not. C99 and C++; POSIX. Include it
 * before other headers when compiling with -std=c99. It is not part of the library. */
#ifndef FQLA_DEVICE_H
#define FQLA_DEVICE_H

/* NOLINTBEGIN(modernize-use-nullptr,bugprone-reserved-identifier): this is C */
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include <dlfcn.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Driver functions used: the member's name here, the exported name, the parameters (CUdeviceptr is an unsigned long long, the other
 * handles are pointers). The exported names are the oldest with these parameters, so that older drivers have them. */
/* clang-format off */
#define FQLA_DEV_FUNCTIONS(X)                                                                                         \
    X(init, "cuInit", (unsigned flags))                                                                               \
    X(error_name, "cuGetErrorName", (int error, const char** name))                                                   \
    X(device_count, "cuDeviceGetCount", (int* count))                                                                 \
    X(device_get, "cuDeviceGet", (int* device, int ordinal))                                                          \
    X(device_name, "cuDeviceGetName", (char* name, int capacity, int device))                                         \
    X(device_attribute, "cuDeviceGetAttribute", (int* value, int which, int device))                                  \
    X(context_retain, "cuDevicePrimaryCtxRetain", (void** context, int device))                                       \
    X(context_release, "cuDevicePrimaryCtxRelease_v2", (int device))                                                  \
    X(context_set, "cuCtxSetCurrent", (void* context))                                                                \
    X(context_sync, "cuCtxSynchronize", (void))                                                                       \
    X(mem_alloc, "cuMemAlloc_v2", (unsigned long long* address, size_t bytes))                                        \
    X(mem_free, "cuMemFree_v2", (unsigned long long address))                                                         \
    X(mem_upload, "cuMemcpyHtoD_v2", (unsigned long long to, const void* from, size_t bytes))                         \
    X(mem_download, "cuMemcpyDtoH_v2", (void* to, unsigned long long from, size_t bytes))                             \
    X(mem_copy, "cuMemcpyDtoDAsync_v2", (unsigned long long to, unsigned long long from, size_t bytes, void* stream)) \
    X(mem_set, "cuMemsetD8Async", (unsigned long long to, unsigned char value, size_t bytes, void* stream))           \
    X(stream_create, "cuStreamCreate", (void** stream, unsigned flags))                                               \
    X(stream_destroy, "cuStreamDestroy_v2", (void* stream))                                                           \
    X(stream_sync, "cuStreamSynchronize", (void* stream))                                                             \
    X(event_create, "cuEventCreate", (void** event, unsigned flags))                                                  \
    X(event_destroy, "cuEventDestroy_v2", (void* event))                                                              \
    X(event_record, "cuEventRecord", (void* event, void* stream))                                                     \
    X(event_sync, "cuEventSynchronize", (void* event))                                                                \
    X(event_elapsed, "cuEventElapsedTime", (float* ms, void* start, void* end))                                       \
    X(capture_begin, "cuStreamBeginCapture_v2", (void* stream, int mode))                                             \
    X(capture_end, "cuStreamEndCapture", (void* stream, void** graph))                                                \
    X(graph_instantiate, "cuGraphInstantiateWithFlags", (void** exec, void* graph, unsigned long long flags))         \
    X(graph_destroy, "cuGraphDestroy", (void* graph))                                                                 \
    X(graph_launch, "cuGraphLaunch", (void* exec, void* stream))                                                      \
    X(graph_exec_destroy, "cuGraphExecDestroy", (void* exec))
/* clang-format on */

typedef struct fqla_dev {
    int is_cuda;     /* 0: the CPU */
    int ordinal;     /* CUDA ordinal; -1: the CPU */
    int device;      /* CUdevice */
    void* context;   /* the device's primary context */
    char name[96];   /* "NVIDIA H100 80GB HBM3", "CPU" */
    char error[192]; /* of the last call that failed */
#define FQLA_DEV_MEMBER(member, symbol, parameters) int(*member) parameters;
    FQLA_DEV_FUNCTIONS(FQLA_DEV_MEMBER)
#undef FQLA_DEV_MEMBER
} fqla_dev;

static inline const char* fqla_dev_error(const fqla_dev* d) { return d->error; }

/* Milliseconds of a clock that never goes back. */
static inline double fqla_dev_clock_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* Turns a CUresult into the return value, keeping its name. */
static inline int fqla_dev_check(fqla_dev* d, int result, const char* what) {
    const char* name = NULL;
    if (!result) return 0;
    if (d->error_name) d->error_name(result, &name);
    snprintf(d->error, sizeof d->error, "%s: %s (%d)", what, name ? name : "unknown CUDA error", result);
    return 1;
}

static inline unsigned long long fqla_dev_address(const void* p) { return (unsigned long long)(uintptr_t)p; }

/* ---- the device */

/* Fills the function table and calls cuInit. The driver is never closed: it does not expect to be. */
static inline int fqla_dev_load(fqla_dev* d) {
    void* address;
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(d->error, sizeof d->error, "no CUDA driver: libcuda.so.1 could not be opened");
        return 1;
    }
    /* memcpy, since ISO C has no cast from an object pointer to a function pointer. */
#define FQLA_DEV_RESOLVE(member, symbol, parameters)                                       \
    address = dlsym(library, symbol);                                                      \
    if (!address) {                                                                        \
        snprintf(d->error, sizeof d->error, "the CUDA driver has no %s: too old", symbol); \
        return 1;                                                                          \
    }                                                                                      \
    memcpy((char*)d + offsetof(fqla_dev, member), &address, sizeof address);
    FQLA_DEV_FUNCTIONS(FQLA_DEV_RESOLVE)
#undef FQLA_DEV_RESOLVE
    return fqla_dev_check(d, d->init(0), "cuInit");
}

/* CUDA devices that can be seen; 0 without a driver. */
static inline int fqla_dev_count(void) {
    fqla_dev d;
    int count = 0;
    memset(&d, 0, sizeof d);
    if (fqla_dev_load(&d) || d.device_count(&count)) return 0;
    return count;
}

/* Opens CUDA device `ordinal` and makes its primary context current on this thread; a negative ordinal opens the CPU. */
static inline int fqla_dev_open(fqla_dev* d, int ordinal) {
    memset(d, 0, sizeof *d);
    d->ordinal = -1;
    strcpy(d->name, "CPU");
    if (ordinal < 0) return 0;
    if (fqla_dev_load(d)) return 1;
    if (fqla_dev_check(d, d->device_get(&d->device, ordinal), "cuDeviceGet")) return 1;
    if (fqla_dev_check(d, d->context_retain(&d->context, d->device), "cuDevicePrimaryCtxRetain")) return 1;
    d->is_cuda = 1;
    d->ordinal = ordinal;
    if (fqla_dev_check(d, d->device_name(d->name, (int)sizeof d->name, d->device), "cuDeviceGetName")) return 1;
    return fqla_dev_check(d, d->context_set(d->context), "cuCtxSetCurrent");
}

/* Makes the device's context current on the calling thread (each thread that uses the device does so once), or none. */
static inline int fqla_dev_attach(fqla_dev* d) { return d->is_cuda ? fqla_dev_check(d, d->context_set(d->context), "cuCtxSetCurrent") : 0; }
static inline int fqla_dev_detach(fqla_dev* d) { return d->is_cuda ? fqla_dev_check(d, d->context_set(NULL), "cuCtxSetCurrent") : 0; }

static inline void fqla_dev_close(fqla_dev* d) {
    if (d->is_cuda) {
        d->context_set(NULL);
        d->context_release(d->device);
    }
    memset(d, 0, sizeof *d);
}

/* CU_DEVICE_ATTRIBUTE_* by number: 16 multiprocessors, 38 bytes of L2, 75 and 76 compute capability. 0 on the CPU. */
static inline int fqla_dev_attribute(fqla_dev* d, int which) {
    int value = 0;
    if (d->is_cuda) d->device_attribute(&value, which, d->device);
    return value;
}

/* Waits for everything enqueued on the device. */
static inline int fqla_dev_sync(fqla_dev* d) { return d->is_cuda ? fqla_dev_check(d, d->context_sync(), "cuCtxSynchronize") : 0; }

/* ---- memory, aligned to 256 bytes. NULL: out of memory */

static inline void* fqla_dev_alloc(fqla_dev* d, size_t bytes) {
    unsigned long long address = 0;
    void* memory = NULL;
    if (!bytes) bytes = 1;
    if (d->is_cuda) return fqla_dev_check(d, d->mem_alloc(&address, bytes), "cuMemAlloc") ? NULL : (void*)(uintptr_t)address;
    if (!posix_memalign(&memory, 256, bytes)) return memory;
    snprintf(d->error, sizeof d->error, "out of host memory (%lu bytes)", (unsigned long)bytes);
    return NULL;
}

static inline void fqla_dev_free(fqla_dev* d, void* memory) {
    if (!memory) return;
    if (d->is_cuda)
        d->mem_free(fqla_dev_address(memory));
    else
        free(memory);
}

/* Host to device and back; done on return, so that work on any stream may follow. Neither waits for work on other streams: sync first. */
static inline int fqla_dev_upload(fqla_dev* d, void* to, const void* from, size_t bytes) {
    if (!bytes) return 0;
    if (d->is_cuda) { /* from pageable memory cuMemcpyHtoD may return before the bytes have arrived: wait for its stream */
        if (fqla_dev_check(d, d->mem_upload(fqla_dev_address(to), from, bytes), "cuMemcpyHtoD")) return 1;
        return fqla_dev_check(d, d->stream_sync(NULL), "cuStreamSynchronize");
    }
    memcpy(to, from, bytes);
    return 0;
}

static inline int fqla_dev_download(fqla_dev* d, void* to, const void* from, size_t bytes) {
    if (!bytes) return 0;
    if (d->is_cuda) return fqla_dev_check(d, d->mem_download(to, fqla_dev_address(from), bytes), "cuMemcpyDtoH");
    memcpy(to, from, bytes);
    return 0;
}

/* Device to device, and a byte over all of it; in the stream's order. */
static inline int fqla_dev_copy(fqla_dev* d, void* to, const void* from, size_t bytes, void* stream) {
    if (!bytes) return 0;
    if (d->is_cuda) return fqla_dev_check(d, d->mem_copy(fqla_dev_address(to), fqla_dev_address(from), bytes, stream), "cuMemcpyDtoDAsync");
    memmove(to, from, bytes);
    return 0;
}

static inline int fqla_dev_set(fqla_dev* d, void* to, unsigned char value, size_t bytes, void* stream) {
    if (!bytes) return 0;
    if (d->is_cuda) return fqla_dev_check(d, d->mem_set(fqla_dev_address(to), value, bytes, stream), "cuMemsetD8Async");
    memset(to, value, bytes);
    return 0;
}

/* ---- streams (CPU: NULL). Those made here do not wait for the default stream. */

static inline int fqla_dev_stream_create(fqla_dev* d, void** stream) {
    *stream = NULL;
    return d->is_cuda ? fqla_dev_check(d, d->stream_create(stream, 1), "cuStreamCreate") : 0;
}

static inline void fqla_dev_stream_destroy(fqla_dev* d, void* stream) {
    if (d->is_cuda && stream) d->stream_destroy(stream);
}

static inline int fqla_dev_stream_sync(fqla_dev* d, void* stream) { return d->is_cuda ? fqla_dev_check(d, d->stream_sync(stream), "cuStreamSynchronize") : 0; }

/* ---- events, for timing: record one before, one after; elapsed waits for the second. CPU: wall clock. */

typedef struct fqla_dev_event {
    void* event;
    double clock_ms;
} fqla_dev_event;

static inline int fqla_dev_event_create(fqla_dev* d, fqla_dev_event* e) {
    memset(e, 0, sizeof *e);
    return d->is_cuda ? fqla_dev_check(d, d->event_create(&e->event, 0), "cuEventCreate") : 0;
}

static inline void fqla_dev_event_destroy(fqla_dev* d, fqla_dev_event* e) {
    if (d->is_cuda && e->event) d->event_destroy(e->event);
    e->event = NULL;
}

static inline int fqla_dev_event_record(fqla_dev* d, fqla_dev_event* e, void* stream) {
    e->clock_ms = fqla_dev_clock_ms();
    return d->is_cuda ? fqla_dev_check(d, d->event_record(e->event, stream), "cuEventRecord") : 0;
}

/* Milliseconds between two recorded events; negative when the driver refuses. */
static inline double fqla_dev_elapsed_ms(fqla_dev* d, fqla_dev_event* start, fqla_dev_event* end) {
    float ms = 0;
    if (!d->is_cuda) return end->clock_ms - start->clock_ms;
    if (fqla_dev_check(d, d->event_sync(end->event), "cuEventSynchronize")) return -1;
    return fqla_dev_check(d, d->event_elapsed(&ms, start->event, end->event), "cuEventElapsedTime") ? -1 : (double)ms;
}

/* ---- graphs (CUDA alone): what is enqueued on `stream` between begin and end becomes *graph, which launch runs again and again.
 * The capture is thread-local: a call in it that a capture forbids fails. */

static inline int fqla_dev_capture_begin(fqla_dev* d, void* stream) {
    if (d->is_cuda) return fqla_dev_check(d, d->capture_begin(stream, 1), "cuStreamBeginCapture");
    snprintf(d->error, sizeof d->error, "graphs need a CUDA device");
    return 1;
}

static inline int fqla_dev_capture_end(fqla_dev* d, void* stream, void** graph) {
    void* captured = NULL;
    int failed;
    *graph = NULL;
    if (!d->is_cuda) return 1;
    if (fqla_dev_check(d, d->capture_end(stream, &captured), "cuStreamEndCapture")) return 1;
    failed = fqla_dev_check(d, d->graph_instantiate(graph, captured, 0), "cuGraphInstantiate");
    d->graph_destroy(captured);
    return failed;
}

static inline int fqla_dev_graph_launch(fqla_dev* d, void* graph, void* stream) {
    return d->is_cuda ? fqla_dev_check(d, d->graph_launch(graph, stream), "cuGraphLaunch") : 1;
}

static inline void fqla_dev_graph_destroy(fqla_dev* d, void* graph) {
    if (d->is_cuda && graph) d->graph_exec_destroy(graph);
}

/* NOLINTEND(modernize-use-nullptr,bugprone-reserved-identifier) */
#endif /* FQLA_DEVICE_H */
