// Placeholder until the portable backward lands.
#include <cstdio>

#include "plan.h"

namespace fqla {

void plan_backward_portable(const Request&, const Caps&, Plan& plan) {
    plan.status = FLASHQLA_STATUS_UNSUPPORTED;
    std::snprintf(plan.reason, sizeof plan.reason, "the backward on CUDA is not there yet");
}

}  // namespace fqla
