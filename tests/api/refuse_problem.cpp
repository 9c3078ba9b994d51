// What flashqla_problem refuses.
#include <limits>

#include "rule.h"

namespace {

constexpr int32_t kUnsupported = FLASHQLA_STATUS_UNSUPPORTED;
constexpr double kInf = std::numeric_limits<double>::infinity(), kNaN = std::numeric_limits<double>::quiet_NaN();

// A problem with 16 bytes behind it, as a newer header would have it.
struct Newer {
    flashqla_problem problem;
    char more[16];
};
Newer g_newer;

void make_newer(Call& c, char last) {
    g_newer = {c.problem, {}};
    g_newer.more[15] = last;
    g_newer.problem.struct_size = sizeof g_newer;
    c.use_problem = &g_newer.problem;
}

#define SET(field, value) [](Call& c) { c.problem.field = value; }

const std::vector<Rule> kRules = {
    {"no problem", [](Call& c) { c.use_problem = nullptr; }, {"flashqla_problem", "NULL"}},
    {"struct_size 0", SET(struct_size, 0), {"flashqla_problem.struct_size", "= 0", "at least 88"}},
    {"struct_size of no version", SET(struct_size, 84), {"flashqla_problem.struct_size", "= 84", "at least 88"}},
    {"struct_size not set", SET(struct_size, 0xCCCCCCCC), {"flashqla_problem.struct_size", "3435973836"}},
    {"a newer header's field is used", [](Call& c) { make_newer(c, 1); }, {"struct_size = 104", "byte 103", "version 100"}, kUnsupported},
    {"no key heads", SET(key_heads, 0), {"problem.key_heads", "= 0", "1 to"}},
    {"negative key heads", SET(key_heads, -2), {"problem.key_heads", "= -2", "1 to"}},
    {"too many key heads", SET(key_heads, 1 << 21), {"problem.key_heads", "2097152", "1 to 1048576"}},
    {"no value heads", SET(value_heads, 0), {"problem.value_heads", "= 0", "1 to"}},
    {"too many value heads", SET(value_heads, 1 << 21), {"problem.value_heads", "2097152", "1 to 1048576"}},
    {"value heads no multiple", SET(value_heads, 3), {"problem.value_heads", "= 3", "multiple of key_heads = 2"}},
    {"fewer value heads", SET(value_heads, 1), {"problem.value_heads", "= 1", "multiple"}},
    {"K 0", SET(key_dim, 0), {"problem.key_dim", "= 0", "1 to 256"}},
    {"K 257", SET(key_dim, 257), {"problem.key_dim", "= 257", "1 to 256"}},
    {"K negative", SET(key_dim, -8), {"problem.key_dim", "= -8", "1 to 256"}},
    {"V 0", SET(value_dim, 0), {"problem.value_dim", "= 0", "1 to 256"}},
    {"V 257", SET(value_dim, 257), {"problem.value_dim", "= 257", "1 to 256"}},
    {"dtype of offsets", SET(dtype, FLASHQLA_DTYPE_I32), {"problem.dtype", "= 5", "F32, BF16, F16 or F64"}},
    {"dtype negative", SET(dtype, -1), {"problem.dtype", "= -1"}},
    {"state dtype f16", SET(state_dtype, FLASHQLA_DTYPE_F16), {"problem.state_dtype", "= 3", "F32 or BF16"}},
    {"state dtype f64 of f32", SET(state_dtype, FLASHQLA_DTYPE_F64), {"problem.state_dtype", "= 4", "F32 or BF16"}},
    {"state dtype f32 of f64",
     [](Call& c) { c.problem.dtype = FLASHQLA_DTYPE_F64, c.problem.state_dtype = FLASHQLA_DTYPE_F32; },
     {"problem.state_dtype", "= 1", "F64"}},
    {"head map", SET(head_map, 2), {"problem.head_map", "= 2", "0 to 1"}},
    {"head map negative", SET(head_map, -1), {"problem.head_map", "= -1", "0 to 1"}},
    {"gates per key channel (KDA)", SET(gate, FLASHQLA_GATE_LOG_PER_KEY), {"problem.gate", "= 3", "LOG_PER_KEY", "not supported"}, kUnsupported},
    {"gate", SET(gate, 4), {"problem.gate", "= 4", "0 to 2"}},
    {"beta", SET(beta, 2), {"problem.beta", "= 2", "0 to 1"}},
    {"norm", SET(qk_norm, 2), {"problem.qk_norm", "= 2", "0 to 1"}},
    {"state layout", SET(state_layout, 2), {"problem.state_layout", "= 2", "0 to 1"}},
    {"engine", SET(engine, 5), {"problem.engine", "= 5", "0 to 4"}},
    {"engine negative", SET(engine, -1), {"problem.engine", "= -1"}},
    {"chunked engine on the CPU", SET(engine, FLASHQLA_ENGINE_CHUNKED), {"problem.engine", "= 2"}, kUnsupported},
    {"fused engine on the CPU", SET(engine, FLASHQLA_ENGINE_FUSED), {"problem.engine", "= 3"}, kUnsupported},
    {"context parallel engine on the CPU", SET(engine, FLASHQLA_ENGINE_CONTEXT_PARALLEL), {"problem.engine", "= 4"}, kUnsupported},
    {"reserved", SET(reserved, 7), {"problem.reserved", "= 7", "must be 0"}},
    {"beta_scale negative", SET(beta_scale, -1), {"problem.beta_scale", "= -1", "> 0"}},
    {"beta_scale infinite", SET(beta_scale, kInf), {"problem.beta_scale", "inf", "finite"}},
    {"beta_scale NaN", SET(beta_scale, kNaN), {"problem.beta_scale", "nan", "finite"}},
    {"scale infinite", SET(scale, -kInf), {"problem.scale", "-inf", "finite"}},
    {"scale NaN", SET(scale, kNaN), {"problem.scale", "nan", "finite"}},
    {"eps negative", SET(eps, -1e-6), {"problem.eps", "= -1e-06", "> 0"}},
    {"eps NaN", SET(eps, kNaN), {"problem.eps", "nan", "finite"}},
    {"unknown flag", SET(flags, 16), {"problem.flags", "0x10", "unknown"}},
    {"flag of the far end", SET(flags, 1ULL << 63), {"problem.flags", "0x8000000000000000", "unknown"}},
};

}  // namespace

TEST_SUITE("refuse") {
    TEST_CASE("problem") { check_rules(kRules, through_all); }

    TEST_CASE("no handle") {
        check_rules({{"no handle", [](Call& c) { c.use_handle = nullptr; }, {"handle", "NULL"}}}, through_all);
    }

    TEST_CASE("a newer header whose new fields are zero is accepted") {
        Call c;
        make_newer(c, 0);
        CHECK(c.forward() == FLASHQLA_STATUS_OK);
        CHECK(c.backward() == FLASHQLA_STATUS_OK);
        CHECK(c.query(FLASHQLA_OP_FORWARD) == FLASHQLA_STATUS_OK);
    }
}
