// Kernels out of the embedded fatbins, loaded once a process and once a context.
#pragma once
#include "device.h"
#include "driver.h"

namespace fqla::cuda {

// The kernels ids[0 .. count), loaded into the current context. NOT_WARM when `stream` is being captured and one is not loaded there yet.
int32_t get_kernels(const Driver& driver, const Caps& caps, const KernelId* ids, int count, CUstream stream, CUkernel* out);

}  // namespace fqla::cuda
