// The tensor-core backward of Hopper (kernels/sm90/backward_*.cu): solve, chains, gradients and, for raw gates, the sums of the portable one. Where the
// forward has saved its part, no solve, and of the chains those of D alone.
#include <algorithm>

#include "cost.h"
#include "engines.h"
#include "kernel_params.h"
#include "row_grid.h"
#include "sm90_backward_params.h"
#include "sm90_parts.h"

namespace fqla {
namespace {

// What no bounds, alignment or state options of a call change.
const char* refuses_form(const Request& request, const Caps& caps) {
    if (request.op != FLASHQLA_OP_BACKWARD) return "computes the backward";
    if (!caps.cuda) return "runs on CUDA handles";
    if (const char* why = refuses_sm90_form(request.problem.form, caps)) return why;
    if (request.problem.flags & FLASHQLA_PROBLEM_BATCH_INVARIANT) return "BATCH_INVARIANT takes the portable backward";
    return nullptr;
}

// Of one chunk slot in all regions.
uint64_t bytes_of_slot(const Form& form) {
    constexpr uint64_t tokens = BackwardTiles::kTokensBytes;
    return static_cast<uint64_t>(form.value_heads) * (ChunkRecord::kBytes + 2 * BackwardTiles::kMatrixBytes + 3 * tokens + (2 + kCarryParts) * sizeof(float));
}

// Each of the regions is rounded up.
constexpr uint64_t kRounding = 12 * Workspace::kAlignment;

int64_t slots_within_limit(const Form& form) { return static_cast<int64_t>((kWorkspaceLimit - kRounding) / bytes_of_slot(form)); }

constexpr uint64_t kMatrixBytes = uint64_t{kHeadDim} * kHeadDim * 4;  // of a segment: a state, a gradient, a transition

// Each kind of chain is two blocks a unit and segment.
void add_chain(Plan& plan, KernelId kernel, int64_t blocks) {
    plan.add(sm90_step(kernel, blocks, ChainLayout::kThreads, ChainLayout::kBytes, plan.step_count > 0));
}

void add_summaries(const Form& form, int64_t units, int64_t chains, Plan& plan) {
    const int64_t segments = plan.sm90.segments;
    const uint64_t bytes = static_cast<uint64_t>(units * segments) * kMatrixBytes;
    if (chains == 2) plan.workspace.book(Region::segment_states, bytes);
    plan.workspace.book(Region::state_gradient, bytes);
    plan.workspace.book(Region::segment_maps, bytes);
    add_chain(plan, by_dtype(form, KernelId::gdn_chain_summary_bf16, KernelId::gdn_chain_summary_f16), 2 * (chains + 1) * units * (segments - 1));
    if (segments >= 3)
        plan.add(sm90_step(KernelId::gdn_chain_stitch, chains * units * (kHeadDim / ChainStitchLayout::kRows), ChainStitchLayout::kThreads,
                           ChainStitchLayout::kBytes, true));
}

void plan_segments(const Request& request, const Caps& caps, int64_t segments, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t slots = slots_of(request.bounds), units = request.bounds.rows * form.value_heads;
    const uint64_t chunks = static_cast<uint64_t>(slots) * static_cast<uint64_t>(form.value_heads);
    const int64_t chains = request.saved ? 1 : 2;  // of D, of S
    set_segments(request.bounds, segments, plan);
    book_saved(form, slots, request.saved ? plan.saved : plan.workspace);
    if (!request.saved) plan_solve(request, caps, plan);
    plan.workspace.book(Region::chunk_gradients, chunks * BackwardTiles::kMatrixBytes);
    plan.workspace.book(Region::delta_gradients, chunks * BackwardTiles::kTokensBytes);
    plan.workspace.book(Region::head_gradients, chunks * BackwardTiles::kTokensBytes);  // dv, where the caller does not want it
    if (form.gate == FLASHQLA_GATE_RAW) plan.workspace.book(Region::partial_sums, chunks * 2 * sizeof(float));
    // A backward that reads what was saved must not look at the states themselves: a forward in place has overwritten them.
    if (request.state.read && !request.saved) plan.workspace.book(Region::first_carries, static_cast<uint64_t>(units) * kCarryParts * sizeof(float));
    if (plan.sm90.segments > 1) add_summaries(form, units, chains, plan);
    add_chain(plan, by_dtype(form, KernelId::gdn_chains_bf16, KernelId::gdn_chains_f16), 2 * chains * units * plan.sm90.segments);
    plan.add(sm90_step(by_dtype(form, KernelId::gdn_gradients_bf16, KernelId::gdn_gradients_f16),
                       std::min<int64_t>(slots * form.key_heads, caps.multiprocessors), GradientLayout::kThreads, GradientLayout::kBytes, true));
    if (form.gate == FLASHQLA_GATE_RAW) plan.add(sm90_step(KernelId::gdn_backward_sums, form.value_heads, BackwardLayout::kFinishThreads, 0, false));
}

}  // namespace

const char* refuses_chunked_backward(const Request& request, const Caps& caps) {
    if (const char* why = refuses_form(request, caps)) return why;
    const Bounds& b = request.bounds;
    const Form& form = request.problem.form;
    if (!request.aligned_16_bytes) return "16-bit tensors and their strides must be multiples of 16 bytes, and strides not 0";
    if (const char* why = refuses_sm90_bounds(b)) return why;
    if (slots_of(b) > slots_within_limit(form)) return "its chunk records, states and gradients would take more than 8 GiB of workspace";
    if (slots_of(b) * form.value_heads > kMostGridX || b.rows * form.value_heads > kMostGridX / 4) return "its grid is too large";
    return nullptr;
}

const char* refuses_context_parallel_backward(const Request& request, const Caps& caps) {
    if (const char* why = refuses_chunked_backward(request, caps)) return why;
    return request.segments < 2 ? "rows and heads fill the card, or rows are short" : nullptr;
}

void plan_chunked_backward(const Request& request, const Caps& caps, Plan& plan) { plan_segments(request, caps, 1, plan); }

void plan_context_parallel_backward(const Request& request, const Caps& caps, Plan& plan) { plan_segments(request, caps, request.segments, plan); }

// With segments or without: of these there are only as many as fill the card with four blocks a unit, or, where S was saved, with two.
uint64_t most_hopper_backward_workspace(const Request& request, const Caps& caps) {
    if (refuses_form(request, caps)) return 0;
    const Form& form = request.problem.form;
    return static_cast<uint64_t>(std::min(most_slots(request.bounds), slots_within_limit(form))) * bytes_of_slot(form) + kRounding +
           static_cast<uint64_t>(caps.multiprocessors / 2) * kMatrixBytes * 2;
}

uint64_t saved_bytes(const Request& asked, const Caps& caps) {
    Request forward = asked, backward = asked;
    forward.op = FLASHQLA_OP_FORWARD, backward.op = FLASHQLA_OP_BACKWARD;
    forward.aligned_16_bytes = backward.aligned_16_bytes = true;
    forward.saved = backward.saved = false;
    forward.state = backward.state = {};  // the two calls may ask different things of their states
    const int32_t engine = asked.problem.engine;
    if (engine == FLASHQLA_ENGINE_RECURRENT || engine == FLASHQLA_ENGINE_FUSED) return 0;
    if (refuses_chunked(forward, caps) || refuses_chunked_backward(backward, caps)) return 0;
    // Rows so short that the portable backward is faster leave nothing worth keeping.
    if (engine == FLASHQLA_ENGINE_AUTO && portable_backward_cost(backward, caps) <= chunked_backward_cost(backward, caps)) return 0;
    Workspace saved;
    book_saved(asked.problem.form, slots_of(asked.bounds), saved);
    return saved.total_bytes();
}

}  // namespace fqla
