// A driver without a device: what it pretends to be, and what was asked of it. Linked as libcuda.so.1, so that the library's dlopen finds
// it in place of a real one.
#pragma once
#include <cuda.h>

#include <cstdint>
#include <string>
#include <vector>

struct FakeLaunch {
    std::string kernel;
    unsigned grid[3], threads, shared_bytes;
    CUstream stream;
    unsigned char params[4096];
    bool overlaps;  // programmatic serialisation
};

struct FakeMap {
    void* data;
    cuuint64_t extents[4], strides[3];
};

struct FakeAsked {
    std::string name;
    int version;
};

struct FakeCuda {
    // The machine.
    int driver_version = 13000, device_count = 2;
    int major = FAKE_MAJOR, minor = 0,  // a card that this build has an image for
        multiprocessors = 132, shared_bytes = 227 * 1024, l2_bytes = 50 << 20, integrated = 0;
    const char* missing = "";  // a function that this driver does not have
    // The calling thread's context; 0: none.
    unsigned long long context = 0;
    int context_device = 0;
    unsigned context_multiprocessors = 132;
    bool capturing = false;
    // A function that fails, and how.
    const char* failing = "";
    CUresult failure = CUDA_SUCCESS;

    // What was seen.
    bool recording = true;
    std::vector<FakeAsked> asked;    // of cuGetProcAddress
    std::vector<std::string> calls;  // in order
    std::vector<FakeLaunch> launches;
    std::vector<FakeMap> maps;

    int count(const std::string& name) const {
        int n = 0;
        for (const std::string& call : calls) n += call == name;
        return n;
    }
};

extern "C" __attribute__((visibility("default"))) FakeCuda& fake_cuda();
