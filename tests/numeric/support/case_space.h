// The cases that the form tests run.
#pragma once
#include <vector>

#include "case.h"

namespace numeric {

enum class Space {
    cpu,     // every form, sizes from 1 to 256, f64 too
    gpu,     // the same without f64
    tensor,  // what tensor-core engines take: K = V = 128, bf16 and f16, longer rows
};

// Covers every pair of forms that can meet. `one_of`: keeps each so-many-th, where time is short.
std::vector<Case> covering_cases(Space space, uint64_t seed, size_t one_of = 1);

}  // namespace numeric
