// Forward and backward in double for F64 tensors, through recurrence.h.
#pragma once
#include "cpu.h"

namespace fqla::cpu {

void oracle_forward(ThreadPool& pool, const Forward& call);
void oracle_backward(ThreadPool& pool, const Backward& call, const Plan& plan, void* workspace);

}  // namespace fqla::cpu
