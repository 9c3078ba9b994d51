#include "engines.h"

#include "cost.h"

namespace fqla {
namespace {

const char* refuses_cpu(const Request&, const Caps& caps) { return caps.cuda ? "runs on CPU handles" : nullptr; }

const char* refuses_recurrent(const Request& request, const Caps& caps) {
    if (!caps.cuda) return "runs on CUDA handles";
    if (request.op != FLASHQLA_OP_FORWARD) return "computes the forward";
    return request.saved ? "saves nothing for a backward" : nullptr;
}

const char* refuses_portable_backward(const Request& request, const Caps& caps) {
    if (!caps.cuda) return "runs on CUDA handles";
    return request.op == FLASHQLA_OP_BACKWARD ? nullptr : "computes the backward";
}

double no_choice(const Request&, const Caps&) { return 0; }

// Of engines that refuse or take a request whatever its bounds and options.
template <const char* (*kRefuses)(const Request&, const Caps&), void (*kFill)(const Request&, const Caps&, Plan&)>
uint64_t same_workspace(const Request& request, const Caps& caps) {
    if (kRefuses(request, caps)) return 0;
    Plan plan{};
    kFill(request, caps, plan);
    return plan.workspace.total_bytes();
}

uint64_t no_workspace(const Request&, const Caps&) { return 0; }

}  // namespace

const Engine kEngines[] = {
    {FLASHQLA_ENGINE_RECURRENT, "cpu", refuses_cpu, no_choice, plan_cpu, same_workspace<refuses_cpu, plan_cpu>, false},
    {FLASHQLA_ENGINE_RECURRENT, "recurrent", refuses_recurrent, recurrent_cost, plan_forward_recurrent, no_workspace, false},
    {FLASHQLA_ENGINE_FUSED, "fused", refuses_fused, fused_cost, plan_fused, no_workspace, true},
    {FLASHQLA_ENGINE_CHUNKED, "chunked", refuses_chunked, chunked_cost, plan_chunked, most_chunked_workspace, true},
    {FLASHQLA_ENGINE_CONTEXT_PARALLEL, "context parallel", refuses_context_parallel, context_parallel_cost, plan_context_parallel,
     most_context_parallel_workspace, true},
    {FLASHQLA_ENGINE_CHUNKED, "chunked backward", refuses_chunked_backward, chunked_backward_cost, plan_chunked_backward, most_hopper_backward_workspace,
     false},
    {FLASHQLA_ENGINE_CONTEXT_PARALLEL, "context parallel backward", refuses_context_parallel_backward, context_parallel_backward_cost,
     plan_context_parallel_backward, most_hopper_backward_workspace, false},
    {FLASHQLA_ENGINE_RECURRENT, "portable backward", refuses_portable_backward, portable_backward_cost, plan_backward_portable,
     same_workspace<refuses_portable_backward, plan_backward_portable>, false},
};
const int kEngineCount = sizeof(kEngines) / sizeof(kEngines[0]);

}  // namespace fqla
