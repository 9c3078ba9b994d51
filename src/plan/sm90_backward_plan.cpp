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

// Beyond the limit a call goes window of slots after window: plan.segments. First, upwards, S at each window's end for the row that goes on behind it; then,
// downwards, all else. Windows are as long as the limit allows, also where shorter ones would do: workspace must not fall as bounds grow.
constexpr int64_t kLeastWindow = 8;     // slots: below it launches are most of the time
constexpr int64_t kMostWindows = 4096;  // each is three launches, and two before

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

// What is kept beside the window's own: sums and first carries of all slots, S and D where windows meet.
uint64_t bytes_of_windows(const Form& form, int64_t slots) {
    const int64_t each = slots_within_limit(form);
    if (slots <= each || each < kLeastWindow) return 0;
    const auto heads = static_cast<uint64_t>(form.value_heads), windows = static_cast<uint64_t>(std::min(backward_windows(form, slots), kMostWindows));
    return heads * (windows * static_cast<uint64_t>(each) * (2 + kCarryParts) * sizeof(float) + (windows + 2) * kMatrixBytes);
}

// Solve and chain of S, for the row that goes on behind a window's end.
void add_window_ends(const Request& request, const Caps& caps, int64_t slots, Plan& plan) {
    const Form& form = request.problem.form;
    const uint64_t matrices = static_cast<uint64_t>(form.value_heads) * kMatrixBytes;
    plan.workspace.book(Region::segment_states, static_cast<uint64_t>(plan.segments - 1) * matrices);
    plan.workspace.book(Region::state_gradient, 2 * matrices);  // where this window ends and where it begins
    plan_solve(request, caps, slots, plan);
    add_chain(plan, by_dtype(form, KernelId::gdn_chain_summary_bf16, KernelId::gdn_chain_summary_f16), 2 * form.value_heads);
    for (int i = 0; i < plan.step_count; i++) plan.steps[i].when = When::each_but_last;
}

void plan_segments(const Request& request, const Caps& caps, int64_t segments, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t all = slots_of(request.bounds), windows = backward_windows(form, all), slots = windows > 1 ? slots_within_limit(form) : all;
    const int64_t rows = std::min(request.bounds.rows, slots), units = rows * form.value_heads;  // of a window
    const uint64_t chunks = static_cast<uint64_t>(slots) * static_cast<uint64_t>(form.value_heads), heads = static_cast<uint64_t>(form.value_heads);
    const int64_t chains = request.saved ? 1 : 2;  // of D, of S
    set_segments(request.bounds, segments, plan);
    plan.sm90.grid_rows = static_cast<int32_t>(rows);
    book_saved(form, slots, request.saved ? plan.saved : plan.workspace);
    if (windows > 1) {
        plan.segments = static_cast<int32_t>(windows), plan.segment_tokens = slots * kChunk;
        add_window_ends(request, caps, slots, plan);
    }
    const int first = plan.step_count;
    if (!request.saved) plan_solve(request, caps, slots, plan);
    plan.workspace.book(Region::chunk_gradients, chunks * BackwardTiles::kMatrixBytes);
    plan.workspace.book(Region::delta_gradients, chunks * BackwardTiles::kTokensBytes);
    plan.workspace.book(Region::head_gradients, chunks * BackwardTiles::kTokensBytes);  // dv, where the caller does not want it
    if (form.gate == FLASHQLA_GATE_RAW) plan.workspace.book(Region::partial_sums, static_cast<uint64_t>(all) * heads * 2 * sizeof(float));
    // A backward that reads what was saved must not look at the states themselves: a forward in place has overwritten them.
    if (request.state.read && !request.saved)
        plan.workspace.book(Region::first_carries, static_cast<uint64_t>(request.bounds.rows) * heads * kCarryParts * sizeof(float));
    if (plan.sm90.segments > 1) add_summaries(form, units, chains, plan);
    add_chain(plan, by_dtype(form, KernelId::gdn_chains_bf16, KernelId::gdn_chains_f16), 2 * chains * units * plan.sm90.segments);
    plan.add(sm90_step(by_dtype(form, KernelId::gdn_gradients_bf16, KernelId::gdn_gradients_f16),
                       std::min<int64_t>(slots * form.key_heads, caps.multiprocessors), GradientLayout::kThreads, GradientLayout::kBytes, true));
    if (windows > 1)
        for (int i = first; i < plan.step_count; i++) plan.steps[i].when = When::each_segment;
    if (form.gate == FLASHQLA_GATE_RAW)
        plan.add({KernelId::gdn_backward_sums, When::after, false, {static_cast<uint32_t>(form.value_heads), 1, 1}, BackwardLayout::kFinishThreads, 0});
}

}  // namespace

int64_t backward_windows(const Form& form, int64_t slots) {
    const int64_t each = std::max<int64_t>(1, slots_within_limit(form));
    return (slots + each - 1) / each;
}

const char* refuses_chunked_backward(const Request& request, const Caps& caps) {
    if (const char* why = refuses_form(request, caps)) return why;
    const Bounds& b = request.bounds;
    const Form& form = request.problem.form;
    if (!request.aligned_16_bytes) return "16-bit tensors and their strides must be multiples of 16 bytes, and strides not 0";
    if (const char* why = refuses_sm90_bounds(b)) return why;
    const int64_t slots = slots_of(b), windows = backward_windows(form, slots);
    if (windows > 1 && slots_within_limit(form) < kLeastWindow) return "few chunks of so many heads would take 8 GiB of workspace";
    if (windows > kMostWindows) return "it would go by too many segments of 8 GiB of workspace";
    return nullptr;
}

const char* refuses_context_parallel_backward(const Request& request, const Caps& caps) {
    if (const char* why = refuses_chunked_backward(request, caps)) return why;
    if (backward_windows(request.problem.form, slots_of(request.bounds)) > 1) return "what it keeps would take more than 8 GiB of workspace";
    return request.segments < 2 ? "rows and heads fill the card, or rows are short" : nullptr;
}

void plan_chunked_backward(const Request& request, const Caps& caps, Plan& plan) { plan_segments(request, caps, 1, plan); }

void plan_context_parallel_backward(const Request& request, const Caps& caps, Plan& plan) { plan_segments(request, caps, request.segments, plan); }

// With segments or without: of these there are only as many as fill the card with four blocks a unit, or, where S was saved, with two.
uint64_t most_hopper_backward_workspace(const Request& request, const Caps& caps) {
    if (refuses_form(request, caps)) return 0;
    const Form& form = request.problem.form;
    const int64_t slots = most_slots(request.bounds);
    return static_cast<uint64_t>(std::min(slots, slots_within_limit(form))) * bytes_of_slot(form) + kRounding + bytes_of_windows(form, slots) +
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
    if (backward_windows(asked.problem.form, slots_of(asked.bounds)) > 1) return 0;  // as much again, held between the calls
    // Rows so short that the portable backward is faster leave nothing worth keeping.
    if (engine == FLASHQLA_ENGINE_AUTO && portable_backward_cost(backward, caps) <= chunked_backward_cost(backward, caps)) return 0;
    Workspace saved;
    book_saved(asked.problem.form, slots_of(asked.bounds), saved);
    return saved.total_bytes();
}

}  // namespace fqla
