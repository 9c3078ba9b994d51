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
using decode_Params = fqla::DecodeParams;
using recurrent_Params = fqla::RecurrentParams;
using short_rows_Params = fqla::ShortParams;
using solve_Params = fqla::Sm90SolveParams;
using forward_Params = fqla::Sm90ForwardParams;
using segment_Params = fqla::Sm90StitchParams;
using cut_Params = fqla::Sm90CutParams;
using fused_Params = fqla::Sm90FusedParams;
using fused_trio_Params = fqla::Sm90FusedParams;
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

// Kernels lie in a section by the size of their cluster: see cuda_words.h.
#define FQLA_CLUSTER(x) extern "C" __attribute__((weak)) const char __start_fqla_cluster_##x[], __stop_fqla_cluster_##x[]
FQLA_CLUSTER(2);
FQLA_CLUSTER(3);
FQLA_CLUSTER(8);
#undef FQLA_CLUSTER
int cluster_of(const void* kernel) {
    if (kernel >= __start_fqla_cluster_2 && kernel < __stop_fqla_cluster_2) return 2;
    if (kernel >= __start_fqla_cluster_8 && kernel < __stop_fqla_cluster_8) return 8;
    return kernel >= __start_fqla_cluster_3 && kernel < __stop_fqla_cluster_3 ? 3 : 1;
}

#define FQLA_KERNEL(symbol, source, room) {#symbol, sizeof(source##_Params), cluster_of(reinterpret_cast<const void*>(symbol)), bind<source##_Params, symbol>},
const Kernel g_kernels[] = {
#include "variants.inc"
};
#undef FQLA_KERNEL

}  // namespace

const Kernel* find_kernel(const char* name) {
    for (const Kernel& k : g_kernels)
        if (strcmp(k.name, name) == 0) return &k;
    return nullptr;
}

}  // namespace emulated
