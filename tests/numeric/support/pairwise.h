// Few combinations that hold every pair of values of any two axes.
#pragma once
#include <functional>
#include <vector>

#include "random.h"

namespace numeric {

using Choice = std::vector<int>;  // a value of each axis

// `values`: of each axis. `make_valid` changes a choice into one that can be; pairs that it never lets through are given up.
std::vector<Choice> pairwise(const std::vector<int>& values, Random& random, const std::function<void(Choice&)>& make_valid);

}  // namespace numeric
