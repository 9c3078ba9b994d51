// What both operations refuse of their inputs: each tensor broken in each way, through forward and backward.
#include <string>

#include "rule.h"

namespace {

struct Input {
    const char* name;
    flashqla_tensor flashqla_forward_args::*forward;
    flashqla_tensor flashqla_backward_args::*backward;
    int heads, dim;
    bool per_token;
};

#define INPUT(name, heads, dim, per_token) \
    { #name, &flashqla_forward_args::name, &flashqla_backward_args::name, heads, dim, per_token }

constexpr Input kInputs[] = {
    INPUT(q, Call::kKeyHeads, Call::kKeyDim, true), INPUT(k, Call::kKeyHeads, Call::kKeyDim, true), INPUT(v, Call::kValueHeads, Call::kValueDim, true),
    INPUT(gate, Call::kValueHeads, 1, true),        INPUT(beta, Call::kValueHeads, 1, true),        INPUT(A_log, Call::kValueHeads, 1, false),
    INPUT(dt_bias, Call::kValueHeads, 1, false),
};

template <class Break>
std::function<void(Call&)> in_both(const Input& input, Break broken_by) {
    return [input, broken_by](Call& c) {
        c.make_raw();
        broken_by(c.args.*input.forward);
        broken_by(c.grads.*input.backward);
    };
}

void packed(flashqla_tensor& t, const Input& i) { t.stride_head = i.dim, t.stride_token = int64_t{i.heads} * i.dim, t.stride_row = 4 * t.stride_token; }

std::vector<Rule> rules_of(const Input& i) {
    // Names outlive the rules: a message is checked for parts of them.
    static std::vector<std::string> names(64);
    static size_t used = 0;
    const auto text = [&](const std::string& s) { return (names.at(used) = s, names.at(used++).c_str()); };
    const char* field = text(std::string("args.") + i.name);
    const char* dtype = text(std::string("args.") + i.name + ".dtype");
    std::vector<Rule> rules = {
        {"not given", in_both(i, [](flashqla_tensor& t) { t.data = nullptr; }), {field, ".data", "NULL", "required"}},
        {"misaligned", in_both(i, [](flashqla_tensor& t) { t.data = shifted(t.data, 2); }), {field, ".data", "aligned", "4 bytes"}},
        {"unknown dtype", in_both(i, [](flashqla_tensor& t) { t.dtype = 9; }), {dtype, "= 9"}},
        {"dtype of offsets", in_both(i, [](flashqla_tensor& t) { t.dtype = FLASHQLA_DTYPE_I64; }), {dtype, "= 6"}},
        {"f64 among f32", in_both(i, [](flashqla_tensor& t) { t.dtype = FLASHQLA_DTYPE_F64; }), {dtype, "= 4"}},
        {"reserved0", in_both(i, [](flashqla_tensor& t) { t.reserved0 = 5; }), {field, "reserved0 = 5", "must be 0"}},
        {"reserved", in_both(i, [](flashqla_tensor& t) { t.reserved[1] = 6; }), {field, "reserved", "6", "must be 0"}},
        {"head stride negative", in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_head = -1; }), {field, "stride_head", "= -1", "negative"}},
    };
    if (!i.per_token) return rules;
    rules.push_back(
        {"token stride negative", in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_token = -64; }), {field, "stride_token", "= -64", "negative"}});
    rules.push_back(
        {"row stride negative", in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_row = -1; }), {field, "stride_row", "= -1", "negative"}});
    rules.push_back({"past the address space",
                     in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_row = INT64_MAX / 2; }),
                     {field, "row 4611686018427387903", "address space"}});
    if (i.dim == 1) return rules;
    rules.push_back({"not of the problem's dtype", in_both(i, [](flashqla_tensor& t) { t.dtype = FLASHQLA_DTYPE_BF16; }), {dtype, "= 2", "problem.dtype"}});
    rules.push_back(
        {"head stride short", in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_head = i.dim - 1; }), {field, "stride_head", "at least", "or 0"}});
    rules.push_back(
        {"token stride short", in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_token = 3; }), {field, "stride_token", "= 3", "at least"}});
    rules.push_back({"row stride short", in_both(i, [i](flashqla_tensor& t) { packed(t, i), t.stride_row = 1; }), {field, "stride_row", "= 1", "at least"}});
    return rules;
}

}  // namespace

TEST_SUITE("refuse") {
    TEST_CASE("inputs") {
        for (const Input& input : kInputs) {
            CAPTURE(input.name);
            check_rules(rules_of(input), through_forward | through_backward);
        }
    }

    TEST_CASE("raw tensors without a raw gate") {
        const auto unraw = [](Call& c) { c.make_raw(), c.problem.gate = FLASHQLA_GATE_LOG; };
        const auto only_bias = [](Call& c) {
            c.make_raw();
            c.problem.gate = FLASHQLA_GATE_LINEAR;
            c.args.A_log.data = c.grads.A_log.data = nullptr;
        };
        check_rules({{"A_log", unraw, {"args.A_log", "must be NULL", "not RAW"}}, {"dt_bias", only_bias, {"args.dt_bias", "must be NULL", "not RAW"}}},
                    through_forward | through_backward);
    }

    TEST_CASE("buffers and stream") {
        const std::vector<Rule> rules = {
            {"workspace misaligned", [](Call& c) { c.workspace = c.scratch + 128; }, {"workspace", "aligned to 256"}},
            {"workspace past the address space", [](Call& c) { c.workspace_bytes = UINT64_MAX; }, {"workspace_bytes", "18446744073709551615", "address space"}},
            {"saved misaligned",
             [](Call& c) { c.args.saved = c.scratch + 8, c.grads.saved = c.scratch + 8, c.workspace = c.scratch + 4096, c.workspace_bytes -= 4096; },
             {"args.saved", "aligned to 256"}},
            {"saved past the address space",
             [](Call& c) { c.args.saved = c.d_initial, c.grads.saved = c.q, c.args.saved_bytes = c.grads.saved_bytes = 1ULL << 63; },
             {"args.saved_bytes", "9223372036854775808", "address space"}},
            {"a stream on the CPU", [](Call& c) { c.stream = c.scratch; }, {"stream", "NULL", "CPU"}},
            {"a stream on the CPU, no rows", [](Call& c) { c.stream = c.scratch, c.sequences.rows = 0, c.sequences.tokens = 0; }, {"stream", "NULL", "CPU"}},
        };
        check_rules(rules, through_forward | through_backward);
    }
}
