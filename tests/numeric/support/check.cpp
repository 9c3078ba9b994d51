#include "check.h"

#include <cstring>

namespace numeric {

Arithmetic arithmetic_of(const Case& c, const Call& call) {
    if (c.dtype == FLASHQLA_DTYPE_F64) return Arithmetic::f64;
    const int32_t engine = call.query().engine;
    return engine == FLASHQLA_ENGINE_RECURRENT ? Arithmetic::f32 : Arithmetic::tensor16;
}

Outcome must_run(Call& call, void* stream) {
    const int32_t status = call.run(stream);
    CHECK_MESSAGE(status == FLASHQLA_STATUS_OK, flashqla_status_name(status), ": ", flashqla_last_error(), " ", call.sample().c.text());
    return call.read();
}

std::unique_ptr<Buffer> save(const Sample& sample, Call::Options options) {
    options.op = FLASHQLA_OP_FORWARD;
    const uint64_t bytes = Call(sample, options).query().saved_bytes;
    if (!bytes) return nullptr;
    auto saved = std::make_unique<Buffer>(bytes, sample.c.seed);
    options.saved = saved.get();
    Call forward(sample, options);
    const int32_t status = forward.run();
    if (status == FLASHQLA_STATUS_UNSUPPORTED && std::strstr(flashqla_last_error(), "args.saved")) return nullptr;  // views off 16 bytes
    CHECK_MESSAGE(status == FLASHQLA_STATUS_OK, flashqla_status_name(status), ": ", flashqla_last_error(), " ", sample.c.text());
    const std::string wrong = report(sample, forward.read(), oracle_forward(sample), Arithmetic::tensor16);  // whatever engine serves without saving
    CHECK_MESSAGE(wrong.empty(), "saving forward, engine ", options.engine, " ", wrong);
    bool kept = true;
    saved->download(kept);
    CHECK_MESSAGE(kept, "guard bands of what is saved");
    return saved;
}

std::string run_and_report(Call& call, const Outcome& want) {
    const int32_t status = call.run();
    if (status) return call.sample().c.text() + "\n    " + flashqla_status_name(status) + ": " + flashqla_last_error();
    return report(call.sample(), call.read(), want, arithmetic_of(call.sample().c, call));
}

void check_forward(const Sample& sample) {
    Call call(sample, {});
    const std::string wrong = run_and_report(call, oracle_forward(sample));
    CHECK_MESSAGE(wrong.empty(), wrong);
}

void check_backward(const Sample& sample) {
    Call::Options options;
    options.op = FLASHQLA_OP_BACKWARD;
    Call call(sample, options);
    const std::string wrong = run_and_report(call, oracle_backward(sample));
    CHECK_MESSAGE(wrong.empty(), wrong);
}

uint64_t fresh_seed(const char* what) {
    uint64_t seed = session().seed;
    for (; *what; what++) seed = mix(seed + static_cast<unsigned char>(*what));
    return seed;
}

Case plain_case(const char* what) {
    Case c;
    c.lengths = {70, 1, 129};
    c.seed = fresh_seed(what);
    return c;
}

Case qwen_case(const char* what, int32_t dtype) {
    Case c = plain_case(what);
    c.key_heads = 1, c.value_heads = 2;
    c.dtype = dtype;
    c.key_dim = c.value_dim = 128;
    c.gate = FLASHQLA_GATE_RAW, c.beta = FLASHQLA_BETA_LOGIT, c.qk_norm = FLASHQLA_NORM_L2;
    c.state_layout = FLASHQLA_STATE_VK;
    c.states = States::in_place_slots;
    return c;
}

Sample cut_row(const Sample& sample, int64_t n, int64_t begin, int64_t length, const Numbers& state) {
    const Case& c = sample.c;
    Sample cut;
    cut.c = c;
    cut.c.lengths = {length};
    cut.c.offsets = Offsets::none;
    cut.c.strides = Strides::packed;
    cut.c.states = States::separate;
    cut.c.extra = Extra::none;
    cut.tokens = length;
    cut.tables.offsets = {0, length};
    cut.tables.slots = 1;
    const auto part = [&](const Numbers& x, int64_t width) {
        const auto from = x.begin() + (sample.tables.offsets[static_cast<size_t>(n)] + begin) * width;
        return Numbers(from, from + length * width);
    };
    const Values& x = sample.values;
    Values& y = cut.values;
    y.q = part(x.q, c.key_heads * c.key_dim), y.k = part(x.k, c.key_heads * c.key_dim);
    y.v = part(x.v, c.value_heads * c.value_dim), y.d_out = part(x.d_out, c.value_heads * c.value_dim);
    y.gate = part(x.gate, c.value_heads), y.beta = part(x.beta, c.value_heads);
    y.a_log = x.a_log, y.dt_bias = x.dt_bias;
    const auto d_final = x.d_final.begin() + n * c.state_elements();
    y.d_final = Numbers(d_final, d_final + c.state_elements());
    y.pool = state;
    return cut;
}

Numbers state_of(const Outcome& outcome, int64_t slot) {
    const Grid& grid = *outcome.find("state");
    const auto from = grid.value.begin() + slot * grid.inner(1);
    return Numbers(from, from + grid.inner(1));
}

bool same_bits(const Numbers& a, const Numbers& b) {
    return a.size() == b.size() && (a.empty() || !std::memcmp(a.data(), b.data(), a.size() * sizeof(double)));
}

}  // namespace numeric
