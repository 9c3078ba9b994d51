// What a call gives, or should give.
#pragma once
#include <string>

#include "sample.h"

namespace numeric {

// One tensor, as a plain array. `written`: expected: these elements must be stored, the others left as they are; got: their bytes changed.
struct Grid {
    const char* name;
    int32_t dtype;  // as stored
    std::vector<int64_t> shape;
    double natural;  // size of a usual element: truly zero outputs are judged by it
    Numbers value;
    std::vector<uint8_t> written;

    Grid(const char* grid_name, int32_t stored, std::vector<int64_t> extents, double usual);
    int64_t inner(size_t from) const;                   // elements of one step along axis from-1
    void fill(int64_t begin, int64_t count, double x);  // value and written
};

struct Outcome {
    std::vector<Grid> grids;
    std::string damage;  // guard bands and gaps that were written to; "" when none was

    Grid* find(const char* name);
    const Grid* find(const char* name) const { return const_cast<Outcome*>(this)->find(name); }
};

// The grids of a forward (out, states) or a backward, nothing written.
Outcome empty_forward(const Sample& sample);
Outcome empty_backward(const Sample& sample);

}  // namespace numeric
