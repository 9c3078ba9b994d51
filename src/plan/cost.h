// Estimated times of the engines, in microseconds: what the planner compares. Fitted to an H100 80GB (132 multiprocessors, 3.03 TB/s),
// graph replay with the L2 flushed; other cards scale by their multiprocessors. Only the order of engines has to be right.
#pragma once
#include "caps.h"
#include "cut.h"
#include "problem.h"

namespace fqla {

double recurrent_cost(const Request& request, const Caps& caps);
double fused_cost(const Request& request, const Caps& caps);
double chunked_cost(const Request& request, const Caps& caps);
double context_parallel_cost(const Request& request, const Caps& caps);

double portable_backward_cost(const Request& request, const Caps& caps);
double chunked_backward_cost(const Request& request, const Caps& caps);
double context_parallel_backward_cost(const Request& request, const Caps& caps);

// How context parallelism would cut each row: what takes the least estimated time. Below two segments it does not apply.
struct RowCut {
    int64_t segments;  // by the host, with chunk records
    bool cut;          // instead on the card, by what the gates forget, gates and inverses made where they are used (cut.h)
    double cut_us;
};
CutCosts cut_costs(const Request& request, const Caps& caps);
// Chunks that a head may take to forget in a cut; those that take more are stitched together.
int most_warm_chunks(const Request& request);
RowCut best_cut(const Request& request, const Caps& caps);

// What the engines want a request to be.
inline Request with_segments(Request request, const Caps& caps) {
    const RowCut cut = best_cut(request, caps);
    request.segments = cut.segments, request.cut = cut.cut, request.cut_us = cut.cut_us;
    return request;
}

}  // namespace fqla
