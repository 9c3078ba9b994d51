// Each kernel of variants.inc is reached by some call, and its parameters are as many bytes in the library as in the compiled kernel
// (kernels/budget.tsv, which budget.py compares with the compiler's report).
#include <doctest/doctest.h>

#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include "cards.h"
#include "kernel_args.h"
#include "plan.h"

namespace {

using Sizes = std::map<std::string, size_t>;  // parameter bytes by symbol

size_t args_of(const fqla::Step& step, const fqla::Plan& plan, const fqla::Forward& call, const fqla::Memory& memory, fqla::KernelArgs& args) {
    return fqla::make_kernel_args(step, plan, call, fqla::TensorMaps{}, memory, args);
}

size_t args_of(const fqla::Step& step, const fqla::Plan& plan, const fqla::Backward& call, const fqla::Memory& memory, fqla::KernelArgs& args) {
    return fqla::make_kernel_args(step, 0, plan, call, fqla::BackwardMaps{}, memory, args);
}

template <class Call>
void add_steps(const fqla::Plan& plan, const fqla::Request& r, Sizes& sizes) {
    Call call{};
    call.form = r.problem.form;
    call.rows.count = static_cast<int32_t>(r.bounds.rows);
    call.rows.tokens = r.bounds.tokens;
    call.rows.max_tokens = r.bounds.max_tokens;
    alignas(256) static char workspace[256], saved[256];
    fqla::KernelArgs args;
    for (int i = 0; i < plan.step_count; i++) {
        const size_t bytes = args_of(plan.steps[i], plan, call, {workspace, saved}, args);
        const std::string symbol = fqla::kKernels[static_cast<size_t>(plan.steps[i].kernel)].symbol;
        CAPTURE(symbol);
        CHECK(bytes > 0);
        CHECK((sizes.count(symbol) == 0 || sizes[symbol] == bytes));
        sizes[symbol] = bytes;
    }
}

// Plans over every form that picks a kernel.
Sizes reached() {
    Sizes sizes;
    for (const Card& card : kCards) {
        if (!card.caps.cuda) continue;
        for (unsigned bits = 0; bits < 1U << 12; bits++) {
            const auto bit = [bits](unsigned i) { return (bits >> i & 1U) != 0; };
            fqla::Request r{};
            r.op = bit(0) ? FLASHQLA_OP_BACKWARD : FLASHQLA_OP_FORWARD;
            fqla::Form& f = r.problem.form;
            f.key_heads = 2, f.value_heads = 4;
            f.key_dim = bit(1) ? 200 : 128, f.value_dim = 128;
            f.dtype = bit(2) ? FLASHQLA_DTYPE_F16 : bit(3) ? FLASHQLA_DTYPE_F32 : FLASHQLA_DTYPE_BF16;
            f.state_dtype = bit(4) ? FLASHQLA_DTYPE_BF16 : FLASHQLA_DTYPE_F32;
            f.state_layout = bit(5) ? FLASHQLA_STATE_VK : FLASHQLA_STATE_KV;
            f.gate = bit(6) ? FLASHQLA_GATE_RAW : FLASHQLA_GATE_LOG;
            f.qk_norm = bit(5) ? FLASHQLA_NORM_L2 : FLASHQLA_NORM_NONE;
            f.beta_scale = 1, f.scale = 0.1, f.eps = 1e-6;
            r.problem.flags = bit(6) ? FLASHQLA_PROBLEM_KEYS_BOUNDED : 0;
            const int64_t tokens = bit(7) ? 1 << 16 : bit(9) ? 1 : 4;
            const int64_t rows = bit(8) ? bit(7) ? 10 : 4096 : 1;
            r.bounds = {rows, rows * tokens, tokens, bit(9)};
            if (bit(9) && bit(7) != bit(8) && (bit(8) || !bit(5)))  // prefill beside decode
                r.bounds = bit(7) ? fqla::Bounds{1001, tokens + 1000, tokens, true} : fqla::Bounds{4096, 20 * 600 + 4076, 600, true};
            r.state = {bit(10), bit(10), bit(10), bit(10)};
            r.aligned_16_bytes = bit(11);
            if (bit(8) && !bit(7) && !bit(9)) {  // decode
                r.bounds = {rows, rows, 1, false};
                r.state = {true, true, false, false};
                r.decode_reaches = bit(10);
            }
            if (!bit(8) && !bit(7) && !bit(9) && !bit(10)) {  // verify of few rows
                r.state = {true, true, false, true};
                r.decode_reaches = true;
            }
            for (int32_t engine = FLASHQLA_ENGINE_AUTO; engine <= FLASHQLA_ENGINE_CONTEXT_PARALLEL; engine++) {
                r.problem.engine = engine;
                for (const bool saved : {false, true}) {
                    r.saved = saved;
                    if (saved && !fqla::saved_bytes(r, card.caps)) continue;
                    const fqla::Plan plan = fqla::make_plan(r, card.caps);
                    if (r.op == FLASHQLA_OP_FORWARD)
                        add_steps<fqla::Forward>(plan, r, sizes);
                    else
                        add_steps<fqla::Backward>(plan, r, sizes);
                }
            }
        }
    }
    return sizes;
}

}  // namespace

TEST_CASE("each kernel is reached, with parameters of the size that it was compiled for") {
    const Sizes sizes = reached();
    for (int i = 0; i < fqla::kKernelCount; i++) CHECK_MESSAGE(sizes.count(fqla::kKernels[i].symbol) == 1, std::string(fqla::kKernels[i].symbol));
    std::ifstream budget(FQLA_BUDGET);
    REQUIRE(budget.good());
    int rows = 0;
    for (std::string line; std::getline(budget, line);) {
        if (line.empty() || line[0] == '#') continue;
        std::istringstream fields(line);
        std::string symbol, image;
        size_t registers = 0, spills = 0, shared = 0, parameters = 0;
        fields >> symbol >> image >> registers >> spills >> shared >> parameters;
        CAPTURE(line);
        const auto it = sizes.find(symbol);
        REQUIRE(it != sizes.end());
        CHECK((parameters == 0 || parameters == it->second));  // 0: the compiler does not tell
        CHECK(spills == 0);
        rows++;
    }
    CHECK(rows > 0);
}
