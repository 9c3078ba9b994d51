// What flashqla_sequences refuses.
#include "rule.h"

namespace {

#define SET(field, value) [](Call& c) { c.sequences.field = value; }

const std::vector<Rule> kRules = {
    {"no sequences", [](Call& c) { c.use_sequences = nullptr; }, {"flashqla_sequences", "NULL"}},
    {"struct_size", SET(struct_size, 36), {"flashqla_sequences.struct_size", "= 36", "at least 40"}},
    {"rows negative", SET(rows, -1), {"sequences.rows", "= -1", ">= 0"}},
    {"tokens negative", SET(tokens, -12), {"sequences.tokens", "= -12", ">= 0"}},
    {"max_tokens negative", SET(max_tokens, -1), {"sequences.max_tokens", "= -1", ">= 0"}},
    {"reserved", SET(reserved, 3), {"sequences.reserved", "= 3", "must be 0"}},
    {"offsets of f32", SET(offsets_dtype, FLASHQLA_DTYPE_F32), {"sequences.offsets_dtype", "= 1", "I32 or I64"}},
    {"offsets of an unknown dtype", SET(offsets_dtype, 7), {"sequences.offsets_dtype", "= 7", "I32 or I64"}},
    {"offsets misaligned", [](Call& c) { c.sequences.offsets = shifted(c.offsets, 2); }, {"sequences.offsets", "aligned"}},
    {"64-bit offsets misaligned",
     [](Call& c) { c.sequences.offsets = shifted(c.offsets, 4), c.sequences.offsets_dtype = FLASHQLA_DTYPE_I64; },
     {"sequences.offsets", "aligned"}},
    {"rows of unequal length", SET(tokens, 13), {"sequences.tokens", "= 13", "multiple of rows = 3"}},
    {"max_tokens is not the row's", SET(max_tokens, 5), {"sequences.max_tokens", "= 5", "tokens / rows = 4"}},
    {"tokens past int64", [](Call& c) { c.sequences.tokens = INT64_MAX, c.sequences.rows = 1; }, {"sequences.tokens", "9223372036854775807", "int64"}},
    {"rows past int64",
     [](Call& c) {
         c.sequences.rows = INT32_MAX, c.sequences.tokens = 0;
         c.problem.key_heads = c.problem.value_heads = 1 << 20, c.problem.key_dim = c.problem.value_dim = 256;
     },
     {"rows = 2147483647", "int64"}},
};

}  // namespace

TEST_SUITE("refuse") {
    TEST_CASE("sequences") { check_rules(kRules, through_all); }
}
