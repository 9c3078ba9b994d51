/* A CUDA driver of one device whose memory is malloc's, for the device modules of all bindings where there is no GPU. Addresses are not those
 * of the host, so that a module which takes one for the other crashes; calls without the device's context on their thread fail; what is
 * not given back is told at the end of the process, which then fails. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };
static const uint64_t kElsewhere = UINT64_C(1) << 62;
static char context;
static _Thread_local void* current;
static int started, contexts, allocations, streams;

static int ready(void) { return current == &context && __atomic_load_n(&contexts, __ATOMIC_SEQ_CST) > 0 ? 0 : INVALID_CONTEXT; }
static int count(int* what, int by) { return __atomic_add_fetch(what, by, __ATOMIC_SEQ_CST) < 0 ? INVALID_VALUE : 0; }
static void* host(unsigned long long address) { return (void*)(uintptr_t)(address ^ kElsewhere); }

__attribute__((destructor)) static void count_leaks(void) {
    if (!contexts && !allocations && !streams) return;
    fprintf(stderr, "fake driver: not given back: %d contexts, %d allocations, %d streams\n", contexts, allocations, streams);
    _exit(97);
}

int cuInit(unsigned flags) {
    started = 1;
    return flags ? INVALID_VALUE : 0;
}
int cuGetErrorName(int error, const char** name) {
    *name = error == INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE" : error == INVALID_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : "CUDA_ERROR_INVALID_VALUE";
    return 0;
}
int cuDeviceGet(int* device, int ordinal) {
    if (!started || ordinal) return INVALID_DEVICE;
    *device = 1000;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** out, int device) {
    if (device != 1000) return INVALID_DEVICE;
    *out = &context;
    return count(&contexts, 1);
}
int cuDevicePrimaryCtxRelease_v2(int device) { return device == 1000 ? count(&contexts, -1) : INVALID_DEVICE; }
int cuCtxSetCurrent(void* to) {
    if (to && to != &context) return INVALID_CONTEXT;
    current = to;
    return 0;
}
int cuCtxSynchronize(void) { return ready(); }

int cuMemAlloc_v2(unsigned long long* address, size_t bytes) {
    void* memory;
    if (ready()) return INVALID_CONTEXT;
    if (!bytes || !(memory = malloc(bytes))) return INVALID_VALUE;
    memset(memory, 0xA5, bytes);
    *address = (uintptr_t)memory ^ kElsewhere;
    return count(&allocations, 1);
}
int cuMemFree_v2(unsigned long long address) {
    if (ready()) return INVALID_CONTEXT;
    free(host(address));
    return count(&allocations, -1);
}
int cuMemsetD8_v2(unsigned long long to, unsigned char value, size_t bytes) {
    if (ready()) return INVALID_CONTEXT;
    memset(host(to), value, bytes);
    return 0;
}
int cuMemcpyHtoD_v2(unsigned long long to, const void* from, size_t bytes) {
    if (ready()) return INVALID_CONTEXT;
    memcpy(host(to), from, bytes);
    return 0;
}
int cuMemcpyDtoH_v2(void* to, unsigned long long from, size_t bytes) {
    if (ready()) return INVALID_CONTEXT;
    memcpy(to, host(from), bytes);
    return 0;
}

int cuStreamCreate(void** stream, unsigned flags) {
    if (ready()) return INVALID_CONTEXT;
    if (flags != 1) return INVALID_VALUE;
    *stream = &streams;
    return count(&streams, 1);
}
int cuStreamDestroy_v2(void* stream) { return ready() ? INVALID_CONTEXT : stream == &streams ? count(&streams, -1) : INVALID_VALUE; }
int cuStreamSynchronize(void* stream) { return ready() ? INVALID_CONTEXT : !stream || stream == &streams ? 0 : INVALID_VALUE; }
