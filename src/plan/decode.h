// Calls that the kernels of known row lengths (kernels/common/decode.cu, short_rows.cu) serve in the recurrent one's place. All give the same bits, so that
// what is chosen may depend on anything, the number of rows too, under BATCH_INVARIANT.
#pragma once
#include <algorithm>

#include "kernel_params.h"
#include "problem.h"
#include "row_grid.h"

namespace fqla {

constexpr int64_t kMostDecodeBytes = int64_t{1} << 31;

// Whether a call's memory is such that these kernels reach it: states on both sides, 16-byte aligned, bytes in 32 bits. What of
// it are tensors is looked at where `call` has them.
inline bool decode_reaches(const Forward& call) {
    const Form& form = call.form;
    const Rows& rows = call.rows;
    const StateIo& state = call.state;
    const auto aligned = [&](const Pool& pool) {
        return pool.data && (reinterpret_cast<uintptr_t>(pool.data) | static_cast<uint64_t>(pool.slot_stride * element_bytes(form.state_dtype))) % 16 == 0;
    };
    const int64_t more_tokens = std::min<int64_t>(rows.max_tokens, RecurrentLayout::kShortTokens) - 1;
    // The last row's last head begins below 2^31; a token's elements follow.
    const auto narrow = [&](const View& x, int64_t heads) {
        const int64_t most = kMostDecodeBytes / element_bytes(x.dtype);
        return x.row < most && x.head < most && (more_tokens < 1 || x.token < most) && x.row * rows.count + x.head * heads + x.token * more_tokens < most;
    };
    return aligned(state.read) && aligned(state.write) && (state.store_final || rows.max_tokens > 1) && !state.accepted &&
           state_elements(form) * element_bytes(form.state_dtype) < kMostDecodeBytes && narrow(call.in.q, form.key_heads) &&
           narrow(call.in.k, form.key_heads) && narrow(call.in.v, form.value_heads) && narrow(call.in.gate, form.value_heads) &&
           narrow(call.in.beta, form.value_heads) && narrow(call.in.a_log, form.value_heads) && narrow(call.in.dt_bias, form.value_heads) &&
           narrow(call.out, form.value_heads);
}

// Whether these kernels have the form, of rows whose length the host knows.
inline bool decode_has_form(const Request& r) {
    const Form& form = r.problem.form;
    const Bounds& b = r.bounds;
    return r.decode_reaches && r.aligned_16_bytes && form.key_dim == 128 && form.value_dim == 128 && form.state_layout == FLASHQLA_STATE_VK &&
           (form.dtype == FLASHQLA_DTYPE_BF16 || form.dtype == FLASHQLA_DTYPE_F16) && form.value_heads <= kMostGridYZ && b.rows <= kMostGridYZ && !b.offsets &&
           r.state.read && r.state.write && !r.state.checkpoints;
}

// Whether it is decode: one token a row, and nothing stored on the way.
inline bool decode_serves(const Request& r) { return r.bounds.max_tokens == 1 && !r.state.token_states && decode_has_form(r); }

// Up to so many (row, value head) pairs short rows have a kernel of 8 columns a warp. H100, 2026-11-23, 4 tokens a row, f32 states, before and after: 2/8 heads
// one row 0.0112, 0.0076 ms, eight rows 0.0143, 0.0124; 16/32 heads one row 0.0121, 0.0092; more pairs not measured (decode of 64 rows loses by 8 columns).
constexpr int64_t kShortPairs = 64;

// Whether it is verify of few rows.
inline bool short_serves(const Request& r) {
    const Bounds& b = r.bounds;
    return b.max_tokens > 1 && b.max_tokens <= RecurrentLayout::kShortTokens && b.rows * r.problem.form.value_heads <= kShortPairs && decode_has_form(r);
}

}  // namespace fqla
