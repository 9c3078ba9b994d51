// Tensor maps for the copy engine: how the Hopper kernels see q, k, v and out.
#pragma once
#include "driver.h"
#include "kernel_args.h"

namespace fqla::cuda {

// The maps of a forward call on 16-bit tensors of K = V = 128 whose pointers and strides are multiples of 16 bytes. CUDA_ERROR.
int32_t make_tensor_maps(const Driver& driver, const Forward& call, TensorMaps& out);

// The same of a backward call; none of dv where it is not wanted.
int32_t make_tensor_maps(const Driver& driver, const Backward& call, BackwardMaps& out);

}  // namespace fqla::cuda
