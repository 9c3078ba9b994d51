#include "kernel_args.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "row_grid.h"
#include "sm90_backward_params.h"

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

// The call as a step has it: with the rows that are its own.
Forward call_of(const Step& step, const Plan& plan, Forward call) {
    if (!plan.short_tokens) return call;
    if (from_source(step, "recurrent"))
        call.rows.most = plan.short_tokens;
    else
        call.rows.least = plan.short_tokens + 1;
    return call;
}

Divisor key_head_divisor(const Form& form) {
    return divisor_of(form.head_map == FLASHQLA_HEADS_TILED ? form.key_heads : form.value_heads / form.key_heads, form.value_heads);
}

RecurrentParams recurrent_params(const Step& step, const Forward& call) {
    const Form& form = call.form;
    const int32_t tiles = static_cast<int32_t>(step.grid[0] / static_cast<uint32_t>(form.value_heads));
    return {call, divisor_of(tiles, step.grid[0]), key_head_divisor(form), !large_states(form, call.rows.count), 0};
}

DecodeView decode_view(const View& x) {
    const int64_t bytes = element_bytes(x.dtype);
    return {static_cast<char*>(x.data), static_cast<uint32_t>(x.row * bytes), static_cast<uint32_t>(x.head * bytes), x.dtype, 0};
}

DecodePool decode_pool(const Pool& pool, const Form& form) {
    const auto slots = static_cast<uint32_t>(std::min(pool.slots, int64_t{1} << 31));  // a table's entries are below it
    return {static_cast<char*>(pool.data), pool.table, pool.slot_stride * element_bytes(form.state_dtype), slots, 0};
}

DecodeParams decode_params(const Forward& call) {
    const Form& form = call.form;
    const bool raw = form.gate == FLASHQLA_GATE_RAW;
    View none = call.in.gate;
    none.row = none.head = 0;
    return {form,
            decode_view(call.in.q),
            decode_view(call.in.k),
            decode_view(call.in.v),
            decode_view(call.in.gate),
            decode_view(call.in.beta),
            decode_view(raw ? call.in.a_log : none),
            decode_view(raw ? call.in.dt_bias : none),
            decode_view(call.out),
            decode_pool(call.state.read, form),
            decode_pool(call.state.write, form),
            key_head_divisor(form),
            static_cast<float>(form.scale),
            static_cast<float>(form.beta_scale),
            static_cast<float>(form.eps),
            !large_states(form, call.rows.count),
            0,
            0};
}

ShortParams short_params(const Forward& call) {
    const auto step = [](const View& x) { return static_cast<uint32_t>(x.token * element_bytes(x.dtype)); };
    const Inputs& in = call.in;
    const StateIo& state = call.state;
    return {decode_params(call), state.token_slots, state.token_width, step(in.q),     step(in.k),
            step(in.v),          step(in.gate),     step(in.beta),     step(call.out), static_cast<int32_t>(call.rows.max_tokens),
            state.store_final};
}

BackwardParams backward_params(const Step& step, int32_t segment, const Plan& plan, const Backward& call, const Memory& memory) {
    const Rows& rows = call.rows;
    const int64_t slots = plan.segment_tokens / kBackwardChunk;
    const int64_t tokens = rows.offsets ? rows.tokens : rows.count * rows.max_tokens;
    const bool find_segments = step.when == When::before;
    BackwardParams p{};
    p.call = call;
    p.chunk_states = plan.at<float>(Region::chunk_states, memory);
    p.chunk_gradients = plan.at<float>(Region::chunk_gradients, memory);
    p.residuals = plan.at<float>(Region::residuals, memory);
    p.delta_gradients = plan.at<float>(Region::delta_gradients, memory);
    p.head_dq = plan.at<float>(Region::head_gradients, memory);
    p.head_dk = p.head_dq + plan.workspace.bytes(Region::head_gradients) / sizeof(float) / 2;
    p.segment_states = plan.at<float>(Region::segment_states, memory);
    p.carried_gradient = plan.at<float>(Region::state_gradient, memory);
    p.partial_sums = plan.at<float>(Region::partial_sums, memory);
    p.first_slot = segment * slots;
    p.slots = slots;
    p.all_slots = backward_slots(tokens, rows.count);
    p.segment = segment;
    p.segments = plan.segments;
    p.tiles = static_cast<int32_t>(step.grid[0] / static_cast<uint32_t>(call.form.value_heads) / (find_segments ? 1 : 2));  // read by the scans
    p.find_segments = find_segments;
    return p;
}

int64_t slots_of(const Rows& rows) { return chunk_slots(rows.count, rows.tokens, rows.max_tokens, rows.offsets != nullptr); }

// The slots of a Hopper backward's segment: all of them, if it is the only one.
SlotWindow window_of(const Plan& plan, const Rows& rows, int32_t segment) {
    const int64_t all = slots_of(rows), each = plan.segments > 1 ? plan.segment_tokens / kChunk : all;
    return {segment * each, std::min((segment + 1) * each, all)};
}
// A region of so many bytes a slot of the window, moved so that slots are counted from the call's first on.
template <class T>
T* by_slot(T* region, const SlotWindow& window, int64_t bytes) {
    return region ? reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(region) - static_cast<uintptr_t>(window.first * bytes)) : nullptr;
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

Sm90SolveParams solve_params(const Plan& plan, const Forward& call, const TensorMaps& maps, const Memory& memory, const SlotWindow& window, bool crossing) {
    const Form& form = call.form;
    return {maps.q,
            maps.k,
            call.rows,
            solve_forms(call),
            plan.at<void>(Region::records, memory),
            form.key_heads,
            form.value_heads,
            plan.sm90.heads_per_block,
            form.head_map,
            window,
            crossing};
}

Sm90ForwardParams sm90_forward_params(const Plan& plan, const Forward& call, const TensorMaps& maps, const Memory& memory) {
    const Form& form = call.form;
    Sm90ForwardParams p{};
    p.q = maps.q;
    p.k = maps.k;
    p.v = maps.v;
    p.o = maps.out;
    p.rows = call.rows;
    p.state = call.state;
    p.out = call.out;
    p.records = plan.at<void>(Region::records, memory);
    p.segment_states = plan.at<float>(Region::segment_states, memory);
    p.segment_maps = plan.at<float>(Region::segment_maps, memory);
    p.states = plan.at<void>(Region::chunk_states, memory);
    p.updates = plan.at<void>(Region::residuals, memory);
    p.key_heads = form.key_heads;
    p.value_heads = form.value_heads;
    p.head_map = form.head_map;
    p.state_layout = form.state_layout;
    p.state_dtype = form.state_dtype;
    p.segments = plan.sm90.segments;
    p.segment_chunks = plan.sm90.segment_chunks;
    p.cut = plan.at<Cut>(Region::cut, memory);
    return p;
}

// What a state may have decayed to and count as forgotten; see flashqla.h, APPROXIMATE_WARMUP.
float forgotten(bool approximate) { return static_cast<float>((approximate ? kApproximateLogDecay : kMinLogGate) / std::log(2.)); }

Sm90CutParams cut_params(const Plan& plan, const Forward& call, const TensorMaps& maps, const Memory& memory) {
    Sm90CutParams p{};
    p.forward = sm90_forward_params(plan, call, maps, memory);
    p.forms = solve_forms(call);
    p.gate_sums = plan.at<float>(Region::gate_sums, memory);
    p.result = plan.at<Cut>(Region::cut, memory);
    p.slots = slots_of(call.rows);
    p.costs = plan.sm90.cut_costs;
    p.blocks = plan.sm90.cut_blocks;
    p.most_warm = plan.sm90.most_warm;
    p.forgotten = forgotten(plan.sm90.approximate);
    p.units = plan.sm90.cut_units;
    return p;
}

Sm90StitchParams stitch_params(const Plan& plan, const Memory& memory) {
    return {plan.at<float>(Region::segment_states, memory), plan.at<float>(Region::segment_maps, memory), plan.at<Cut>(Region::cut, memory), plan.sm90.segments,
            StitchLayout::few_chains(plan.sm90.cut_blocks)};
}

// Betas below this (in size) leave nothing to divide by: dv = beta dX and U = beta e are 16-bit. f16 loses digits below 6e-5, bf16 only where f32 does.
float small_beta(const Form& form) { return form.dtype == FLASHQLA_DTYPE_F16 ? 0x1p-8f : 1e-14f; }

// F and B hold both norms of their pair, which at common norms would cost f16 two digits of its range.
float score_scale(const Form& form) { return form.qk_norm == FLASHQLA_NORM_L2 ? 64.f : 1.f; }

// What the Hopper backward shares with the forward, dv in the place of out.
Forward forward_of(const Backward& call) { return {call.form, call.rows, call.state, call.in, call.grad.v}; }

// What the chains leave for the gradients, by slot. dv is the caller's tensor, or tiles in the workspace.
struct ChainTiles {
    void *records, *states, *updates, *gradients, *small_rows, *dv;
};
ChainTiles chain_tiles(const Plan& plan, const Backward& call, const SlotWindow& window, const Memory& memory) {
    const int64_t heads = call.form.value_heads, matrix = heads * BackwardTiles::kMatrixBytes, tokens = heads * BackwardTiles::kTokensBytes;
    const auto at = [&](Region region, int64_t bytes) { return by_slot(plan.at<void>(region, memory), window, bytes); };
    return {at(Region::records, heads * ChunkRecord::kBytes),
            at(Region::chunk_states, matrix),
            at(Region::residuals, tokens),
            at(Region::chunk_gradients, matrix),
            at(Region::delta_gradients, tokens),
            call.grad.v.data ? nullptr : at(Region::head_gradients, tokens)};
}

Sm90ChainParams chain_params(int32_t segment, const Plan& plan, const Backward& call, const BackwardMaps& maps, const Memory& memory) {
    Sm90ChainParams p{};
    p.window = window_of(plan, call.rows, segment);
    p.windows = plan.segments;
    p.number = segment;
    p.grid_rows = plan.sm90.grid_rows;
    const ChainTiles tiles = chain_tiles(plan, call, p.window, memory);
    p.forward = sm90_forward_params(plan, forward_of(call), {maps.q, maps.k, maps.v, maps.dv}, memory);
    p.forward.records = tiles.records;
    p.forward.states = tiles.states;
    p.forward.updates = tiles.updates;
    p.d_out = maps.d_out;
    p.d_final = call.d_final;
    p.d_initial = call.grad.initial;
    p.gradients = tiles.gradients;
    p.small_rows = tiles.small_rows;
    p.dv_tiles = tiles.dv;
    p.segment_states = plan.at<float>(Region::segment_states, memory);
    p.segment_gradients = plan.at<float>(Region::state_gradient, memory);
    p.segment_maps = plan.at<float>(Region::segment_maps, memory);
    p.first_carries = plan.at<float>(Region::first_carries, memory);
    p.small_beta = small_beta(call.form);
    return p;
}

Sm90ChainStitchParams chain_stitch_params(const Plan& plan, const Backward& call, const Memory& memory) {
    return {plan.at<float>(Region::segment_states, memory), plan.at<float>(Region::state_gradient, memory), plan.at<float>(Region::segment_maps, memory),
            plan.sm90.segments, call.rows.count * call.form.value_heads};
}

Sm90GradientParams gradient_params(int32_t segment, const Plan& plan, const Backward& call, const BackwardMaps& maps, const Memory& memory) {
    Sm90GradientParams p{};
    p.window = window_of(plan, call.rows, segment);
    const ChainTiles tiles = chain_tiles(plan, call, p.window, memory);
    p.q = maps.q, p.k = maps.k, p.d_out = maps.d_out, p.dv = maps.dv;
    p.call = call;
    p.states = tiles.states;
    p.gradients = tiles.gradients;
    p.updates = tiles.updates;
    p.small_rows = tiles.small_rows;
    p.dv_tiles = tiles.dv;
    p.first_carries = plan.at<float>(Region::first_carries, memory);
    p.partial_sums = plan.at<float>(Region::partial_sums, memory);
    p.up = score_scale(call.form);
    p.down = 1 / p.up;
    p.scale_up = static_cast<float>(call.form.scale) * p.up;
    p.heads = call.form.value_heads / call.form.key_heads;
    p.small_beta = small_beta(call.form);
    return p;
}

// gdn_backward_sums behind the Hopper kernels: a partial sum a chunk slot.
BackwardParams sums_params(const Plan& plan, const Backward& call, const Memory& memory) {
    BackwardParams p{};
    p.call = call;
    p.partial_sums = plan.at<float>(Region::partial_sums, memory);
    p.all_slots = slots_of(call.rows);
    return p;
}

}  // namespace

size_t make_kernel_args(const Step& step, const Plan& plan, const Forward& all, const TensorMaps& maps, const Memory& memory, KernelArgs& out) {
    const Forward call = call_of(step, plan, all);
    if (from_source(step, "decode")) return put(decode_params(call), out);
    if (from_source(step, "short_rows")) return put(short_params(call), out);
    if (from_source(step, "recurrent")) return put(recurrent_params(step, call), out);
    if (from_source(step, "solve")) return put(solve_params(plan, call, maps, memory, {0, slots_of(call.rows)}, false), out);
    if (from_source(step, "forward")) return put(sm90_forward_params(plan, call, maps, memory), out);
    if (from_source(step, "fused") || from_source(step, "fused_trio") || from_source(step, "fused_wide"))
        return put(Sm90FusedParams{sm90_forward_params(plan, call, maps, memory), solve_forms(call)}, out);
    if (from_source(step, "cut")) return put(cut_params(plan, call, maps, memory), out);
    if (from_source(step, "segment")) return put(stitch_params(plan, memory), out);
    return 0;
}

size_t make_kernel_args(const Step& step, int32_t segment, const Plan& plan, const Backward& call, const BackwardMaps& maps, const Memory& memory,
                        KernelArgs& out) {
    if (from_source(step, "backward"))
        return put(plan.engine == FLASHQLA_ENGINE_RECURRENT ? backward_params(step, segment, plan, call, memory) : sums_params(plan, call, memory), out);
    if (from_source(step, "solve"))
        return put(
            solve_params(plan, forward_of(call), {maps.q, maps.k, {}, {}}, memory, window_of(plan, call.rows, segment), step.when == When::each_but_last), out);
    if (from_source(step, "backward_chains")) return put(chain_params(segment, plan, call, maps, memory), out);
    if (from_source(step, "backward_segments")) return put(chain_stitch_params(plan, call, memory), out);
    if (from_source(step, "backward_gradients")) return put(gradient_params(segment, plan, call, maps, memory), out);
    return 0;
}

}  // namespace fqla
