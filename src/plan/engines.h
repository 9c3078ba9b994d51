// The engines. Of those that do not refuse a request the one with the least estimated time serves it; the first of equals. Requests come to them as
// with_segments (cost.h) makes them.
#pragma once
#include "plan.h"

namespace fqla {

struct Engine {
    int32_t code;  // FLASHQLA_ENGINE_*
    const char* name;
    // Null when the engine can serve the request, else the reason in words. Pure.
    const char* (*refuses)(const Request&, const Caps&);
    // Estimated microseconds of a call; see cost.h.
    double (*cost)(const Request&, const Caps&);
    void (*fill)(const Request&, const Caps&, Plan&);
    // The most workspace of any call within the request's bounds, whatever its alignment and state options; 0 where it can serve none.
    uint64_t (*most_workspace)(const Request&, const Caps&);
    bool splits;  // its kernels can leave rows of few tokens to the recurrent one (row_split.h)
};

// engines.cpp, in order of preference
extern const Engine kEngines[];
extern const int kEngineCount;

// sm90_plan.cpp
const char* refuses_chunked(const Request&, const Caps&);
const char* refuses_fused(const Request&, const Caps&);
const char* refuses_context_parallel(const Request&, const Caps&);
bool keys_are_bounded(const Request&);
bool fits_cut(int64_t units, const Caps&);      // (row, value head) pairs
int fused_blocks(const Request&, const Caps&);  // of a (row, value head): 1, or a cluster of 2 or 3
void plan_chunked(const Request&, const Caps&, Plan&);
void plan_fused(const Request&, const Caps&, Plan&);
void plan_context_parallel(const Request&, const Caps&, Plan&);
uint64_t most_chunked_workspace(const Request&, const Caps&);
uint64_t most_context_parallel_workspace(const Request&, const Caps&);

// sm90_backward_plan.cpp
const char* refuses_chunked_backward(const Request&, const Caps&);
const char* refuses_context_parallel_backward(const Request&, const Caps&);
void plan_chunked_backward(const Request&, const Caps&, Plan&);
void plan_context_parallel_backward(const Request&, const Caps&, Plan&);
uint64_t most_hopper_backward_workspace(const Request&, const Caps&);
int64_t backward_windows(const Form&, int64_t slots);  // that the Hopper backward goes through one after another

}  // namespace fqla
