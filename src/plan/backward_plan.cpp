// The portable backward's launches and workspace, cut into segments of chunk slots where it would grow too large.
#include <algorithm>
#include <cstdio>

#include "kernel_params.h"
#include "plan.h"
#include "row_grid.h"

namespace fqla {
namespace {

using Layout = BackwardLayout;

constexpr int64_t kMostSegments = 4096;  // each is three launches: beyond it a call is a mistake

// f32 bytes that one chunk slot takes in the regions that hold a segment.
uint64_t bytes_of_slot(const Form& form) {
    const uint64_t k = form.key_dim, v = form.value_dim;
    return sizeof(float) * form.value_heads * (2 * k * v + kBackwardChunk * 2 * (k + v));
}

void book_workspace(const Form& form, int64_t all_slots, int64_t slots, int32_t segments, Workspace& workspace) {
    const uint64_t heads = sizeof(float) * static_cast<uint64_t>(form.value_heads), matrix = heads * form.key_dim * form.value_dim;
    const uint64_t tokens = static_cast<uint64_t>(slots) * kBackwardChunk;
    workspace.book(Region::chunk_states, slots * matrix);
    workspace.book(Region::chunk_gradients, slots * matrix);
    workspace.book(Region::residuals, tokens * heads * form.value_dim);
    workspace.book(Region::delta_gradients, tokens * heads * form.value_dim);
    workspace.book(Region::head_gradients, tokens * heads * form.key_dim * 2);  // dq, then dk
    if (segments > 1) {
        workspace.book(Region::segment_states, segments * matrix);
        workspace.book(Region::state_gradient, 2 * matrix);
    }
    if (form.gate == FLASHQLA_GATE_RAW) workspace.book(Region::partial_sums, all_slots * heads * 2);
}

}  // namespace

void plan_backward_portable(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    const Bounds& bounds = request.bounds;
    if (bounds.rows == 0) return;

    const bool small = form.key_dim <= Layout::kSmallKeyDim;
    const RowGrid grid = row_grid(2 * bounds.rows, form.value_heads, form.value_dim, Layout::kScanColumns, caps.multiprocessors, Layout::kScanWarps);
    const int64_t low = std::min(bounds.rows, kMostGridYZ), high = (bounds.rows + low - 1) / low;
    if (form.value_heads > kMostGridX / (2 * grid.tiles)) {
        plan.status = FLASHQLA_STATUS_UNSUPPORTED;
        std::snprintf(plan.reason, sizeof plan.reason, "problem.value_heads = %d: the backward's grid takes at most %lld", form.value_heads,
                      static_cast<long long>(kMostGridX / (2 * grid.tiles)));
        return;
    }

    // A segment has as many slots as the limit allows, also where fewer would do for the last one: workspace must not fall as bounds grow.
    const int64_t all_slots = backward_slots(bounds.offsets ? bounds.tokens : bounds.rows * bounds.max_tokens, bounds.rows);
    const int64_t most = std::min<int64_t>(static_cast<int64_t>(kWorkspaceLimit / bytes_of_slot(form)), kMostGridX / form.value_heads);
    const int64_t slots = std::max<int64_t>(1, std::min(all_slots, most));
    plan.segments = static_cast<int32_t>(std::min<int64_t>((all_slots + slots - 1) / slots, kMostSegments + 1));
    plan.segment_tokens = slots * kBackwardChunk;
    book_workspace(form, all_slots, slots, plan.segments, plan.workspace);
    const int64_t segments = all_slots / slots, segment_tokens = slots * kBackwardChunk;
    if (segments > kMostSegments) {
        plan.status = FLASHQLA_STATUS_UNSUPPORTED;
        std::snprintf(plan.reason, sizeof plan.reason, "sequences.tokens = %lld: the backward would take %lld segments of %lld tokens, at most %lld",
                      static_cast<long long>(bounds.tokens), static_cast<long long>(segments), static_cast<long long>(segment_tokens),
                      static_cast<long long>(kMostSegments));
        return;
    }

    const KernelId scan = small ? KernelId::gdn_backward_scan_128 : KernelId::gdn_backward_scan_256;
    const uint32_t blocks = static_cast<uint32_t>(form.value_heads * grid.tiles), threads = static_cast<uint32_t>(grid.warps * 32);
    const uint32_t y = static_cast<uint32_t>(low), z = static_cast<uint32_t>(high);
    if (plan.segments > 1) plan.add({scan, When::before, false, {blocks, y, z}, threads, 0});
    plan.add({scan, When::each_segment, false, {2 * blocks, y, z}, threads, 0});
    plan.add({KernelId::gdn_backward_chunks, When::each_segment, false, {static_cast<uint32_t>(slots * form.value_heads), 1, 1}, Layout::kChunkThreads, 0});
    plan.add({KernelId::gdn_backward_heads, When::each_segment, false, {static_cast<uint32_t>(slots * form.key_heads), 1, 1}, Layout::kFinishThreads, 0});
    if (form.gate == FLASHQLA_GATE_RAW)
        plan.add({KernelId::gdn_backward_sums, When::after, false, {static_cast<uint32_t>(form.value_heads), 1, 1}, Layout::kFinishThreads, 0});
}

}  // namespace fqla
