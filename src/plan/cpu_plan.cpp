#include "cpu_plan.h"

#include <algorithm>
#include <cstdio>

#include "plan.h"

namespace fqla {
namespace {

int64_t round_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

int64_t ceil_sqrt(int64_t x) {
    int64_t low = 0, high = int64_t{1} << 31;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (middle * middle >= x)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

}  // namespace

CpuBackward cpu_backward(const Form& form, int64_t rows, int64_t max_tokens, int64_t threads) {
    const bool oracle = form.dtype == FLASHQLA_DTYPE_F64;
    CpuBackward b{};
    b.chunk_tokens = oracle ? kCpuOracleChunkTokens : kCpuChunkTokens;
    b.group = form.value_heads / form.key_heads;
    b.state_stride = oracle ? form.value_dim : round_up(form.value_dim, kCpuColumnStep) + kCpuStateSkew;
    b.state_elements = form.key_dim * b.state_stride;
    const int64_t chunks = std::max<int64_t>(1, (max_tokens + b.chunk_tokens - 1) / b.chunk_tokens);
    b.segment_chunks = chunks <= kCpuShortRowChunks ? chunks : std::max(kCpuShortRowChunks, ceil_sqrt(chunks));
    b.segments = (chunks + b.segment_chunks - 1) / b.segment_chunks;
    b.worker_states = b.group * (b.segments + b.segment_chunks + 1) + (oracle ? b.chunk_tokens : 0);
    b.worker_bytes = static_cast<uint64_t>(b.worker_states) * static_cast<uint64_t>(b.state_elements) * (oracle ? sizeof(double) : sizeof(float));
    b.worker_bytes = (b.worker_bytes + Workspace::kAlignment - 1) / Workspace::kAlignment * Workspace::kAlignment;
    const int64_t fit = static_cast<int64_t>(kWorkspaceLimit / std::max<uint64_t>(1, b.worker_bytes));
    b.workers = std::max<int64_t>(1, std::min({threads, rows * form.key_heads, fit}));
    return b;
}

void plan_cpu(const Request& request, const Caps& caps, Plan& plan) {
    plan.status = FLASHQLA_STATUS_OK;
    plan.engine = FLASHQLA_ENGINE_RECURRENT;
    plan.step_count = 0;
    plan.segments = 1;
    plan.segment_tokens = request.bounds.max_tokens;
    const Form& form = request.problem.form;
    if (request.op == FLASHQLA_OP_BACKWARD) {
        const CpuBackward b = cpu_backward(form, request.bounds.rows, request.bounds.max_tokens, caps.threads);
        plan.segments = static_cast<int32_t>(b.segments);
        plan.segment_tokens = b.segment_tokens();
        // Where memory and not threads or rows bounds the workers, all of the limit is booked: so the need never falls as bounds grow.
        const int64_t wanted = std::max<int64_t>(1, std::min<int64_t>(caps.threads, request.bounds.rows * form.key_heads));
        const uint64_t bytes = static_cast<uint64_t>(b.workers) * b.worker_bytes;
        plan.workspace.book(Region::chunk_states, b.workers < wanted ? std::max(bytes, kWorkspaceLimit) : bytes);
        if (form.gate == FLASHQLA_GATE_RAW) {
            const uint64_t heads = static_cast<uint64_t>(request.bounds.rows) * static_cast<uint64_t>(form.value_heads);
            plan.workspace.book(Region::partial_sums, heads * 2 * sizeof(double));
        }
    }
    std::snprintf(plan.reason, sizeof plan.reason, "the CPU has one engine: token by token in %s, %d threads",
                  form.dtype == FLASHQLA_DTYPE_F64 ? "double" : caps.simd_name, caps.threads);
}

}  // namespace fqla
