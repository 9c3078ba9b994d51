// The expected results: F64 calls of the CPU backend in the plainest form, a row at a time, without offsets, tables, strides or grouped
// heads, so that none of what is tested is used to make the truth. Gate, beta and norm forms are the library's own in double, which the
// golden vectors check.
#pragma once
#include "outcome.h"

namespace numeric {

Outcome oracle_forward(const Sample& sample);
Outcome oracle_backward(const Sample& sample);

}  // namespace numeric
