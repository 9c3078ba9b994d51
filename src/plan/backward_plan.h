#pragma once
#include "plan.h"

namespace fqla {

// plan_backward_portable with another bound than kWorkspaceLimit, so that tests can make segments small.
void plan_backward_within(const Request& request, const Caps& caps, uint64_t workspace_limit, Plan& plan);

}  // namespace fqla
