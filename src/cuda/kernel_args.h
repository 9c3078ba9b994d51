// From a plan's step and a call to the bytes that the step's kernel takes as its one parameter. No driver in here.
#pragma once
#include <cstddef>
#include <cstdint>

#include "kernel_params.h"
#include "plan.h"
#include "sm90_params.h"

namespace fqla {

struct KernelArgs {
    alignas(64) unsigned char bytes[4096];  // the most that a kernel's parameters may be everywhere
};

// Of a forward call whose plan has Hopper kernels.
struct TensorMaps {
    TensorMap q, k, v, out;
};

// Of a backward call whose plan has them.
struct BackwardMaps {
    TensorMap q, k, v, d_out, dv;
};

// Fills `out` and returns the size of the kernel's parameter struct; 0: the step's kernel does not belong to this operation (a bug).
size_t make_kernel_args(const Step& step, const Plan& plan, const Forward& call, const TensorMaps& maps, const Memory& memory, KernelArgs& out);
size_t make_kernel_args(const Step& step, int32_t segment, const Plan& plan, const Backward& call, const BackwardMaps& maps, const Memory& memory,
                        KernelArgs& out);

}  // namespace fqla
