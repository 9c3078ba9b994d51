// The recurrent engine's launch: which symbol, and how V is split so that the card fills.
#include <cstdio>

#include "decode.h"
#include "kernel_params.h"
#include "plan.h"
#include "row_grid.h"

namespace fqla {
namespace {

using Layout = RecurrentLayout;

constexpr int64_t kFewTokens = 1;  // of a row, up to which the states' way from and to memory is all of the time

KernelId fixed_symbol(const Form& form, bool large) {
    using Id = KernelId;
    // By tensor dtype, then f32 kv, f32 vk, bf16 kv, bf16 vk.
    constexpr Id table[3][4] = {{Id::gdn_recurrent_f32_f32kv, Id::gdn_recurrent_f32_f32vk, Id::gdn_recurrent_f32_bf16kv, Id::gdn_recurrent_f32_bf16vk},
                                {Id::gdn_recurrent_bf16_f32kv, Id::gdn_recurrent_bf16_f32vk, Id::gdn_recurrent_bf16_bf16kv, Id::gdn_recurrent_bf16_bf16vk},
                                {Id::gdn_recurrent_f16_f32kv, Id::gdn_recurrent_f16_f32vk, Id::gdn_recurrent_f16_bf16kv, Id::gdn_recurrent_f16_bf16vk}};
    constexpr Id large_table[3] = {Id::gdn_recurrent_f32_f32vk_large, Id::gdn_recurrent_bf16_f32vk_large, Id::gdn_recurrent_f16_f32vk_large};
    const int tensor = form.dtype == FLASHQLA_DTYPE_F32 ? 0 : form.dtype == FLASHQLA_DTYPE_BF16 ? 1 : 2;
    const int state = 2 * (form.state_dtype == FLASHQLA_DTYPE_BF16) + (form.state_layout == FLASHQLA_STATE_VK);
    return state == 1 && large ? large_table[tensor] : table[tensor][state];
}

// By tensor dtype, then state dtype: f32, bf16.
KernelId known_length_symbol(const Form& form, const KernelId (&table)[2][2]) {
    return table[form.dtype == FLASHQLA_DTYPE_F16][form.state_dtype == FLASHQLA_DTYPE_BF16];
}

// Rows whose length the host knows: decode, or few short rows.
void plan_known_lengths(const Request& request, const Caps& caps, Plan& plan) {
    using Id = KernelId;
    constexpr Id decode[2][2] = {{Id::gdn_decode_bf16_f32vk, Id::gdn_decode_bf16_bf16vk}, {Id::gdn_decode_f16_f32vk, Id::gdn_decode_f16_bf16vk}};
    constexpr Id shorts[2][2] = {{Id::gdn_short_bf16_f32vk, Id::gdn_short_bf16_bf16vk}, {Id::gdn_short_f16_f32vk, Id::gdn_short_f16_bf16vk}};
    const Form& form = request.problem.form;
    const bool one = request.bounds.max_tokens == 1;
    const RowGrid grid = row_grid(request.bounds.rows, form.value_heads, form.value_dim, one ? Layout::kFixedColumns : Layout::kShortColumns,
                                  caps.multiprocessors, large_states(form, request.bounds.rows) ? 4 : 2);
    plan.add({known_length_symbol(form, one ? decode : shorts),
              When::before,
              false,
              {static_cast<uint32_t>(grid.tiles), static_cast<uint32_t>(form.value_heads), static_cast<uint32_t>(request.bounds.rows)},
              static_cast<uint32_t>(grid.warps * 32),
              0});
}

}  // namespace

void plan_forward_recurrent(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    if (request.bounds.rows == 0) return;
    if (decode_serves(request) || short_serves(request)) return plan_known_lengths(request, caps, plan);

    const bool fixed = form.key_dim == Layout::kFixedDim && form.value_dim == Layout::kFixedDim && request.aligned_16_bytes;
    const RowGrid grid = row_grid(request.bounds.rows, form.value_heads, form.value_dim, fixed ? Layout::kFixedColumns : Layout::kAnyColumns,
                                  caps.multiprocessors, large_states(form, request.bounds.rows) ? 4 : 2);
    if (form.value_heads > kMostGridX / grid.tiles) {
        plan.status = FLASHQLA_STATUS_UNSUPPORTED;
        std::snprintf(plan.reason, sizeof plan.reason, "problem.value_heads = %d: the recurrent engine's grid takes at most %lld", form.value_heads,
                      static_cast<long long>(kMostGridX / grid.tiles));
        return;
    }
    const bool large = large_states(form, request.bounds.rows) && request.bounds.max_tokens <= kFewTokens;
    const KernelId any = form.key_dim <= Layout::kSmallKeyDim ? KernelId::gdn_recurrent_any_128 : KernelId::gdn_recurrent_any_256;
    plan.add({fixed ? fixed_symbol(form, large) : any,
              When::before,
              false,
              {static_cast<uint32_t>(form.value_heads * grid.tiles), static_cast<uint32_t>(grid.low), static_cast<uint32_t>(grid.high)},
              static_cast<uint32_t>(grid.warps * 32),
              0});
}

}  // namespace fqla
