// flashqla_problem, flashqla_sequences and flashqla_state: rules and defaults.
#include <cmath>

#include "desc.h"
#include "status.h"

namespace fqla {
namespace {

constexpr int32_t kInvalid = FLASHQLA_STATUS_INVALID_ARGUMENT, kOk = FLASHQLA_STATUS_OK;

int32_t check_code(const char* field, int32_t value, int32_t last) {
    if (value >= 0 && value <= last) return kOk;
    return fail(kInvalid, "%s = %d: unknown code, must be 0 to %d", field, value, last);
}

int32_t check_range(const char* field, int64_t value, int64_t low, int64_t high) {
    if (value >= low && value <= high) return kOk;
    return fail(kInvalid, "%s = %lld: must be %lld to %lld", field, static_cast<long long>(value), static_cast<long long>(low), static_cast<long long>(high));
}

int32_t check_sizes(const flashqla_problem& p) {
    if (const int32_t s = check_range("problem.key_heads", p.key_heads, 1, 1 << 20)) return s;
    if (const int32_t s = check_range("problem.value_heads", p.value_heads, 1, 1 << 20)) return s;
    if (p.value_heads % p.key_heads) return fail(kInvalid, "problem.value_heads = %d: must be a multiple of key_heads = %d", p.value_heads, p.key_heads);
    if (const int32_t s = check_range("problem.key_dim", p.key_dim, 1, 256)) return s;
    return check_range("problem.value_dim", p.value_dim, 1, 256);
}

int32_t check_codes(const flashqla_problem& p) {
    if (const int32_t s = check_code("problem.head_map", p.head_map, FLASHQLA_HEADS_TILED)) return s;
    if (p.gate == FLASHQLA_GATE_LOG_PER_KEY)
        return fail(FLASHQLA_STATUS_UNSUPPORTED, "problem.gate = %d (LOG_PER_KEY): gates per key channel (KDA) are not supported, one gate per head is",
                    p.gate);
    if (const int32_t s = check_code("problem.gate", p.gate, FLASHQLA_GATE_RAW)) return s;
    if (const int32_t s = check_code("problem.beta", p.beta, FLASHQLA_BETA_LOGIT)) return s;
    if (const int32_t s = check_code("problem.qk_norm", p.qk_norm, FLASHQLA_NORM_L2)) return s;
    if (const int32_t s = check_code("problem.state_layout", p.state_layout, FLASHQLA_STATE_VK)) return s;
    if (const int32_t s = check_code("problem.engine", p.engine, FLASHQLA_ENGINE_CONTEXT_PARALLEL)) return s;
    if (p.reserved) return fail(kInvalid, "problem.reserved = %d: must be 0", p.reserved);
    constexpr uint64_t known =
        FLASHQLA_PROBLEM_KEYS_BOUNDED | FLASHQLA_PROBLEM_APPROXIMATE_WARMUP | FLASHQLA_PROBLEM_BATCH_INVARIANT | FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS;
    if (p.flags & ~known) return fail(kInvalid, "problem.flags = 0x%llx: unknown bits", static_cast<unsigned long long>(p.flags));
    return kOk;
}

int32_t check_dtypes(const flashqla_problem& p, bool cpu, Form& form) {
    form.dtype = p.dtype == FLASHQLA_DTYPE_DEFAULT ? FLASHQLA_DTYPE_BF16 : p.dtype;
    if (form.dtype < FLASHQLA_DTYPE_F32 || form.dtype > FLASHQLA_DTYPE_F64) return fail(kInvalid, "problem.dtype = %d: must be F32, BF16, F16 or F64", p.dtype);
    const bool f64 = form.dtype == FLASHQLA_DTYPE_F64;
    if (f64 && !cpu) return fail(FLASHQLA_STATUS_UNSUPPORTED, "problem.dtype = %d (F64): only a CPU handle computes in double", p.dtype);
    form.state_dtype = p.state_dtype != FLASHQLA_DTYPE_DEFAULT ? p.state_dtype : f64 ? FLASHQLA_DTYPE_F64 : FLASHQLA_DTYPE_F32;
    if (f64 ? form.state_dtype != FLASHQLA_DTYPE_F64 : form.state_dtype != FLASHQLA_DTYPE_F32 && form.state_dtype != FLASHQLA_DTYPE_BF16)
        return fail(kInvalid, "problem.state_dtype = %d: must be %s", p.state_dtype, f64 ? "F64 where dtype is F64" : "F32 or BF16");
    return kOk;
}

int32_t check_numbers(const flashqla_problem& p, Form& form) {
    if (!std::isfinite(p.beta_scale) || p.beta_scale < 0) return fail(kInvalid, "problem.beta_scale = %g: must be finite and > 0, or 0 for 1", p.beta_scale);
    if (!std::isfinite(p.scale)) return fail(kInvalid, "problem.scale = %g: must be finite", p.scale);
    if (!std::isfinite(p.eps) || p.eps < 0) return fail(kInvalid, "problem.eps = %g: must be finite and > 0, or 0 for 1e-6", p.eps);
    form.beta_scale = p.beta_scale != 0 ? p.beta_scale : 1.0;
    form.scale = p.scale != 0 ? p.scale : 1.0 / std::sqrt(static_cast<double>(p.key_dim));
    form.eps = p.eps != 0 ? p.eps : 1e-6;
    return kOk;
}

}  // namespace

int32_t read_problem(const flashqla_problem* in, bool cpu, Problem& out) {
    flashqla_problem p;
    if (const int32_t s = read_struct(in, p)) return s;
    if (const int32_t s = check_sizes(p)) return s;
    if (const int32_t s = check_codes(p)) return s;
    Form form{};
    if (const int32_t s = check_dtypes(p, cpu, form)) return s;
    if (const int32_t s = check_numbers(p, form)) return s;
    form.key_heads = p.key_heads;
    form.value_heads = p.value_heads;
    form.key_dim = p.key_dim;
    form.value_dim = p.value_dim;
    form.head_map = p.head_map;
    form.gate = p.gate;
    form.beta = p.beta;
    form.qk_norm = p.qk_norm;
    form.state_layout = p.state_layout;
    out = {form, p.flags, p.engine};
    return kOk;
}

int32_t read_sequences(const flashqla_sequences* in, const Problem& problem, Rows& out) {
    flashqla_sequences s;
    if (const int32_t e = read_struct(in, s)) return e;
    if (s.rows < 0) return fail(kInvalid, "sequences.rows = %d: must be >= 0", s.rows);
    if (s.tokens < 0) return fail(kInvalid, "sequences.tokens = %lld: must be >= 0", static_cast<long long>(s.tokens));
    if (s.max_tokens < 0) return fail(kInvalid, "sequences.max_tokens = %lld: must be >= 0", static_cast<long long>(s.max_tokens));
    if (s.reserved) return fail(kInvalid, "sequences.reserved = %d: must be 0", s.reserved);
    if (s.offsets_dtype != FLASHQLA_DTYPE_DEFAULT && s.offsets_dtype != FLASHQLA_DTYPE_I32 && s.offsets_dtype != FLASHQLA_DTYPE_I64)
        return fail(kInvalid, "sequences.offsets_dtype = %d: must be I32 or I64", s.offsets_dtype);
    const bool wide = s.offsets_dtype == FLASHQLA_DTYPE_I64;
    if (reinterpret_cast<uintptr_t>(s.offsets) % (wide ? 8 : 4)) return fail(kInvalid, "sequences.offsets = %p: must be aligned to its element", s.offsets);
    int64_t elements = 0;  // all byte counts below stay within int64 if this one does
    const int64_t per_token =
        int64_t{problem.form.value_heads} * (problem.form.key_dim > problem.form.value_dim ? problem.form.key_dim : problem.form.value_dim);
    if (__builtin_mul_overflow(s.tokens, per_token * 64, &elements) || __builtin_mul_overflow(int64_t{s.rows}, per_token * 256 * 64, &elements))
        return fail(kInvalid, "sequences.tokens = %lld, rows = %d: tokens x heads x dim passes int64", static_cast<long long>(s.tokens), s.rows);
    int64_t max_tokens = s.max_tokens;
    if (!s.offsets && s.rows > 0) {
        if (s.tokens % s.rows)
            return fail(kInvalid, "sequences.tokens = %lld: without offsets must be a multiple of rows = %d", static_cast<long long>(s.tokens), s.rows);
        const int64_t each = s.tokens / s.rows;
        if (max_tokens && max_tokens != each)
            return fail(kInvalid, "sequences.max_tokens = %lld: without offsets must be 0 or tokens / rows = %lld", static_cast<long long>(max_tokens),
                        static_cast<long long>(each));
        max_tokens = each;
    }
    if (s.offsets && (max_tokens == 0 || max_tokens > s.tokens)) max_tokens = s.tokens;
    out = {s.offsets, s.tokens, max_tokens, s.rows, wide, 0, 0};
    return kOk;
}

namespace {

int32_t read_pool(const char* side, const void* data, int64_t slots, int64_t stride, const int32_t* table, const Form& form, const Rows& rows, Pool& out) {
    const int64_t packed = state_elements(form);
    const int64_t element = element_bytes(form.state_dtype);
    if (table && !data) return fail(kInvalid, "state.%s_slots is given but state.%s_data is NULL: slots need a pool", side, side);
    if (reinterpret_cast<uintptr_t>(table) % 4) return fail(kInvalid, "state.%s_slots = %p: must be 4-byte aligned", side, static_cast<const void*>(table));
    if (reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(element))
        return fail(kInvalid, "state.%s_data = %p: must be aligned to its element (%lld bytes)", side, data, static_cast<long long>(element));
    if (slots < 0) return fail(kInvalid, "state.%s_slots_count = %lld: must be >= 0", side, static_cast<long long>(slots));
    if (stride < 0 || (stride > 0 && stride < packed))
        return fail(kInvalid, "state.%s_slot_stride = %lld: must be 0 (packed) or at least HV*K*V = %lld", side, static_cast<long long>(stride),
                    static_cast<long long>(packed));
    out = {const_cast<void*>(data), table, slots ? slots : rows.count, stride ? stride : packed};
    int64_t bytes = 0;
    if (__builtin_mul_overflow(out.slots, out.slot_stride, &bytes) || __builtin_mul_overflow(bytes, element, &bytes))
        return fail(kInvalid, "state.%s_slots_count = %lld: slots x stride passes int64", side, static_cast<long long>(out.slots));
    if (data && !table && out.slots < rows.count)
        return fail(kInvalid, "state.%s_slots_count = %lld: without %s_slots each of the %d rows needs its own slot", side, static_cast<long long>(out.slots),
                    side, rows.count);
    return kOk;
}

int32_t check_tables(const flashqla_state& s, const Rows& rows) {
    const auto aligned4 = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 4 == 0; };
    if (s.checkpoint_interval < 0 || s.checkpoint_interval % 64)
        return fail(kInvalid, "state.checkpoint_interval = %lld: must be a positive multiple of 64, or 0", static_cast<long long>(s.checkpoint_interval));
    if (s.checkpoint_width < 0) return fail(kInvalid, "state.checkpoint_width = %lld: must be >= 0", static_cast<long long>(s.checkpoint_width));
    if (s.token_width < 0) return fail(kInvalid, "state.token_width = %lld: must be >= 0", static_cast<long long>(s.token_width));
    if (s.checkpoint_interval && s.checkpoint_width && !s.checkpoint_slots)
        return fail(kInvalid, "state.checkpoint_slots is NULL: checkpoint_interval = %lld needs a table", static_cast<long long>(s.checkpoint_interval));
    if ((s.checkpoint_slots && !s.checkpoint_interval) || (s.checkpoint_width && !s.checkpoint_slots))
        return fail(kInvalid, "state.checkpoint_interval = %lld: checkpoint_slots, checkpoint_width and checkpoint_interval go together",
                    static_cast<long long>(s.checkpoint_interval));
    if (s.token_width && !s.token_slots)
        return fail(kInvalid, "state.token_slots is NULL: token_width = %lld needs a table", static_cast<long long>(s.token_width));
    if ((s.checkpoint_slots || s.token_slots) && !s.write_data)
        return fail(kInvalid, "state.write_data is NULL: %s need a pool", s.checkpoint_slots ? "checkpoint_slots" : "token_slots");
    if (!aligned4(s.checkpoint_slots) || !aligned4(s.token_slots) || !aligned4(s.accepted))
        return fail(kInvalid, "state.%s: must be 4-byte aligned",
                    !aligned4(s.checkpoint_slots) ? "checkpoint_slots"
                    : !aligned4(s.token_slots)    ? "token_slots"
                                                  : "accepted");
    int64_t entries = 0;
    if (__builtin_mul_overflow(int64_t{rows.count} * 4, s.checkpoint_width, &entries) ||
        __builtin_mul_overflow(int64_t{rows.count} * 4, s.token_width, &entries))
        return fail(kInvalid, "state.checkpoint_width = %lld, token_width = %lld: rows x width passes int64", static_cast<long long>(s.checkpoint_width),
                    static_cast<long long>(s.token_width));
    return kOk;
}

}  // namespace

int32_t read_state(const flashqla_state* in, const Problem& problem, const Rows& rows, StateIo& out) {
    out = {};
    if (!in) return kOk;
    flashqla_state s;
    if (const int32_t e = read_struct(in, s)) return e;
    if (s.reserved) return fail(kInvalid, "state.reserved = %d: must be 0", s.reserved);
    if (s.flags & ~uint64_t{FLASHQLA_STATE_NO_FINAL}) return fail(kInvalid, "state.flags = 0x%llx: unknown bits", static_cast<unsigned long long>(s.flags));
    if (const int32_t e = read_pool("read", s.read_data, s.read_slots_count, s.read_slot_stride, s.read_slots, problem.form, rows, out.read)) return e;
    if (const int32_t e = read_pool("write", s.write_data, s.write_slots_count, s.write_slot_stride, s.write_slots, problem.form, rows, out.write)) return e;
    if (const int32_t e = check_tables(s, rows)) return e;
    if (s.accepted && (!s.token_slots || !s.read_data || s.read_data != s.write_data))
        return fail(kInvalid, "state.accepted: needs token_slots, and read_data = %p the same pool as write_data = %p", s.read_data,
                    static_cast<const void*>(s.write_data));
    if (s.read_data && s.read_data == s.write_data && (out.read.slots != out.write.slots || out.read.slot_stride != out.write.slot_stride))
        return fail(kInvalid, "state.write_data = read_data: slot counts (%lld, %lld) and strides (%lld, %lld) must be equal",
                    static_cast<long long>(out.read.slots), static_cast<long long>(out.write.slots), static_cast<long long>(out.read.slot_stride),
                    static_cast<long long>(out.write.slot_stride));
    out.checkpoint_slots = s.checkpoint_slots;
    out.checkpoint_width = s.checkpoint_width;
    out.checkpoint_interval = s.checkpoint_interval;
    out.token_slots = s.token_slots;
    out.token_width = s.token_width;
    out.accepted = s.accepted;
    out.store_final = !(s.flags & FLASHQLA_STATE_NO_FINAL);
    return kOk;
}

Bounds bounds_of(const Rows& rows) { return {rows.count, rows.tokens, rows.max_tokens, rows.offsets != nullptr}; }

StateUse use_of(const StateIo& s) { return {s.read.data != nullptr, s.write.data != nullptr, s.checkpoint_slots != nullptr, s.token_slots != nullptr}; }

}  // namespace fqla
