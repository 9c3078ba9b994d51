#include "explain.h"

#include <algorithm>
#include <cstring>

#include "cost.h"
#include "device.h"
#include "engines.h"
#include "kernel_params.h"

namespace fqla {
namespace {

// Engine names by image and by CPU kernel, as literals: they are valid for ever.
const char* cpu_name(const char* simd) {
    constexpr const char* names[] = {"cpu portable", "cpu avx2", "cpu avx512", "cpu neon"};
    for (const char* name : names)
        if (!strcmp(name + 4, simd)) return name;
    return "cpu";
}

const char* cuda_name(int32_t engine, Image image) {
    static const char* const recurrent[] = {"recurrent", "recurrent sm_80", "recurrent sm_90a", "recurrent sm_100f", "recurrent sm_120f", "recurrent PTX"};
    switch (engine) {
        case FLASHQLA_ENGINE_CHUNKED:
            return "chunked sm_90a";
        case FLASHQLA_ENGINE_FUSED:
            return "fused sm_90a";
        case FLASHQLA_ENGINE_CONTEXT_PARALLEL:
            return "context parallel sm_90a";
        default:
            return recurrent[static_cast<int>(image)];
    }
}

void print_steps(const Plan& plan, TextWriter& text) {
    for (int i = 0; i < plan.step_count; i++) {
        const Step& s = plan.steps[i];
        text.print("  launch %s grid %u x %u x %u, %u threads, %u bytes shared", kKernels[static_cast<int>(s.kernel)].symbol, s.grid[0], s.grid[1], s.grid[2],
                   s.threads, s.shared_bytes);
        if (s.when == When::each_but_last) text.print(", for each of %d segments but the last", plan.segments);
        if (s.when == When::each_segment) text.print(", for each of %d segments of %lld tokens", plan.segments, static_cast<long long>(plan.segment_tokens));
        if (plan.short_tokens)
            text.print(", rows of %s %d tokens", !strcmp(kKernels[static_cast<int>(s.kernel)].source, "recurrent") ? "up to" : "more than", plan.short_tokens);
        text.print("\n");
    }
}

void print_workspace(const Plan& plan, TextWriter& text) {
    text.print("  workspace %llu bytes", static_cast<unsigned long long>(plan.workspace.total_bytes()));
    const char* before = ": ";
    for (int r = 0; r < static_cast<int>(Region::count); r++)
        if (const uint64_t bytes = plan.workspace.bytes(static_cast<Region>(r))) {
            text.print("%s%s %llu", before, region_name(static_cast<Region>(r)), static_cast<unsigned long long>(bytes));
            before = ", ";
        }
    text.print("\n");
}

}  // namespace

const char* engine_name(const Plan& plan, const Caps& caps) {
    if (plan.status) return "none";
    return caps.cuda ? cuda_name(plan.engine, caps.image) : cpu_name(caps.simd_name);
}

void explain(const Request& asked, const Caps& caps, const char* device_name, TextWriter& text) {
    const Request request = with_segments(asked, caps);
    const Form& f = request.problem.form;
    const Bounds& b = request.bounds;
    const Plan plan = make_plan(request, caps);
    text.print("%s, %lld rows, %lld tokens, at most %lld a row, heads %d/%d, K %d, V %d\n", request.op == FLASHQLA_OP_FORWARD ? "forward" : "backward",
               static_cast<long long>(b.rows), static_cast<long long>(b.tokens), static_cast<long long>(b.max_tokens), f.key_heads, f.value_heads, f.key_dim,
               f.value_dim);
    text.print("  device %s: engine %s, %s\n", device_name, engine_name(plan, caps), plan.reason);
    print_steps(plan, text);
    print_workspace(plan, text);
    if (const uint64_t bytes = plan.status ? 0 : saved_bytes(request, caps))
        text.print("  %s in args.saved, %llu bytes, if given\n", request.op == FLASHQLA_OP_FORWARD ? "saves for the backward" : "reads what the forward saved",
                   static_cast<unsigned long long>(bytes));
    for (int i = 0; i < kEngineCount; i++) {
        const Engine& engine = kEngines[i];
        if (const char* why = engine.refuses(request, caps))
            text.print("  not %s: %s\n", engine.name, why);
        else if (const double us = engine.cost(request, caps); us > 0)
            text.print("  %s: estimated %.0f us\n", engine.name, us);
    }
}

bool kernels_of(const Problem* problem, int32_t op, const Caps& caps, bool (&wanted)[kKernelSlots], char (&why)[sizeof Plan::reason]) {
    for (int i = 0; i < kKernelCount; i++) wanted[i] = !problem && (!strcmp(kKernels[i].room, "common") || caps.image == Image::sm_90a);
    if (!problem) return true;
    bool supported = false;
    const auto want = [&](const Request& request) {
        const auto mark = [&](const Plan& plan) {
            for (int i = 0; i < plan.step_count; i++) wanted[static_cast<int>(plan.steps[i].kernel)] = true;
        };
        const Plan plan = make_plan(request, caps);
        mark(plan);
        if (plan.status) {
            memcpy(why, plan.reason, sizeof why);
            return;
        }
        supported = true;
        // Bounds between those that are looked at may have another engine, or the other way to cut rows.
        Request with[2] = {with_segments(request, caps)};
        with[1] = with[0], with[1].cut = false;
        for (const Request& r : with)
            for (int i = 0; i < kEngineCount; i++) {
                if (problem->engine != FLASHQLA_ENGINE_AUTO && problem->engine != kEngines[i].code) continue;
                if (kEngines[i].refuses(r, caps)) continue;
                Plan other{};
                kEngines[i].fill(r, caps, other);
                mark(other);
            }
    };
    // Engines and symbols change with the bounds, alignment and state options: powers of two and every option between them meet all kernels.
    constexpr int64_t kMostRows = 1 << 20, kMostTokens = 1 << 27;
    for (int64_t rows = 1; rows <= kMostRows; rows *= 2)
        for (int64_t each = 1; rows * each <= kMostTokens; each *= 2)
            for (int bits = 0; bits < 32; bits++) {
                const bool aligned = bits & 1, offsets = bits & 2, final_states = bits & 4, more_states = bits & 8, saves = bits & 16;
                Request request{op, *problem, {rows, rows * each, each, offsets}, {final_states, final_states, more_states, more_states}, aligned};
                if (saves && !(aligned && saved_bytes(request, caps))) continue;
                request.saved = saves;
                want(request);
                if (each <= RecurrentLayout::kShortTokens && aligned) {  // rows of known length (decode.h)
                    Request reached = request;
                    reached.decode_reaches = true, reached.state.checkpoints = false;
                    want(reached);
                }
                if (!offsets || !aligned || more_states || saves) continue;
                const int64_t beside = std::max<int64_t>(64, each / 64);  // rows of one token (row_split.h)
                request.bounds = {rows * (1 + beside), rows * (each + beside), each, true};
                want(request);
            }
    return supported;
}

}  // namespace fqla
