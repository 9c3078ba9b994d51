#include "kernel_args.h"

#include <cstring>

#include "row_grid.h"

namespace fqla {
namespace {

template <class Params>
size_t put(const Params& params, KernelArgs& out) {
    static_assert(sizeof(Params) <= sizeof out.bytes && alignof(Params) <= 64, "fits");
    std::memcpy(out.bytes, &params, sizeof params);
    return sizeof params;
}

// Kernels of one source share their parameter struct.
bool from_source(const Step& step, const char* source) { return std::strcmp(kKernels[static_cast<size_t>(step.kernel)].source, source) == 0; }

RecurrentParams recurrent_params(const Step& step, const Forward& call) {
    const int32_t tiles = static_cast<int32_t>(step.grid[0] / static_cast<uint32_t>(call.form.value_heads));
    return {call, tiles, !large_states(call.form, call.rows.count)};
}

BackwardParams backward_params(const Step& step, int32_t segment, const Plan& plan, const Backward& call, void* workspace) {
    const Workspace& ledger = plan.workspace;
    const Rows& rows = call.rows;
    const int64_t slots = plan.segment_tokens / kBackwardChunk;
    const int64_t tokens = rows.offsets ? rows.tokens : rows.count * rows.max_tokens;
    const bool find_segments = step.when == When::before;
    BackwardParams p{};
    p.call = call;
    p.chunk_states = ledger.at<float>(Region::chunk_states, workspace);
    p.chunk_gradients = ledger.at<float>(Region::chunk_gradients, workspace);
    p.residuals = ledger.at<float>(Region::residuals, workspace);
    p.delta_gradients = ledger.at<float>(Region::delta_gradients, workspace);
    p.head_dq = ledger.at<float>(Region::head_gradients, workspace);
    p.head_dk = p.head_dq + ledger.bytes(Region::head_gradients) / sizeof(float) / 2;
    p.segment_states = ledger.at<float>(Region::segment_states, workspace);
    p.carried_gradient = ledger.at<float>(Region::state_gradient, workspace);
    p.partial_sums = ledger.at<float>(Region::partial_sums, workspace);
    p.first_slot = segment * slots;
    p.slots = slots;
    p.all_slots = backward_slots(tokens, rows.count);
    p.segment = segment;
    p.segments = plan.segments;
    p.tiles = static_cast<int32_t>(step.grid[0] / static_cast<uint32_t>(call.form.value_heads) / (find_segments ? 1 : 2));  // read by the scans
    p.find_segments = find_segments;
    return p;
}

SolveForms solve_forms(const Forward& call) {
    const Form& form = call.form;
    return {call.in.gate,
            call.in.beta,
            call.in.a_log,
            call.in.dt_bias,
            form.gate,
            form.beta,
            form.qk_norm,
            static_cast<float>(form.beta_scale),
            static_cast<float>(form.scale),
            static_cast<float>(form.eps)};
}

Sm90SolveParams solve_params(const Plan& plan, const Forward& call, const TensorMaps& maps, void* workspace) {
    const Form& form = call.form;
    return {maps.q,
            maps.k,
            call.rows,
            solve_forms(call),
            plan.workspace.at<void>(Region::records, workspace),
            form.key_heads,
            form.value_heads,
            plan.sm90.heads_per_block,
            form.head_map};
}

Sm90ForwardParams sm90_forward_params(const Plan& plan, const Forward& call, const TensorMaps& maps, void* workspace) {
    const Form& form = call.form;
    const Workspace& ledger = plan.workspace;
    Sm90ForwardParams p{};
    p.q = maps.q;
    p.k = maps.k;
    p.v = maps.v;
    p.o = maps.out;
    p.rows = call.rows;
    p.state = call.state;
    p.out = call.out;
    p.records = ledger.at<void>(Region::records, workspace);
    p.segment_states = ledger.at<float>(Region::segment_states, workspace);
    p.segment_maps = ledger.at<float>(Region::segment_maps, workspace);
    p.key_heads = form.key_heads;
    p.value_heads = form.value_heads;
    p.head_map = form.head_map;
    p.state_layout = form.state_layout;
    p.state_dtype = form.state_dtype;
    p.segments = plan.sm90.segments;
    p.segment_chunks = p.first_segment_chunks = plan.sm90.segment_chunks;
    return p;
}

Sm90StitchParams stitch_params(const Plan& plan, void* workspace) {
    return {plan.workspace.at<float>(Region::segment_states, workspace), plan.workspace.at<float>(Region::segment_maps, workspace), plan.sm90.segments, 0};
}

}  // namespace

size_t make_kernel_args(const Step& step, const Plan& plan, const Forward& call, const TensorMaps& maps, void* workspace, KernelArgs& out) {
    if (from_source(step, "recurrent")) return put(recurrent_params(step, call), out);
    if (from_source(step, "solve")) return put(solve_params(plan, call, maps, workspace), out);
    if (from_source(step, "forward")) return put(sm90_forward_params(plan, call, maps, workspace), out);
    if (from_source(step, "fused")) return put(Sm90FusedParams{sm90_forward_params(plan, call, maps, workspace), solve_forms(call)}, out);
    if (from_source(step, "segment")) return put(stitch_params(plan, workspace), out);
    return 0;
}

size_t make_kernel_args(const Step& step, int32_t segment, const Plan& plan, const Backward& call, void* workspace, KernelArgs& out) {
    if (from_source(step, "backward")) return put(backward_params(step, segment, plan, call, workspace), out);
    return 0;
}

}  // namespace fqla
