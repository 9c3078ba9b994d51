// The tensor-core engines of Hopper (kernels/sm90): which symbols, grids, segments and workspace.
#include <algorithm>

#include "cost.h"
#include "engines.h"
#include "row_grid.h"
#include "sm90_parts.h"

namespace fqla {
namespace {

constexpr int64_t kMatrixBytes = int64_t{kHeadDim} * kHeadDim * 4;
// Blocks of the solve below which a key head's value heads are spread over several: 2/8 8192 tokens 0.0196 ms with 258 blocks of four
// heads, 0.0226 with 1032 of one; 2/8 2048 tokens wants the spread (H100, 2026-11-23).
constexpr int64_t kSolveBlocksPerMultiprocessor2 = 3;  // in halves

// What no bounds, alignment or state options of a call change.
const char* refuses_form(const Request& request, const Caps& caps) {
    if (!caps.cuda) return "runs on CUDA handles";
    if (request.op != FLASHQLA_OP_FORWARD) return "computes the forward";
    if (const char* why = refuses_sm90_form(request.problem.form, caps)) return why;
    // One engine must serve rows of every length then, and only the recurrent one does that well for the shortest.
    if (request.problem.flags & FLASHQLA_PROBLEM_BATCH_INVARIANT) return "BATCH_INVARIANT takes the recurrent engine";
    return nullptr;
}

const char* refuses_call(const Request& request, const Caps& caps) {
    if (const char* why = refuses_form(request, caps)) return why;
    if (request.state.token_states)
        return request.saved ? "args.saved is given: states are then not stored after each token" : "per-token states are the recurrent engine's";
    if (!request.aligned_16_bytes)
        return request.saved ? "args.saved is given: q, k, v, out and their strides must then be multiples of 16 bytes, and strides not 0"
                             : "q, k, v, out and their strides must be multiples of 16 bytes, and strides not 0";
    return refuses_sm90_bounds(request.bounds);
}

bool records_fit(const Form& form, int64_t slots) { return slots <= static_cast<int64_t>(kWorkspaceLimit) / (int64_t{ChunkRecord::kBytes} * form.value_heads); }

uint64_t record_bytes(const Form& form, int64_t slots) { return static_cast<uint64_t>(slots) * static_cast<uint64_t>(form.value_heads) * ChunkRecord::kBytes; }

// The most value heads of a key head that one block takes without leaving the card short of blocks.
int64_t heads_per_solve_block(const Form& form, int64_t slots, const Caps& caps) {
    const int64_t per_key = form.value_heads / form.key_heads;
    int64_t heads = std::min<int64_t>(per_key, SolveLayout::kMaxHeads);
    const auto short_of_blocks = [&](int64_t h) { return 2 * slots * form.key_heads * (per_key / h) < kSolveBlocksPerMultiprocessor2 * caps.multiprocessors; };
    while (heads > 1 && (per_key % heads != 0 || short_of_blocks(heads))) heads--;
    return heads;
}

// What the wide kernel's blocks take in turn.
enum class Walk { rows, mixed_rows, stretches };

Step wide_step(const Request& request, int64_t units, const Caps& caps, Walk walk) {
    using Id = KernelId;
    constexpr Id kernels[2][2][3] = {{{Id::gdn_fused_bf16_v128, Id::gdn_fused_bf16_v128_mixed, Id::gdn_fused_bf16_v128_cut},
                                      {Id::gdn_fused_bf16_v128_l2, Id::gdn_fused_bf16_v128_l2_mixed, Id::gdn_fused_bf16_v128_l2_cut}},
                                     {{Id::gdn_fused_f16_v128, Id::gdn_fused_f16_v128_mixed, Id::gdn_fused_f16_v128_cut},
                                      {Id::gdn_fused_f16_v128_l2, Id::gdn_fused_f16_v128_l2_mixed, Id::gdn_fused_f16_v128_l2_cut}}};
    const Form& form = request.problem.form;
    const KernelId kernel = kernels[form.dtype == FLASHQLA_DTYPE_F16][form.qk_norm == FLASHQLA_NORM_L2][static_cast<int>(walk)];
    return sm90_step(kernel, std::min<int64_t>(units, std::max(1, caps.multiprocessors)), WideLayout::kThreads, WideLayout::kBytes, walk == Walk::stretches);
}

void add_forward(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t units = request.bounds.rows * form.value_heads * plan.sm90.segments;
    using Id = KernelId;
    using V64 = ForwardLayout<1, true>;
    using V128 = ForwardLayout<2, true>;
    using Saving = ForwardLayout<1, true, true>;
    if (request.saved) {
        plan.add(sm90_step(by_dtype(form, Id::gdn_forward_bf16_saving, Id::gdn_forward_f16_saving), 2 * units, Saving::kThreads, Saving::kBytes, true));
        return;
    }
    // Where most units may be of rows that are not served: as many blocks as the card takes, which take the others in turn.
    const bool mixed = request.long_rows > 0, v64 = 2 * request.engine_rows() * form.value_heads * plan.sm90.segments <= caps.multiprocessors;
    const int64_t parts = v64 ? 2 : 1, blocks = parts * (mixed ? std::min<int64_t>(units, std::max<int64_t>(1, caps.multiprocessors / parts)) : units);
    const KernelId one_a_block =
        v64 ? by_dtype(form, Id::gdn_forward_bf16_v64, Id::gdn_forward_f16_v64) : by_dtype(form, Id::gdn_forward_bf16_v128, Id::gdn_forward_f16_v128);
    const KernelId in_turn = v64 ? by_dtype(form, Id::gdn_forward_bf16_v64_mixed, Id::gdn_forward_f16_v64_mixed)
                                 : by_dtype(form, Id::gdn_forward_bf16_v128_mixed, Id::gdn_forward_f16_v128_mixed);
    plan.add(sm90_step(mixed ? in_turn : one_a_block, blocks, v64 ? V64::kThreads : V128::kThreads, v64 ? V64::kBytes : V128::kBytes, true));
}

// What both of the engines with records begin with.
void begin(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t slots = slots_of(request.bounds);
    if (request.saved)
        book_saved(form, slots, plan.saved);
    else
        plan.workspace.book(Region::records, record_bytes(form, slots));
    plan_solve(request, caps, slots, plan);
}

}  // namespace

void plan_solve(const Request& request, const Caps& caps, int64_t slots, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t busy = request.long_rows ? request.bounds.tokens / kChunk + request.long_rows : slots;
    plan.sm90.heads_per_block = static_cast<int32_t>(heads_per_solve_block(form, busy, caps));
    plan.add(sm90_step(by_dtype(form, KernelId::gdn_solve_bf16, KernelId::gdn_solve_f16), slots * form.value_heads / plan.sm90.heads_per_block,
                       SolveLayout::kThreads, SolveLayout::kBytes, false));
}

const char* refuses_chunked(const Request& request, const Caps& caps) {
    if (const char* why = refuses_call(request, caps)) return why;
    const int64_t slots = slots_of(request.bounds);
    if (!records_fit(request.problem.form, slots)) return "its chunk records would take more than 8 GiB of workspace";
    if (slots * request.problem.form.value_heads > kMostGridX) return "its grid is too large";
    return nullptr;
}

const char* refuses_fused(const Request& request, const Caps& caps) {
    if (const char* why = refuses_call(request, caps)) return why;
    if (request.saved) return "saves nothing for a backward";
    return request.bounds.rows * request.problem.form.value_heads > INT32_MAX - caps.multiprocessors ? "its list of rows and heads is too long" : nullptr;
}

// What merges in half precision need (fused_trio.cu, fused_wide.cu).
bool keys_are_bounded(const Request& request) {
    const Form& form = request.problem.form;
    return (form.qk_norm != FLASHQLA_NORM_NONE && form.beta_scale <= 2) || (request.problem.flags & FLASHQLA_PROBLEM_KEYS_BOUNDED);
}

// Clusters of three blocks that are on the card at once: what lies over in each of its parts cannot be used. An H100 with 132 multiprocessors had 39
// (2026-11-23), which is all but 15; a quarter of the number is safe to reckon with.
static int most_trios(const Caps& caps) { return caps.multiprocessors / 4; }

// The pair takes any keys; for bounded ones the most blocks a head that are on the card at once.
int fused_blocks(const Request& request, const Caps& caps) {
    const int64_t units = request.engine_rows() * request.problem.form.value_heads;
    if (!keys_are_bounded(request)) return 2;
    return units <= most_trios(caps) ? 3 : 2 * units <= caps.multiprocessors ? 2 : 1;
}

// Mixed batches: one cluster finds the rows to cut, 512 a step, and each slot has a block and a word a head.
constexpr int64_t kMostRowsBesideCut = 1 << 16;

const char* refuses_context_parallel(const Request& request, const Caps& caps) {
    if (const char* why = refuses_call(request, caps)) return why;
    if (request.long_rows && request.bounds.rows > kMostRowsBesideCut) return "so many rows of few tokens are not looked through for those to cut";
    if (request.cut || request.segments >= 2) return nullptr;
    if (request.long_rows) return "beside rows of few tokens only a cut serves";
    const char* why = keys_are_bounded(request) && !request.saved ? nullptr : refuses_chunked(request, caps);
    return why ? why : "rows and heads fill the card, or rows are of one chunk";
}

void plan_chunked(const Request& request, const Caps& caps, Plan& plan) {
    set_segments(request.bounds, 1, plan);
    begin(request, caps, plan);
    add_forward(request, caps, plan);
}

// Without programmatic launch, behind a cut too: clusters of three that start as other blocks leave are not all on the card at once.
static void add_fused(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t units = request.bounds.rows * form.value_heads;
    const int blocks = fused_blocks(request, caps);
    const bool mixed = request.long_rows > 0;
    if (blocks == 1) {
        plan.add(wide_step(request, units, caps, mixed ? Walk::mixed_rows : Walk::rows));
    } else if (blocks == 3) {
        const int64_t clusters = std::min<int64_t>(units, most_trios(caps));
        const KernelId kernel = form.qk_norm == FLASHQLA_NORM_L2 ? by_dtype(form, KernelId::gdn_fused_bf16_trio_l2, KernelId::gdn_fused_f16_trio_l2)
                                                                 : by_dtype(form, KernelId::gdn_fused_bf16_trio, KernelId::gdn_fused_f16_trio);
        plan.add(sm90_step(kernel, TrioLayout::kBlocks * clusters, TrioLayout::kThreads, TrioLayout::kBytes, false));
    } else {
        const int64_t clusters = std::min<int64_t>(units, std::max(1, caps.multiprocessors / 2));
        const KernelId kernel = mixed ? by_dtype(form, KernelId::gdn_fused_bf16_v64_mixed, KernelId::gdn_fused_f16_v64_mixed)
                                      : by_dtype(form, KernelId::gdn_fused_bf16_v64, KernelId::gdn_fused_f16_v64);
        plan.add(sm90_step(kernel, 2 * clusters, PairLayout::kThreads, PairLayout::kBytes, false));
    }
}

void plan_fused(const Request& request, const Caps& caps, Plan& plan) {
    set_segments(request.bounds, 1, plan);
    add_fused(request, caps, plan);
}

// So that a fused kernel of two or three blocks a head can take what stays uncut, and the lists have room.
bool fits_cut(int64_t units, const Caps& caps) {
    return 2 * units <= caps.multiprocessors && units <= kMostCutUnits && kCutPasses * (caps.multiprocessors / 2) <= kMostSummaries &&
           kCutWaves * caps.multiprocessors <= kMostStretches;
}

// Matrices that a cut has states and maps of: copies of what rows start from, then all summaries.
static int64_t cut_matrices(int64_t units, const Caps& caps) { return units + kCutPasses * (caps.multiprocessors / 2); }

// All steps are launched, whatever the gates will say: those that find nothing to do end at once.
static void plan_cut(const Request& request, const Caps& caps, Plan& plan) {
    const Form& form = request.problem.form;
    const int64_t units = request.engine_rows() * form.value_heads, slots = slots_of(request.bounds), pairs = std::max(1, caps.multiprocessors / 2);
    set_segments(request.bounds, 1, plan);
    plan.sm90.cut_costs = cut_costs(request, caps);
    plan.sm90.cut_units = static_cast<int32_t>(units);
    plan.sm90.cut_blocks = caps.multiprocessors;
    plan.sm90.most_warm = most_warm_chunks(request);
    plan.sm90.approximate = (request.problem.flags & FLASHQLA_PROBLEM_APPROXIMATE_WARMUP) != 0;
    for (const Region r : {Region::segment_states, Region::segment_maps})
        plan.workspace.book(r, static_cast<uint64_t>(cut_matrices(units, caps) * kMatrixBytes));
    plan.workspace.book(Region::gate_sums, static_cast<uint64_t>(slots * form.value_heads * 4));
    plan.workspace.book(Region::cut, sizeof(Cut));
    plan.add(sm90_step(KernelId::gdn_cut_gates, slots + (request.state.read ? 2 * units : 0), kCutGatesThreads, 0, false));
    plan.add(sm90_step(KernelId::gdn_cut, kCutBlocks, kCutThreads, kCutBytes, true));
    plan.add(sm90_step(by_dtype(form, KernelId::gdn_fused_summary_bf16, KernelId::gdn_fused_summary_f16), 2 * pairs, WideLayout::kThreads,
                       WideLayout::kSummaryBytes, true));
    const int64_t few = StitchLayout::few_chains(caps.multiprocessors) * (kHeadDim / StitchLayout::kFewRows);
    plan.add(sm90_step(KernelId::gdn_stitch, std::max(few, units * (kHeadDim / StitchLayout::kRows)), StitchLayout::kThreads, StitchLayout::kBytes, true));
    plan.add(wide_step(request, caps.multiprocessors, caps, Walk::stretches));
    add_fused(request, caps, plan);
}

void plan_context_parallel(const Request& request, const Caps& caps, Plan& plan) {
    if (request.cut) return plan_cut(request, caps, plan);
    const Form& form = request.problem.form;
    set_segments(request.bounds, request.segments, plan);
    const int64_t segments = plan.sm90.segments, units = request.bounds.rows * form.value_heads;
    begin(request, caps, plan);
    plan.workspace.book(Region::segment_states, static_cast<uint64_t>(units * segments * kMatrixBytes));
    plan.workspace.book(Region::segment_maps, static_cast<uint64_t>(units * segments * kMatrixBytes));
    using Summary = ForwardLayout<2, false>;
    plan.add(
        sm90_step(by_dtype(form, KernelId::gdn_summary_bf16, KernelId::gdn_summary_f16), units * (segments - 1) * 2, Summary::kThreads, Summary::kBytes, true));
    if (segments >= 3) plan.add(sm90_step(KernelId::gdn_stitch, units * (kHeadDim / StitchLayout::kRows), StitchLayout::kThreads, StitchLayout::kBytes, true));
    add_forward(request, caps, plan);
}

uint64_t most_chunked_workspace(const Request& request, const Caps& caps) {
    if (refuses_form(request, caps)) return 0;
    const Form& form = request.problem.form;
    const int64_t most = static_cast<int64_t>(kWorkspaceLimit) / (int64_t{ChunkRecord::kBytes} * form.value_heads);
    return record_bytes(form, std::min(most, most_slots(request.bounds))) + Workspace::kAlignment;
}

// Segments are only as many as leave each (row, segment, head) two blocks of the card.
uint64_t most_context_parallel_workspace(const Request& request, const Caps& caps) {
    const uint64_t records = most_chunked_workspace(request, caps);
    const Bounds& b = request.bounds;
    const int64_t chunks = std::min<int64_t>((b.max_tokens + kChunk - 1) / kChunk, caps.multiprocessors), heads = request.problem.form.value_heads;
    if (!records || chunks < 2) return 0;
    const auto segmented = static_cast<uint64_t>(std::min(b.rows * heads * chunks, int64_t{caps.multiprocessors} / 2) * kMatrixBytes * 2);
    if (!keys_are_bounded(request) || !fits_cut(heads, caps)) return records + segmented;
    const int64_t units = std::min<int64_t>(b.rows * heads, std::min(kMostCutUnits, caps.multiprocessors / 2));
    const auto cut = static_cast<uint64_t>(2 * cut_matrices(units, caps) * kMatrixBytes + most_slots(b) * heads * 4) + sizeof(Cut) + 3 * Workspace::kAlignment;
    return std::max(records + segmented, cut);
}

}  // namespace fqla
