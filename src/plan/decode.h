// Calls that the decode kernel (kernels/common/decode.cu) serves in the recurrent one's place. Both give the same bits, so that what is chosen may depend on
// anything, the number of rows too, under BATCH_INVARIANT.
#pragma once
#include "problem.h"
#include "row_grid.h"

namespace fqla {

constexpr int64_t kMostDecodeBytes = int64_t{1} << 31;

// Whether a call's memory is such that the kernel reaches it: states on both sides, 16-byte aligned, slots by one table a side, bytes in 32 bits. What of
// it are tensors is looked at where `call` has them.
inline bool decode_reaches(const Forward& call) {
    const Form& form = call.form;
    const Rows& rows = call.rows;
    const StateIo& state = call.state;
    const auto aligned = [&](const Pool& pool) {
        return pool.data && (reinterpret_cast<uintptr_t>(pool.data) | static_cast<uint64_t>(pool.slot_stride * element_bytes(form.state_dtype))) % 16 == 0;
    };
    // The last row's last head begins below 2^31; a token's elements follow.
    const auto narrow = [&](const View& x, int64_t heads) {
        const int64_t most = kMostDecodeBytes / element_bytes(x.dtype);
        return x.row < most && x.head < most && x.row * rows.count + x.head * heads < most;
    };
    return aligned(state.read) && aligned(state.write) && state.store_final && !state.accepted &&
           state_elements(form) * element_bytes(form.state_dtype) < kMostDecodeBytes && narrow(call.in.q, form.key_heads) &&
           narrow(call.in.k, form.key_heads) && narrow(call.in.v, form.value_heads) && narrow(call.in.gate, form.value_heads) &&
           narrow(call.in.beta, form.value_heads) && narrow(call.in.a_log, form.value_heads) && narrow(call.in.dt_bias, form.value_heads) &&
           narrow(call.out, form.value_heads);
}

// Whether it is decode: one token a row, which the host knows, and nothing stored on the way.
inline bool decode_serves(const Request& r) {
    const Form& form = r.problem.form;
    const Bounds& b = r.bounds;
    return r.decode_reaches && r.aligned_16_bytes && form.key_dim == 128 && form.value_dim == 128 && form.state_layout == FLASHQLA_STATE_VK &&
           (form.dtype == FLASHQLA_DTYPE_BF16 || form.dtype == FLASHQLA_DTYPE_F16) && form.value_heads <= kMostGridYZ && b.rows <= kMostGridYZ && !b.offsets &&
           b.max_tokens == 1 && r.state.read && r.state.write && !r.state.checkpoints && !r.state.token_states;
}

}  // namespace fqla
