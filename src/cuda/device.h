// The one view that src/api has of CUDA: a device found through the lazily opened driver, its kernels loaded and launched.
// absent.cpp implements the same in a build without CUDA.
#pragma once
#include <cstdint>

#include "params.h"
#include "plan.h"

namespace fqla::cuda {

// Device of the calling thread's current context; -1 when no driver, no device or no context.
int32_t current_device();

// Fills caps and name (64 bytes) for a CUDA ordinal. NO_DRIVER, DRIVER_TOO_OLD, NO_IMAGE, INVALID_ARGUMENT (no such ordinal), CUDA_ERROR.
int32_t open_device(int32_t ordinal, Caps& caps, char* name);

// The calling thread's context must be one of the device. NO_CONTEXT, WRONG_DEVICE.
int32_t check_context(const Caps& caps);

// Loads kernels (a bit each in `wanted`) into the current context.
int32_t warm_up(const Caps& caps, const bool (&wanted)[kKernelSlots]);

// Enqueues every step of the plan. NOT_WARM when the stream is being captured and a kernel is not loaded.
int32_t launch_forward(const Caps& caps, const Plan& plan, const Forward& call, const Memory& memory, void* stream);
int32_t launch_backward(const Caps& caps, const Plan& plan, const Backward& call, const Memory& memory, void* stream);

}  // namespace fqla::cuda
