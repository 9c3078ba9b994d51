// Plans and builds as text.
#pragma once
#include "plan.h"
#include "text.h"

namespace fqla {

// "recurrent sm_90a", "cpu avx512": valid for ever.
const char* engine_name(const Plan& plan, const Caps& caps);

void explain(const Request& request, const Caps& caps, const char* device_name, TextWriter& text);

// Which kernels calls of this problem (null: of any) and op may need. False when no call of it is supported, with the reason.
bool kernels_of(const Problem* problem, int32_t op, const Caps& caps, bool (&wanted)[kKernelSlots], char (&why)[sizeof Plan::reason]);

}  // namespace fqla
