// The kernel table made from kernels/contract/variants.inc.
#pragma once
#include <cstdint>

namespace fqla {

enum class KernelId : uint16_t {
#define FQLA_KERNEL(symbol, source) symbol,
#include "variants.inc"
#undef FQLA_KERNEL
    count
};

struct KernelInfo {
    const char* symbol;
    const char* source;
};

constexpr KernelInfo kKernels[] = {
#define FQLA_KERNEL(symbol, source) {#symbol, #source},
#include "variants.inc"
#undef FQLA_KERNEL
    {nullptr, nullptr},
};

constexpr int kKernelCount = static_cast<int>(KernelId::count);
constexpr int kKernelSlots = kKernelCount + 1;  // array extents may not be zero

}  // namespace fqla
