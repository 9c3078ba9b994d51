// What most test cases do: run a sample and compare it with the oracle.
#pragma once
#include <doctest/doctest.h>

#include "call.h"
#include "compare.h"
#include "oracle.h"

namespace numeric {

Arithmetic arithmetic_of(const Case& c, const Call& call);

// Runs and reads; the status must be OK.
Outcome must_run(Call& call, void* stream = nullptr);

// What a forward of the sample with these options saves for the backward, itself compared with the oracle; null where it saves nothing.
std::unique_ptr<Buffer> save(const Sample& sample, Call::Options options);

// Runs `call` and compares with the oracle; "" when all is well.
std::string run_and_report(Call& call, const Outcome& want);
// Both operations on the engine that AUTO picks.
void check_forward(const Sample& sample);
void check_backward(const Sample& sample);

// Seeds for cases of a test: fresh for each run of the program, printed with what fails.
uint64_t fresh_seed(const char* what);

// A plain f32 case of ragged rows with states, for tests to change.
Case plain_case(const char* what);
// The same as Qwen3-Next has it: K = V = 128, two value heads a key head, raw gates, logits, the norm, VK states in their slots.
Case qwen_case(const char* what, int32_t dtype);

// AUTO, which must take every call, then those that may answer UNSUPPORTED.
constexpr int32_t kEngines[] = {FLASHQLA_ENGINE_AUTO, FLASHQLA_ENGINE_RECURRENT, FLASHQLA_ENGINE_CHUNKED, FLASHQLA_ENGINE_FUSED,
                                FLASHQLA_ENGINE_CONTEXT_PARALLEL};

// A sample of the tokens [begin, begin + length) of row n, as one row without offsets, tables or gaps, from the given state.
Sample cut_row(const Sample& sample, int64_t n, int64_t begin, int64_t length, const Numbers& state);
// Row n's final state in an outcome of a sample without slot tables.
Numbers state_of(const Outcome& outcome, int64_t slot);

// Bits of the rows' own elements in a grid.
bool same_bits(const Numbers& a, const Numbers& b);

}  // namespace numeric
