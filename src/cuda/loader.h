// Kernels out of the embedded fatbins, loaded once a process and once a context.
#pragma once
#include "device.h"
#include "driver.h"

namespace fqla::cuda {

// The kernel, loaded into the current context. NOT_WARM when `stream` is being captured and it is not loaded there yet.
int32_t get_kernel(const Driver& driver, const Caps& caps, KernelId id, CUstream stream, CUkernel& out);

}  // namespace fqla::cuda
