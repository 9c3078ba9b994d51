// What a device can do, as plain numbers: filled by src/cuda or src/cpu once a handle, read by the planner.
#pragma once
#include <cstdint>

namespace fqla {

enum class Image : int32_t { none, sm_80, sm_90a, sm_100f, sm_120f, ptx };  // in the order of embedding

struct Caps {
    bool cuda;       // else the CPU backend
    int32_t device;  // CUDA ordinal or FLASHQLA_DEVICE_CPU
    int32_t compute_major, compute_minor;
    int32_t multiprocessors;
    uint64_t shared_memory_bytes;  // most a block may have
    uint64_t l2_bytes;
    Image image;
    int32_t threads;        // CPU
    const char* simd_name;  // CPU: "portable", "avx2", "avx512", "neon"
};

}  // namespace fqla
