// A plan: which engine serves a request, with which kernels, grids and workspace. Pure: no driver, no environment, no globals, no
// allocation; the same request and caps give the same plan.
#pragma once
#include <cstdint>

#include "caps.h"
#include "cut.h"
#include "problem.h"
#include "variants.h"
#include "workspace.h"

namespace fqla {

// When a step runs. A plan whose chunk states would not fit works segment after segment, the last one first (backward).
enum class When : uint8_t { before, each_but_last, each_segment, after };  // each_but_last: the first segment first

struct Step {
    KernelId kernel;
    When when;
    // May start before the step before it has ended (programmatic serialisation): it waits for its results itself.
    bool overlaps;
    uint32_t grid[3];
    uint32_t threads;
    uint32_t shared_bytes;  // dynamic
};

// What the Hopper kernels are told beyond their grids.
struct Sm90Choice {
    int32_t segments, segment_chunks;  // of a row
    int32_t heads_per_block;           // of the solve
    int32_t grid_rows;                 // of the backward's chains
    // Of a cut (cut.h).
    CutCosts cut_costs;
    int32_t cut_units, cut_blocks, most_warm;
    bool approximate;  // APPROXIMATE_WARMUP
};

struct Plan {
    static constexpr int kMaxSteps = 12;
    int32_t status;  // FLASHQLA_STATUS_OK, or UNSUPPORTED with the reason
    int32_t engine;  // FLASHQLA_ENGINE_*
    int32_t step_count;
    int32_t short_tokens;    // rows of up to so many tokens are the recurrent step's, longer ones the others' (row_split.h); 0: every step has all rows
    int32_t segments;        // >= 1
    int64_t segment_tokens;  // of a row
    Step steps[kMaxSteps];
    Sm90Choice sm90;
    Workspace workspace;
    Workspace saved;  // what a forward leaves for its backward; empty where the call has nothing of the kind
    char reason[256];

    int32_t launches() const;
    void add(const Step& step);
    // Null where the region was not booked.
    template <class T>
    T* at(Region r, const Memory& memory) const {
        return saved.bytes(r) ? saved.at<T>(r, memory.saved) : workspace.at<T>(r, memory.workspace);
    }
};

// Beyond this, a plan works segment after segment.
constexpr uint64_t kWorkspaceLimit = 8ull << 30;

// The choice among engines. Never allocates, never fails: a request that cannot be served has status UNSUPPORTED and a reason.
Plan make_plan(const Request& request, const Caps& caps);

// The most workspace that any call within the request's bounds takes (see flashqla_query_info.workspace_bytes).
uint64_t most_workspace_bytes(const Request& request, const Caps& caps);

// What a forward can save for the backward of the same bounds and options, whichever of the two is asked about; 0: nothing that is worth it.
uint64_t saved_bytes(const Request& request, const Caps& caps);  // sm90_backward_plan.cpp

// Engines' own planners: fill steps, workspace and segments of a plan that has been decided on.
void plan_forward_recurrent(const Request& request, const Caps& caps, Plan& plan);  // recurrent_plan.cpp
void plan_backward_portable(const Request& request, const Caps& caps, Plan& plan);  // backward_plan.cpp
void plan_cpu(const Request& request, const Caps& caps, Plan& plan);                // cpu_plan.cpp

}  // namespace fqla
