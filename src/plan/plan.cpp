// The choice among engines.
#include "plan.h"

#include <cstdio>
#include <cstring>

#include "cost.h"
#include "engines.h"
#include "row_split.h"

namespace fqla {

int32_t Plan::launches() const {
    int32_t n = 0;
    for (int i = 0; i < step_count; i++) n += steps[i].when == When::each_segment ? segments : steps[i].when == When::each_but_last ? segments - 1 : 1;
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
    if (plan.reason[0]) return plan;
    if (request.problem.engine != FLASHQLA_ENGINE_AUTO)
        snprintf(plan.reason, sizeof plan.reason, "problem.engine asks for it");
    else if (const double us = engine.cost(request, caps); us > 0)
        snprintf(plan.reason, sizeof plan.reason, "the least estimated time of the engines that serve this call, %.0f us", us);
    else
        snprintf(plan.reason, sizeof plan.reason, "the only engine that serves this call");
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

// The recurrent kernel for rows of few tokens, then an engine for the others; no engine where none is estimated at less than `most` microseconds.
Plan split_plan(const Request& request, const Caps& caps, double most) {
    const Request others = with_segments(long_part(request), caps), shorts = short_part(request);
    const double of_shorts = recurrent_cost(shorts, caps);
    Plan plan{};
    const Engine* best = nullptr;
    for (int i = 0; i < kEngineCount; i++) {
        if (!kEngines[i].splits || kEngines[i].refuses(others, caps)) continue;
        if (const double cost = of_shorts + kEngines[i].cost(others, caps); cost < most) best = &kEngines[i], most = cost;
    }
    if (!best) return plan;
    plan_forward_recurrent(shorts, caps, plan);
    if (plan.status) return {};
    plan.engine = best->code;
    plan.segments = 1;
    plan.segment_tokens = request.bounds.max_tokens;
    plan.short_tokens = kShortTokens;
    best->fill(others, caps, plan);
    snprintf(plan.reason, sizeof plan.reason,
             "rows of up to %d tokens go to the recurrent kernel, longer ones to this engine: the least estimated time, %.0f us", kShortTokens, most);
    return plan;
}

bool asked_for(const Engine& engine, const Request& request) { return request.problem.engine == FLASHQLA_ENGINE_AUTO || request.problem.engine == engine.code; }

}  // namespace

Plan make_plan(const Request& asked, const Caps& caps) {
    const Request request = with_segments(asked, caps);
    char why[sizeof Plan::reason] = "";
    const Engine* best = nullptr;
    double least = 0;
    for (int i = 0; i < kEngineCount; i++) {
        const Engine& engine = kEngines[i];
        if (!asked_for(engine, request)) continue;
        if (const char* refused = engine.refuses(request, caps)) {
            if (why[0] && !strncmp(refused, "computes the ", 13)) continue;  // that another engine of this code refuses the call says more
            snprintf(why, sizeof why, "problem.engine = %d (%s): %s", engine.code, engine.name, refused);
            continue;
        }
        const double cost = engine.cost(request, caps);
        if (best && cost >= least) continue;
        best = &engine;
        least = cost;
    }
    if (best && may_split(request))
        if (const Plan plan = split_plan(request, caps, least); plan.engine) return plan;
    if (best) return plan_with(*best, request, caps);
    if (!why[0]) snprintf(why, sizeof why, "problem.engine = %d: this library has no such engine for this device and op", request.problem.engine);
    return refusal(request.problem.engine, why);
}

uint64_t most_workspace_bytes(const Request& request, const Caps& caps) {
    uint64_t most = 0;
    for (int i = 0; i < kEngineCount; i++) {
        const uint64_t bytes = asked_for(kEngines[i], request) ? kEngines[i].most_workspace(request, caps) : 0;
        if (bytes > most) most = bytes;
    }
    return most;
}

}  // namespace fqla
