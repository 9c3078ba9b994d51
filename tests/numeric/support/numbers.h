// Element types of tensors, and numbers as the tests keep them: double, already rounded to the type that a call will read.
#pragma once
#include <cstdint>
#include <vector>

#include "flashqla.h"

namespace numeric {

using Numbers = std::vector<double>;

int64_t dtype_bytes(int32_t dtype);
const char* dtype_name(int32_t dtype);

// To nearest even; NaN and infinity pass, and what is too large becomes infinity.
double round_to(int32_t dtype, double x);

// `x` is rounded on the way.
void encode(int32_t dtype, double x, void* to);
double decode(int32_t dtype, const void* from);

}  // namespace numeric
