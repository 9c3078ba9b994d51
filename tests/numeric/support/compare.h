// Got against expected: relative L2 per tensor, and a report that says what is wrong where.
#pragma once
#include <string>

#include "outcome.h"

namespace numeric {

// How an engine computes, which is what its errors come from.
enum class Arithmetic { f64, f32, tensor16 };  // tensor16: 16-bit operands of tensor cores

struct Difference {
    double relative = 0;  // ||got - want|| / max(||want||, 1e-6 natural size) over the elements that should be written
    double bound = 0;
    size_t nans = 0, infinities = 0;  // got where want is finite
    size_t lost = 0, stray = 0;       // should have been written, were written and should not
    size_t worst = 0;                 // index of the largest difference
    double cosine = 1;
    bool good() const { return !nans && !infinities && !stray && relative <= bound; }
};

Difference compare(const Grid& got, const Grid& want, double bound);
double bound_of(const Case& c, const Grid& want, Arithmetic arithmetic);

// "" when all is well, else the case and a line for each tensor that is off. `only`: grids to look at; empty: all.
std::string report(const Sample& sample, const Outcome& got, const Outcome& want, Arithmetic arithmetic, const std::vector<const char*>& only = {});

// The largest errors seen since the start, by tensor and form; printed behind the tests.
void print_largest_errors();

}  // namespace numeric
