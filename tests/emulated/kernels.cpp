#include "kernels.h"

#include <cstring>
#include <memory>
#include <type_traits>

#include "kernel_params.h"
#include "sm90_backward_params.h"
#include "sm90_params.h"

// Each source's kernels share their parameters.
namespace {
using backward_Params = fqla::BackwardParams;
using recurrent_Params = fqla::RecurrentParams;
using solve_Params = fqla::Sm90SolveParams;
using forward_Params = fqla::Sm90ForwardParams;
using segment_Params = fqla::Sm90StitchParams;
using fused_Params = fqla::Sm90FusedParams;
using fused_wide_Params = fqla::Sm90FusedParams;
using backward_chains_Params = fqla::Sm90ChainParams;
using backward_segments_Params = fqla::Sm90ChainStitchParams;
using backward_gradients_Params = fqla::Sm90GradientParams;
}  // namespace

#define FQLA_KERNEL(symbol, source, room) extern "C" void symbol(const source##_Params);
#include "variants.inc"
#undef FQLA_KERNEL

namespace emulated {
namespace {

template <class Params, void (*kKernel)(const Params)>
std::function<void()> bind(const void* parameters) {
    const std::shared_ptr<const Params> p = std::make_shared<const Params>(*static_cast<const Params*>(parameters));
    return [p] { kKernel(*p); };
}

#define FQLA_KERNEL(symbol, source, room) {#symbol, sizeof(source##_Params), 1, bind<source##_Params, symbol>},
Kernel g_kernels[] = {
#include "variants.inc"
};
#undef FQLA_KERNEL

// Those with __cluster_dims__(2, 1, 1).
const char* const kPairs[] = {"gdn_forward_bf16_v64", "gdn_forward_f16_v64", "gdn_forward_bf16_saving", "gdn_forward_f16_saving", "gdn_summary_bf16",
                              "gdn_summary_f16",      "gdn_fused_bf16_v64",  "gdn_fused_f16_v64",       "gdn_fused_summary_bf16", "gdn_fused_summary_f16",
                              "gdn_chains_bf16",      "gdn_chains_f16",      "gdn_chain_summary_bf16",  "gdn_chain_summary_f16"};

}  // namespace

const Kernel* find_kernel(const char* name) {
    for (Kernel& k : g_kernels) {
        if (strcmp(k.name, name) != 0) continue;
        for (const char* pair : kPairs)
            if (strcmp(pair, name) == 0) k.cluster = 2;
        return &k;
    }
    return nullptr;
}

}  // namespace emulated
