// The kernel table made from kernels/contract/variants.inc.
#pragma once
#include <cstdint>

namespace fqla {

enum class KernelId : uint16_t {
#define FQLA_KERNEL(symbol, source, room) symbol,
#include "variants.inc"
#undef FQLA_KERNEL
    count
};

struct KernelInfo {
    const char* symbol;
    const char* source;
    const char* room;  // "common": in every image; "sm90": in sm_90a
};

constexpr KernelInfo kKernels[] = {
#define FQLA_KERNEL(symbol, source, room) {#symbol, #source, #room},
#include "variants.inc"
#undef FQLA_KERNEL
    {nullptr, nullptr, nullptr},
};

constexpr int kKernelCount = static_cast<int>(KernelId::count);
constexpr int kKernelSlots = kKernelCount + 1;  // array extents may not be zero

}  // namespace fqla
