#include "kernel_args.h"

#include <cstring>

namespace fqla {
namespace {

template <class Params>
size_t put(const Params& params, KernelArgs& out) {
    static_assert(sizeof(Params) <= sizeof out.bytes && alignof(Params) <= 64, "fits");
    std::memcpy(out.bytes, &params, sizeof params);
    return sizeof params;
}

// Kernels of one source share their parameter struct.
bool from_source(const Step& step, const char* source) { return std::strcmp(kKernels[static_cast<size_t>(step.kernel)].source, source) == 0; }

// States of a call beyond this are stored as any data, below as streaming data: small calls then find room in an L2 full of other kernels'
// dirty lines, large ones keep their lines until they can be written in DRAM order. H100 2026-11-23, 16/32 batch 8 (17 MB): 0.0175 ms
// streaming, 0.0185 not; 16/64 batch 256 (1.1 GB): 0.7324 streaming, 0.7287 not.
constexpr int64_t kStreamingBytes = 50ll << 20;

RecurrentParams recurrent_params(const Step& step, const Forward& call) {
    const Form& form = call.form;
    const int64_t state_bytes = int64_t{form.value_heads} * form.key_dim * form.value_dim * (form.state_dtype == FLASHQLA_DTYPE_F32 ? 4 : 2);
    const int32_t tiles = static_cast<int32_t>(step.grid[0] / static_cast<uint32_t>(form.value_heads));
    return {call, tiles, call.rows.count <= kStreamingBytes / state_bytes};
}

}  // namespace

size_t make_kernel_args(const Step& step, int32_t, const Plan&, const Forward& call, void*, KernelArgs& out) {
    if (from_source(step, "recurrent")) return put(recurrent_params(step, call), out);
    return 0;
}

size_t make_kernel_args(const Step&, int32_t, const Plan&, const Backward&, void*, KernelArgs&) { return 0; }

}  // namespace fqla
