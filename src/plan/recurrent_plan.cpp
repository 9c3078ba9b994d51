// The recurrent engine's launch: which symbol, and how V is split so that the card fills.
#include <cstdio>

#include "plan.h"

namespace fqla {
namespace {

constexpr int64_t kFixedDim = 128;       // K and V of the fixed-size symbols
constexpr int64_t kFixedColumns = 16;    // value columns of a warp there (kernels/common/state_tile.cuh)
constexpr int64_t kAnyColumns = 8;       // and in gdn_recurrent_any
constexpr int64_t kMostWarps = 4;        // of a block
constexpr int64_t kMostGridYZ = 65535;
constexpr int64_t kMostGridX = 2147483647;

KernelId fixed_symbol(const Form& form) {
    constexpr KernelId table[3][2][2] = {
        {{KernelId::gdn_recurrent_f32_f32kv, KernelId::gdn_recurrent_f32_f32vk}, {KernelId::gdn_recurrent_f32_bf16kv, KernelId::gdn_recurrent_f32_bf16vk}},
        {{KernelId::gdn_recurrent_bf16_f32kv, KernelId::gdn_recurrent_bf16_f32vk}, {KernelId::gdn_recurrent_bf16_bf16kv, KernelId::gdn_recurrent_bf16_bf16vk}},
        {{KernelId::gdn_recurrent_f16_f32kv, KernelId::gdn_recurrent_f16_f32vk}, {KernelId::gdn_recurrent_f16_bf16kv, KernelId::gdn_recurrent_f16_bf16vk}}};
    const int tensor = form.dtype == FLASHQLA_DTYPE_F32 ? 0 : form.dtype == FLASHQLA_DTYPE_BF16 ? 1 : 2;
    return table[tensor][form.state_dtype == FLASHQLA_DTYPE_BF16][form.state_layout == FLASHQLA_STATE_VK];
}

// Fewest warps a block that still leave a block for every multiprocessor: few rows spread out, many rows share their block's work.
int64_t warps_per_block(int64_t warps_in_all, int64_t warps_per_head, int64_t multiprocessors) {
    int64_t w = kMostWarps;
    while (w > 1 && (warps_in_all / w < multiprocessors || w > warps_per_head)) w /= 2;
    return w;
}

}  // namespace

void plan_forward_recurrent(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t rows = request.bounds.rows;
    plan.engine = FLASHQLA_ENGINE_RECURRENT;
    plan.segments = 1;
    plan.segment_tokens = request.bounds.max_tokens;
    if (rows == 0) return;

    const bool fixed = form.key_dim == kFixedDim && form.value_dim == kFixedDim && request.aligned_16_bytes;
    const int64_t columns = fixed ? kFixedColumns : kAnyColumns;
    const int64_t warps_per_head = (form.value_dim + columns - 1) / columns;
    const int64_t heads = form.value_heads;
    const int64_t warps = warps_per_block(rows * heads * warps_per_head, warps_per_head, caps.multiprocessors);
    const int64_t tiles = (warps_per_head + warps - 1) / warps;
    if (heads * tiles > kMostGridX) {
        plan.status = FLASHQLA_STATUS_UNSUPPORTED;
        std::snprintf(plan.reason, sizeof plan.reason, "value_heads is %lld; the recurrent engine's grid takes at most %lld", static_cast<long long>(heads),
                      static_cast<long long>(kMostGridX / tiles));
        return;
    }
    const int64_t low = rows < kMostGridYZ ? rows : kMostGridYZ, high = (rows + low - 1) / low;  // rows is an int32: high <= 32769
    plan.add({fixed ? fixed_symbol(form) : KernelId::gdn_recurrent_any,
              When::before,
              {static_cast<uint32_t>(heads * tiles), static_cast<uint32_t>(low), static_cast<uint32_t>(high)},
              static_cast<uint32_t>(warps * 32),
              0});
}

}  // namespace fqla
