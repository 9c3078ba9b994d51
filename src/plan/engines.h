// The engines in order of preference: the first that does not refuse a request serves it.
#pragma once
#include "plan.h"

namespace fqla {

struct Engine {
    int32_t code;  // FLASHQLA_ENGINE_*
    const char* name;
    // Null when the engine can serve the request, else the reason in words. Pure.
    const char* (*refuses)(const Request&, const Caps&);
    void (*fill)(const Request&, const Caps&, Plan&);
};

inline const char* refuses_cpu(const Request&, const Caps& caps) { return caps.cuda ? "runs on CPU handles" : nullptr; }

inline const char* refuses_cuda_forward(const Request& request, const Caps& caps) {
    if (!caps.cuda) return "runs on CUDA handles";
    return request.op == FLASHQLA_OP_FORWARD ? nullptr : "computes the forward";
}

inline const char* refuses_cuda_backward(const Request& request, const Caps& caps) {
    if (!caps.cuda) return "runs on CUDA handles";
    return request.op == FLASHQLA_OP_BACKWARD ? nullptr : "computes the backward";
}

constexpr Engine kEngines[] = {
    {FLASHQLA_ENGINE_RECURRENT, "cpu", refuses_cpu, plan_cpu},
    {FLASHQLA_ENGINE_RECURRENT, "recurrent", refuses_cuda_forward, plan_forward_recurrent},
    {FLASHQLA_ENGINE_RECURRENT, "portable backward", refuses_cuda_backward, plan_backward_portable},
};

}  // namespace fqla
