#include "tensor_map.h"

#include <cstring>

#include "layouts.h"
#include "status.h"

namespace fqla::cuda {
namespace {

// Rank 4 = [dim, head, token, row]; a box is 64 tokens of one head and half of its dim, 128 bytes wide for the swizzle.
int32_t encode(const Driver& driver, const View& x, int32_t heads, const Rows& rows, TensorMap& out) {
    const auto tokens = static_cast<cuuint64_t>(rows.offsets ? rows.tokens : rows.max_tokens), count = static_cast<cuuint64_t>(rows.offsets ? 1 : rows.count);
    const cuuint64_t extents[] = {kHeadDim, static_cast<cuuint64_t>(heads), tokens, count};
    // A stride over an extent of one is never taken, yet must be one that the driver accepts.
    const auto stride = [](int64_t elements, cuuint64_t extent) { return extent > 1 ? static_cast<cuuint64_t>(elements) * 2 : cuuint64_t{kHeadDim} * 2; };
    const cuuint64_t strides[] = {stride(x.head, extents[1]), stride(x.token, extents[2]), stride(x.row, extents[3])};
    const cuuint32_t box[] = {64, 1, kChunk, 1}, steps[] = {1, 1, 1, 1};
    CUtensorMap map;
    static_assert(sizeof map == sizeof out, "128 opaque bytes");
    const CUtensorMapDataType type = x.dtype == FLASHQLA_DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    FQLA_TRY(driver, cuTensorMapEncodeTiled, &map, type, 4, x.data, extents, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    memcpy(&out, &map, sizeof out);
    return FLASHQLA_STATUS_OK;
}

}  // namespace

int32_t make_tensor_maps(const Driver& driver, const Forward& call, TensorMaps& out) {
    const Form& form = call.form;
    if (const int32_t s = encode(driver, call.in.q, form.key_heads, call.rows, out.q)) return s;
    if (const int32_t s = encode(driver, call.in.k, form.key_heads, call.rows, out.k)) return s;
    if (const int32_t s = encode(driver, call.in.v, form.value_heads, call.rows, out.v)) return s;
    return encode(driver, call.out, form.value_heads, call.rows, out.out);
}

int32_t make_tensor_maps(const Driver& driver, const Backward& call, BackwardMaps& out) {
    const Form& form = call.form;
    const struct {
        const View& view;
        int32_t heads;
        TensorMap& map;
    } tensors[] = {{call.in.q, form.key_heads, out.q},
                   {call.in.k, form.key_heads, out.k},
                   {call.in.v, form.value_heads, out.v},
                   {call.d_out, form.value_heads, out.d_out},
                   {call.grad.v, form.value_heads, out.dv}};
    for (const auto& t : tensors)
        if (!t.view.data)
            t.map = {};
        else if (const int32_t s = encode(driver, t.view, t.heads, call.rows, t.map))
            return s;
    return FLASHQLA_STATUS_OK;
}

}  // namespace fqla::cuda
