// States between the caller's memory and f32 working copies, whole rows at a time, either layout.
#pragma once
#include "kernels.h"
#include "states.h"

namespace fqla::cpu {

// Columns [begin, begin + count) of V.
struct Columns {
    int begin, count;
    int padded() const { return (count + kPad - 1) / kPad * kPad; }
};

// `staging` holds kPad rows of kRowStride floats: a strip of a transposed state on its way.
void load_columns(const Kernels& k, const Form& form, const StateView& from, const Columns& columns, float* to, int64_t stride, float* staging);
void store_columns(const Kernels& k, const Form& form, const float* from, int64_t stride, const Columns& columns, const StateView& to, float* staging);

}  // namespace fqla::cpu
