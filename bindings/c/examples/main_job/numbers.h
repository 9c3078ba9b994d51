// Element types: between doubles on the host and what lies in device memory. And the measure of error.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace job {

using Values = std::vector<double>;

int64_t element_bytes(int32_t dtype);     // of a FLASHQLA_DTYPE_*
const char* dtype_name(int32_t dtype);    // "bf16"
double rounded(double x, int32_t dtype);  // to the nearest value of the type, ties to even
void round_all(Values& values, int32_t dtype);

std::vector<uint8_t> encode(const Values& values, int32_t dtype);
Values decode(const std::vector<uint8_t>& bytes, int32_t dtype);

// ||x - truth|| / ||truth||, with a floor for truths that are all but zero. NaN when x is not finite.
double relative_error(const Values& x, const Values& truth);

}  // namespace job
