#include "kernels.h"

#include <atomic>

#include "cpu.h"

namespace fqla::cpu {
namespace {

const Kernels* choose() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &kAvx512Kernels;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &kAvx2Kernels;  // every CPU with these has f16c
#elif defined(__aarch64__)
    return &kNeonKernels;
#endif
    return &kPortableKernels;
}

}  // namespace

// Chosen again by each thread that comes before the first choice is seen: always the same.
const Kernels& kernels() {
    static std::atomic<const Kernels*> chosen{nullptr};
    const Kernels* k = chosen.load(std::memory_order_acquire);
    if (!k) chosen.store(k = choose(), std::memory_order_release);
    return *k;
}

const char* simd_name() { return kernels().name; }

}  // namespace fqla::cpu
