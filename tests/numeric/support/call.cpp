// Placing a sample: structs, tensors, pools, tables, workspace.
#include "call.h"

#include <algorithm>
#include <cstring>

namespace numeric {
namespace {

template <class Int>
void put_ints(Buffer* buffer, const std::vector<Int>& from, bool wide = false) {
    if (!buffer) return;
    for (size_t i = 0; i < from.size(); i++) {
        const auto narrow = static_cast<int32_t>(from[i]);
        const auto full = static_cast<int64_t>(from[i]);
        std::memcpy(buffer->host() + i * (wide ? 8 : 4), wide ? static_cast<const void*>(&full) : &narrow, wide ? 8 : 4);
    }
    buffer->upload();
}

}  // namespace

Call::Call(const Sample& given, const Options& options) : sample_(given), options_(options) {
    const Case& c = sample_.c;
    if (!options_.handle) options_.handle = session().handle;
    preferred_ = options_.engine == FLASHQLA_ENGINE_AUTO && session().engine != FLASHQLA_ENGINE_AUTO;
    if (preferred_) options_.engine = session().engine;
    flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN);
    problem.key_heads = c.key_heads, problem.value_heads = c.value_heads;
    problem.key_dim = c.key_dim, problem.value_dim = c.value_dim;
    problem.dtype = c.dtype, problem.state_dtype = c.state_dtype;
    problem.head_map = c.head_map, problem.gate = c.gate, problem.beta = c.beta, problem.qk_norm = c.qk_norm, problem.state_layout = c.state_layout;
    problem.engine = options_.engine, problem.flags = c.flags;
    problem.beta_scale = c.beta_scale, problem.scale = c.scale, problem.eps = c.eps;
    flashqla_sequences_init(&sequences, sizeof sequences);
    sequences.rows = static_cast<int32_t>(c.rows());
    sequences.tokens = sample_.tokens;
    sequences.max_tokens = c.tight_max_tokens ? c.longest() : 0;
    flashqla_state_init(&state, sizeof state);
    flashqla_forward_args_init(&forward_, sizeof forward_);
    flashqla_backward_args_init(&backward_, sizeof backward_);
    add_tables();
    add_states();
    add_tensors();
    add_workspace();
    refill(given);
}

Buffer* Call::add_buffer(int64_t bytes, bool poison) {
    buffers_.push_back(std::make_unique<Buffer>(static_cast<size_t>(bytes), poison && options_.poison ? options_.poison + buffers_.size() : 0));
    return buffers_.back().get();
}

bool Call::is_wanted(const char* name) const {
    if (!std::strcmp(name, "d_final")) return options_.d_final;
    if (options_.wanted.empty() || name[0] != 'd' || !std::strcmp(name, "d_out") || !std::strcmp(name, "dt_bias")) return true;
    for (const char* w : options_.wanted)
        if (!std::strcmp(w, name)) return true;
    return false;
}

void Call::add(const char* name, int32_t dtype, Layout x, flashqla_tensor& view, bool output, Buffer* buffer) {
    if (!is_wanted(name)) return;
    if (!buffer) buffer = add_buffer(x.elements * dtype_bytes(dtype), output);
    const Repeat r = repeat_of(sample_.c, name);
    if (r.row) x.row = 0;
    if (r.token) x.token = 0;
    if (r.head) x.head = 0;
    view.data = buffer->data() + x.base * dtype_bytes(dtype);
    view.dtype = dtype;
    const bool states = !std::strcmp(name, "d_final") || !std::strcmp(name, "d_initial");
    if (!x.packed) view.stride_row = x.row, view.stride_token = states ? 0 : x.token, view.stride_head = x.head;
    tensors_.push_back({name, dtype, x, buffer, &view, output, states});
}

void Call::add_group(const std::vector<const char*>& names, int32_t dtype, const std::vector<Layout>& shapes, const std::vector<flashqla_tensor*>& views,
                     bool output) {
    std::vector<Layout> layouts = shapes;
    std::vector<Layout*> group;
    for (Layout& x : layouts) group.push_back(&x);
    const int64_t shared = lay_out(sample_.c.strides, group);
    Buffer* buffer = shared ? add_buffer(shared * dtype_bytes(dtype), output) : nullptr;
    for (size_t i = 0; i < names.size(); i++) add(names[i], dtype, layouts[i], *views[i], output, buffer);
}

void Call::add_tensors() {
    const Case& c = sample_.c;
    const Layout keys = shape_of(c, sample_.tokens, c.key_heads, c.key_dim), values = shape_of(c, sample_.tokens, c.value_heads, c.value_dim),
                 scalars = shape_of(c, sample_.tokens, c.value_heads, 1);
    Layout per_head;
    per_head.tokens = 1, per_head.heads = c.value_heads, per_head.head = c.strides == Strides::padded ? 2 : 1;
    per_head.elements = per_head.heads * per_head.head;
    per_head.packed = per_head.head == 1;
    const bool raw = c.gate == FLASHQLA_GATE_RAW;
    const auto add_inputs = [&](auto& a) {
        add_group({"q", "k", "v"}, c.dtype, {keys, keys, values}, {&a.q, &a.k, &a.v}, false);
        add_group({"gate", "beta"}, c.gate_dtype, {scalars, scalars}, {&a.gate, &a.beta}, false);
        if (!raw) return;
        add("A_log", c.gate_dtype, per_head, a.A_log, false);
        add("dt_bias", c.gate_dtype, per_head, a.dt_bias, false);
    };
    if (!backward()) {
        add_inputs(forward_);
        return add_group({"out"}, c.dtype, {values}, {&forward_.out}, true);
    }
    flashqla_backward_args& a = backward_;
    add_inputs(a);
    add_group({"d_out"}, c.dtype, {values}, {&a.d_out}, false);
    add("d_final", c.state_dtype, lay_out_states(c), a.d_final, false);
    add_group({"dq", "dk", "dv"}, c.dtype, {keys, keys, values}, {&a.dq, &a.dk, &a.dv}, true);
    add_group({"d_gate", "d_beta"}, c.gate_dtype, {scalars, scalars}, {&a.d_gate, &a.d_beta}, true);
    if (raw) {
        add("dA_log", c.gate_dtype, per_head, a.dA_log, true);
        add("ddt_bias", c.gate_dtype, per_head, a.ddt_bias, true);
    }
    add("d_initial", c.state_dtype, lay_out_states(c), a.d_initial, true);
}

void Call::add_states() {
    const Case& c = sample_.c;
    const bool wide = c.strides == Strides::padded || c.strides == Strides::projection;
    slot_stride_ = c.state_elements() + (wide ? 16 : c.strides == Strides::unaligned ? 1 : 0);
    const int64_t bytes = sample_.tables.slots * slot_stride_ * dtype_bytes(c.state_dtype);
    const bool plain = slot_stride_ == c.state_elements();
    if (c.reads_state()) {
        read_pool_ = add_buffer(bytes, false);
        state.read_data = read_pool_->data();
        state.read_slots_count = sample_.tables.slots;
        state.read_slot_stride = plain ? 0 : slot_stride_;
    }
    if (c.writes_state()) {
        write_pool_ = c.in_place() ? read_pool_ : add_buffer(bytes, true);
        state.write_data = write_pool_->data();
        state.write_slots_count = sample_.tables.slots;
        state.write_slot_stride = plain ? 0 : slot_stride_;
    }
    if (c.extra == Extra::no_final) state.flags = FLASHQLA_STATE_NO_FINAL;
}

void Call::add_tables() {
    const Case& c = sample_.c;
    const Tables& t = sample_.tables;
    const auto add_table = [&](const std::vector<int32_t>& table, const int32_t*& field) -> Buffer* {
        if (table.empty()) return nullptr;
        Buffer* buffer = add_buffer(static_cast<int64_t>(table.size()) * 4, false);
        field = reinterpret_cast<const int32_t*>(buffer->data());
        return buffer;
    };
    if (c.offsets != Offsets::none) {
        const bool wide = c.offsets == Offsets::i64;
        offsets_ = add_buffer(static_cast<int64_t>(t.offsets.size()) * (wide ? 8 : 4), false);
        sequences.offsets = offsets_->data();
        sequences.offsets_dtype = wide ? FLASHQLA_DTYPE_I64 : FLASHQLA_DTYPE_I32;
    }
    read_slots_ = add_table(t.read_slots, state.read_slots);
    write_slots_ = add_table(t.write_slots, state.write_slots);
    checkpoints_ = add_table(t.checkpoint_slots, state.checkpoint_slots);
    token_slots_ = add_table(t.token_slots, state.token_slots);
    accepted_ = add_table(t.accepted, state.accepted);
    if (checkpoints_) state.checkpoint_interval = c.checkpoint_interval, state.checkpoint_width = t.checkpoint_width;
    if (token_slots_) state.token_width = c.token_width;
}

void Call::add_workspace() {
    workspace_bytes_ = query().workspace_bytes;
    if (preferred_) {
        problem.engine = FLASHQLA_ENGINE_AUTO;
        workspace_bytes_ = std::max(workspace_bytes_, query().workspace_bytes);
        problem.engine = options_.engine;
    }
    buffers_.push_back(std::make_unique<Buffer>(static_cast<size_t>(workspace_bytes_), options_.poison, options_.bare_workspace || session().bare_workspace));
    workspace_ = buffers_.back().get();
    if (!options_.saved) return;
    forward_.saved = options_.saved->data();
    backward_.saved = options_.saved->data();
    forward_.saved_bytes = backward_.saved_bytes = options_.saved->bytes();
}

flashqla_query_info Call::query() const {
    flashqla_query_info info{};
    info.struct_size = sizeof info;
    if (flashqla_query(options_.handle, &problem, &sequences, &state, options_.op, &info)) info.status = FLASHQLA_STATUS_INTERNAL;
    return info;
}

std::string Call::explain() const {
    char text[8192] = "";
    if (flashqla_explain(options_.handle, &problem, &sequences, &state, options_.op, text, sizeof text, nullptr)) return flashqla_last_error();
    return text;
}

int32_t Call::run(void* stream) {
    const int32_t status = run_once(stream);
    if (status != FLASHQLA_STATUS_UNSUPPORTED || !preferred_) return status;
    problem.engine = FLASHQLA_ENGINE_AUTO;
    preferred_ = false;
    return run_once(stream);
}

int32_t Call::run_once(void* stream) {
    if (backward()) return flashqla_backward(options_.handle, &problem, &sequences, &state, &backward_, workspace_->data(), workspace_bytes_, stream);
    return flashqla_forward(options_.handle, &problem, &sequences, &state, &forward_, workspace_->data(), workspace_bytes_, stream);
}

int64_t Call::state_place(int64_t i, int64_t j) const {
    return sample_.c.state_layout == FLASHQLA_STATE_KV ? i * sample_.c.value_dim + j : j * sample_.c.key_dim + i;
}

void Call::refill(const Sample& with) {
    sample_ = with;
    const Tables& t = sample_.tables;
    put_ints(offsets_, t.offsets, sample_.c.offsets == Offsets::i64);
    put_ints(read_slots_, t.read_slots);
    put_ints(write_slots_, t.write_slots);
    put_ints(checkpoints_, t.checkpoint_slots);
    put_ints(token_slots_, t.token_slots);
    put_ints(accepted_, t.accepted);
    if (read_pool_) fill_pool(*read_pool_, sample_.values.pool);
    if (write_pool_ && write_pool_ != read_pool_) write_pool_->upload();
    for (const Tensor& tensor : tensors_)
        if (!tensor.output) fill_tensor(tensor, values_of(tensor.name));
    for (const Tensor& tensor : tensors_) tensor.buffer->upload();
    workspace_->upload();
    fqla_dev_sync(&session().device);  // copies from pageable memory may still be on their way, and other streams do not wait for them
}

}  // namespace numeric
