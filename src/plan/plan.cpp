// The choice among engines.
#include "plan.h"

#include <cstdio>

#include "engines.h"

namespace fqla {

int32_t Plan::launches() const {
    int32_t n = 0;
    for (int i = 0; i < step_count; i++) n += steps[i].when == When::each_segment ? segments : 1;
    return n;
}

void Plan::add(const Step& step) { steps[step_count++] = step; }

namespace {

Plan plan_with(const Engine& engine, const Request& request, const Caps& caps) {
    Plan plan{};
    plan.engine = engine.code;
    plan.segments = 1;
    plan.segment_tokens = request.bounds.max_tokens;
    engine.fill(request, caps, plan);
    if (!plan.reason[0])
        snprintf(plan.reason, sizeof plan.reason, "%s",
                 request.problem.engine != FLASHQLA_ENGINE_AUTO ? "problem.engine asks for it" : "no engine before it in order of preference serves this call");
    return plan;
}

Plan refusal(int32_t engine, const char* why) {
    Plan plan{};
    plan.status = FLASHQLA_STATUS_UNSUPPORTED;
    plan.engine = engine;
    plan.segments = 1;
    snprintf(plan.reason, sizeof plan.reason, "%s", why);
    return plan;
}

}  // namespace

Plan make_plan(const Request& request, const Caps& caps) {
    const int32_t asked = request.problem.engine;
    char why[sizeof Plan::reason] = "";
    for (const Engine& engine : kEngines) {
        if (asked != FLASHQLA_ENGINE_AUTO && engine.code != asked) continue;
        const char* refused = engine.refuses(request, caps);
        if (!refused) return plan_with(engine, request, caps);
        snprintf(why, sizeof why, "problem.engine = %d (%s): %s", engine.code, engine.name, refused);
    }
    if (!why[0]) snprintf(why, sizeof why, "problem.engine = %d: this library has no such engine for this device and op", asked);
    return refusal(asked, why);
}

uint64_t most_workspace_bytes(const Request& request, const Caps& caps) {
    uint64_t most = 0;
    for (const Engine& engine : kEngines) {
        // Alignment and the state's options may differ from call to call: every engine that might come to serve one counts.
        if (request.problem.engine != FLASHQLA_ENGINE_AUTO && engine.code != request.problem.engine) continue;
        if (engine.refuses(request, caps)) continue;
        const uint64_t bytes = plan_with(engine, request, caps).workspace.total_bytes();
        if (bytes > most) most = bytes;
    }
    return most;
}

}  // namespace fqla
