// Tensors of forward and backward: strides resolved, spans computed, overlaps refused.
#include "desc.h"
#include "spans.h"
#include "status.h"
#include "workspace.h"

namespace fqla {
namespace {

constexpr int32_t kInvalid = FLASHQLA_STATUS_INVALID_ARGUMENT, kOk = FLASHQLA_STATUS_OK;

// What a field holds. Tensors without tokens (A_log, d_final) have token extent 1.
struct Shape {
    int64_t rows, tokens, heads, dim;  // extents that the strides walk over
};

enum class Use : uint8_t { input, output };
enum class Kind : uint8_t { operand, scalar, state };  // dtype rule: the problem's; any float; a state's

struct Field {
    const char* name;
    Shape shape;
    Kind kind;
    Use use;
    bool required;
};

// Resolves and checks the tensors of one call, collecting the spans that must not meet.
class Reader {
public:
    Reader(const Form& form, const Rows& rows)
        : form_(form), rows_(rows), empty_(rows.count == 0 || rows.tokens == 0 || (!rows.offsets && rows.max_tokens == 0)) {}

    int32_t read(const flashqla_tensor& in, const Field& field, View& out);
    int32_t forbid(const flashqla_tensor& in, const char* name, const char* why) {
        return in.data ? fail(kInvalid, "%s.data = %p: must be NULL, %s", name, in.data, why) : kOk;
    }
    void add_pool(const char* name, const Pool& pool, Use use);
    void add_bytes(const char* name, const void* data, int64_t bytes, Use use) {
        if (data && bytes > 0) spans_.add(Span::plain(name, data, bytes), use == Use::output);
    }
    void add_table(const char* name, const void* data, int64_t bytes) { add_bytes(name, data, bytes, Use::input); }
    void add_state_tables(const StateIo& s) {
        add_table("state.read_slots", s.read.table, int64_t{rows_.count} * 4);
        add_table("state.write_slots", s.write.table, int64_t{rows_.count} * 4);
        add_table("state.checkpoint_slots", s.checkpoint_slots, int64_t{rows_.count} * 4 * s.checkpoint_width);
        add_table("state.token_slots", s.token_slots, int64_t{rows_.count} * 4 * s.token_width);
        add_table("state.accepted", s.accepted, int64_t{rows_.count} * 4);
        add_table("sequences.offsets", rows_.offsets, (int64_t{rows_.count} + 1) * (rows_.offsets_are_64bit ? 8 : 4));
    }
    int32_t check_overlaps() const { return spans_.check(); }
    void allow_in_place(const StateIo& s) { spans_.allow_same("state.write_data", "state.read_data", s.read.data && s.read.data == s.write.data); }
    bool aligned_16_bytes() const { return aligned_; }

    Shape per_token(int64_t heads, int64_t dim) const { return {rows_.offsets ? 1 : rows_.count, rows_.offsets ? rows_.tokens : rows_.max_tokens, heads, dim}; }
    Shape per_head() const { return {1, 1, form_.value_heads, 1}; }
    Shape per_row_state() const { return {rows_.count, 1, form_.value_heads, int64_t{form_.key_dim} * form_.value_dim}; }

private:
    int32_t read_dtype(const flashqla_tensor& in, const Field& field, View& out) const;
    int32_t read_strides(const flashqla_tensor& in, const Field& field, View& out) const;

    const Form& form_;
    const Rows& rows_;
    const bool empty_;
    bool aligned_ = true;
    SpanSet spans_;
};

int32_t Reader::read_dtype(const flashqla_tensor& in, const Field& field, View& out) const {
    const bool f64 = form_.dtype == FLASHQLA_DTYPE_F64;
    const int32_t usual = field.kind == Kind::operand ? form_.dtype : f64 ? FLASHQLA_DTYPE_F64 : FLASHQLA_DTYPE_F32;
    out.dtype = in.dtype == FLASHQLA_DTYPE_DEFAULT ? usual : in.dtype;
    bool good = out.dtype == usual;
    if (!f64 && field.kind == Kind::scalar) good = out.dtype >= FLASHQLA_DTYPE_F32 && out.dtype <= FLASHQLA_DTYPE_F16;
    if (!f64 && field.kind == Kind::state) good = out.dtype == FLASHQLA_DTYPE_F32 || out.dtype == FLASHQLA_DTYPE_BF16;
    if (good) return kOk;
    const char* rule = f64                           ? "must be F64 where problem.dtype is F64"
                       : field.kind == Kind::operand ? "must be problem.dtype"
                       : field.kind == Kind::state   ? "must be F32 or BF16"
                                                     : "must be F32, BF16 or F16";
    return fail(kInvalid, "%s.dtype = %d: %s", field.name, in.dtype, rule);
}

// A stride is 0 (inputs: repeat; any: an extent of one) or no less than what it steps over.
int32_t check_stride(const char* name, const char* which, int64_t stride, int64_t extent, int64_t least, Use use) {
    if (stride < 0) return fail(kInvalid, "%s.stride_%s = %lld: negative strides are not supported", name, which, static_cast<long long>(stride));
    if (extent <= 1 || stride >= least || (stride == 0 && use == Use::input)) return kOk;
    return fail(kInvalid, "%s.stride_%s = %lld: must be at least %lld%s", name, which, static_cast<long long>(stride), static_cast<long long>(least),
                use == Use::input ? ", or 0 to repeat" : "");
}

// Outputs: elements must be distinct, so the strides taken from small to large must each step over all of the smaller ones.
int32_t check_distinct(const Field& field, const View& v) {
    struct Axis {
        int64_t stride, extent;
    } axes[] = {{v.head, field.shape.heads}, {v.token, field.shape.tokens}, {v.row, field.shape.rows}};
    for (int i = 0; i < 3; i++)
        for (int j = i + 1; j < 3; j++)
            if (axes[j].stride < axes[i].stride) {
                const Axis t = axes[i];
                axes[i] = axes[j];
                axes[j] = t;
            }
    int64_t covered = field.shape.dim;
    for (const Axis& a : axes) {
        if (a.extent <= 1) continue;
        if (a.stride < covered)
            return fail(kInvalid, "%s: strides (row %lld, token %lld, head %lld) make elements of an output share memory", field.name,
                        static_cast<long long>(v.row), static_cast<long long>(v.token), static_cast<long long>(v.head));
        covered = (a.extent - 1) * a.stride + covered;
    }
    return kOk;
}

int32_t Reader::read_strides(const flashqla_tensor& in, const Field& field, View& out) const {
    const Shape& s = field.shape;
    if (!in.stride_row && !in.stride_token && !in.stride_head) {
        const bool per_token = field.kind != Kind::state && s.tokens * s.rows != 1;
        out.head = s.dim;
        out.token = per_token ? s.heads * s.dim : 0;
        out.row = s.rows > 1 ? s.tokens * s.heads * s.dim : 0;
        return kOk;
    }
    out.head = in.stride_head;
    out.token = in.stride_token;
    out.row = s.rows > 1 ? in.stride_row : 0;
    if (field.kind == Kind::state && in.stride_token)
        return fail(kInvalid, "%s.stride_token = %lld: must be 0", field.name, static_cast<long long>(in.stride_token));
    if (const int32_t e = check_stride(field.name, "head", out.head, s.heads, s.dim, field.use)) return e;
    if (const int32_t e = check_stride(field.name, "token", out.token, s.tokens, s.dim, field.use)) return e;
    if (const int32_t e = check_stride(field.name, "row", out.row, s.rows, s.dim, field.use)) return e;
    return kOk;
}

// The copy engine wants multiples of 16 bytes, and no stride of 0 where there is something to step over.
bool copy_engine_takes(const Shape& shape, const View& v, uintptr_t address, int64_t element) {
    const auto takes = [element](int64_t extent, int64_t stride) { return extent <= 1 || (stride > 0 && stride * element % 16 == 0); };
    return address % 16 == 0 && takes(shape.rows, v.row) && takes(shape.tokens, v.token) && takes(shape.heads, v.head);
}

int32_t Reader::read(const flashqla_tensor& in, const Field& field, View& out) {
    out = {};
    if (in.reserved0 || in.reserved[0] || in.reserved[1])
        return fail(kInvalid, "%s.reserved0 = %d, reserved = %lld, %lld: must be 0", field.name, in.reserved0, static_cast<long long>(in.reserved[0]),
                    static_cast<long long>(in.reserved[1]));
    if (const int32_t e = read_dtype(in, field, out)) return e;
    if (const int32_t e = read_strides(in, field, out)) return e;
    const int64_t bytes = element_bytes(out.dtype);
    const auto address = reinterpret_cast<uintptr_t>(in.data);
    if (address % static_cast<uintptr_t>(bytes))
        return fail(kInvalid, "%s.data = %p: must be aligned to its element (%lld bytes)", field.name, in.data, static_cast<long long>(bytes));
    out.data = in.data;
    const bool nothing =
        (empty_ && field.kind != Kind::state && field.shape.tokens * field.shape.rows != 1) || field.shape.rows == 0 || field.shape.tokens == 0;
    if (!in.data) {
        if (field.required && !nothing && !empty_) return fail(kInvalid, "%s.data is NULL: it is required", field.name);
        return kOk;
    }
    if (nothing) return kOk;
    Span span;
    if (!span.measure(field.name, in.data, bytes, field.shape.rows, out.row, field.shape.tokens, out.token, field.shape.heads, out.head, field.shape.dim))
        return fail(kInvalid, "%s: strides (row %lld, token %lld, head %lld) reach past the address space", field.name, static_cast<long long>(out.row),
                    static_cast<long long>(out.token), static_cast<long long>(out.head));
    if (field.use == Use::output)
        if (const int32_t e = check_distinct(field, out)) return e;
    if (!spans_.add(span, field.use == Use::output)) return fail(FLASHQLA_STATUS_INTERNAL, "too many tensors");
    if (field.kind == Kind::operand) aligned_ = aligned_ && copy_engine_takes(field.shape, out, address, bytes);
    return kOk;
}

void Reader::add_pool(const char* name, const Pool& pool, Use use) {
    const int64_t bytes = element_bytes(form_.state_dtype), packed = state_elements(form_);
    if (pool.data && pool.slots > 0) spans_.add(Span::plain(name, pool.data, ((pool.slots - 1) * pool.slot_stride + packed) * bytes), use == Use::output);
}

int32_t read_inputs(Reader& reader, const Form& f, const flashqla_tensor (&in)[7], Inputs& out) {
    const bool raw = f.gate == FLASHQLA_GATE_RAW;
    const Shape keys = reader.per_token(f.key_heads, f.key_dim), values = reader.per_token(f.value_heads, f.value_dim),
                scalars = reader.per_token(f.value_heads, 1);
    if (const int32_t e = reader.read(in[0], {"args.q", keys, Kind::operand, Use::input, true}, out.q)) return e;
    if (const int32_t e = reader.read(in[1], {"args.k", keys, Kind::operand, Use::input, true}, out.k)) return e;
    if (const int32_t e = reader.read(in[2], {"args.v", values, Kind::operand, Use::input, true}, out.v)) return e;
    if (const int32_t e = reader.read(in[3], {"args.gate", scalars, Kind::scalar, Use::input, true}, out.gate)) return e;
    if (const int32_t e = reader.read(in[4], {"args.beta", scalars, Kind::scalar, Use::input, true}, out.beta)) return e;
    if (!raw) {
        if (const int32_t e = reader.forbid(in[5], "args.A_log", "problem.gate is not RAW")) return e;
        return reader.forbid(in[6], "args.dt_bias", "problem.gate is not RAW");
    }
    if (const int32_t e = reader.read(in[5], {"args.A_log", reader.per_head(), Kind::scalar, Use::input, true}, out.a_log)) return e;
    return reader.read(in[6], {"args.dt_bias", reader.per_head(), Kind::scalar, Use::input, true}, out.dt_bias);
}

// Buffers of bytes: `saved` and the workspace.
int32_t read_buffer(Reader& reader, const char* name, const void* data, uint64_t bytes, Use use) {
    if (reinterpret_cast<uintptr_t>(data) % Workspace::kAlignment)
        return fail(kInvalid, "%s = %p: must be aligned to %llu bytes", name, data, static_cast<unsigned long long>(Workspace::kAlignment));
    if (bytes > INT64_MAX - reinterpret_cast<uintptr_t>(data))
        return fail(kInvalid, "%s_bytes = %llu: reaches past the address space", name, static_cast<unsigned long long>(bytes));
    reader.add_bytes(name, data, static_cast<int64_t>(bytes), use);
    return kOk;
}

// What follows the tensors of either operation: buffers, states and tables, and whether anything meets that must not.
int32_t finish(Reader& reader, const StateIo& state, const Buffer& saved, Use saved_use, const Buffer& workspace, Operands& operands) {
    if (const int32_t e = read_buffer(reader, "args.saved", saved.data, saved.bytes, saved_use)) return e;
    if (const int32_t e = read_buffer(reader, "workspace", workspace.data, workspace.bytes, Use::output)) return e;
    reader.add_pool("state.read_data", state.read, Use::input);
    reader.add_pool("state.write_data", state.write, Use::output);
    reader.add_state_tables(state);
    reader.allow_in_place(state);
    operands = {reader.aligned_16_bytes(), saved};
    return reader.check_overlaps();
}

}  // namespace

int32_t read_forward(const flashqla_forward_args* in, const Buffer& workspace, Forward& call, Operands& operands) {
    flashqla_forward_args a;
    if (const int32_t e = read_struct(in, a)) return e;
    if (a.reserved) return fail(kInvalid, "args.reserved = %d: must be 0", a.reserved);
    const Form& f = call.form;
    Reader reader(f, call.rows);
    if (const int32_t e = read_inputs(reader, f, {a.q, a.k, a.v, a.gate, a.beta, a.A_log, a.dt_bias}, call.in)) return e;
    if (const int32_t e = reader.read(a.out, {"args.out", reader.per_token(f.value_heads, f.value_dim), Kind::operand, Use::output, true}, call.out)) return e;
    return finish(reader, call.state, {a.saved, a.saved_bytes}, Use::output, workspace, operands);
}

int32_t read_backward(const flashqla_backward_args* in, const Buffer& workspace, Backward& call, Operands& operands) {
    flashqla_backward_args a;
    if (const int32_t e = read_struct(in, a)) return e;
    if (a.reserved) return fail(kInvalid, "args.reserved = %d: must be 0", a.reserved);
    const Form& f = call.form;
    Reader reader(f, call.rows);
    if (const int32_t e = read_inputs(reader, f, {a.q, a.k, a.v, a.gate, a.beta, a.A_log, a.dt_bias}, call.in)) return e;
    const bool raw = f.gate == FLASHQLA_GATE_RAW;
    const Shape keys = reader.per_token(f.key_heads, f.key_dim), values = reader.per_token(f.value_heads, f.value_dim),
                scalars = reader.per_token(f.value_heads, 1);
    if (!raw) {
        if (const int32_t e = reader.forbid(a.dA_log, "args.dA_log", "problem.gate is not RAW")) return e;
        if (const int32_t e = reader.forbid(a.ddt_bias, "args.ddt_bias", "problem.gate is not RAW")) return e;
    }
    const struct {
        const flashqla_tensor& in;
        Field field;
        View& out;
    } tensors[] = {
        {a.d_out, {"args.d_out", values, Kind::operand, Use::input, true}, call.d_out},
        {a.d_final, {"args.d_final", reader.per_row_state(), Kind::state, Use::input, false}, call.d_final},
        {a.dq, {"args.dq", keys, Kind::operand, Use::output, false}, call.grad.q},
        {a.dk, {"args.dk", keys, Kind::operand, Use::output, false}, call.grad.k},
        {a.dv, {"args.dv", values, Kind::operand, Use::output, false}, call.grad.v},
        {a.d_gate, {"args.d_gate", scalars, Kind::scalar, Use::output, false}, call.grad.gate},
        {a.d_beta, {"args.d_beta", scalars, Kind::scalar, Use::output, false}, call.grad.beta},
        {a.dA_log, {"args.dA_log", reader.per_head(), Kind::scalar, Use::output, false}, call.grad.a_log},
        {a.ddt_bias, {"args.ddt_bias", reader.per_head(), Kind::scalar, Use::output, false}, call.grad.dt_bias},
        {a.d_initial, {"args.d_initial", reader.per_row_state(), Kind::state, Use::output, false}, call.grad.initial},
    };
    for (const auto& t : tensors)
        if (const int32_t e = reader.read(t.in, t.field, t.out)) return e;
    return finish(reader, call.state, {const_cast<void*>(a.saved), a.saved_bytes}, Use::input, workspace, operands);  // only read there
}

}  // namespace fqla
