// error_cells [--device=cuda|cpu] [--engine=0..4] [--dtype=bf16|f16|f32] [--rows=384+65+1+300] [--heads=2/4] [--seed=N] [--quick]
// Relative L2 against the F64 oracle in every cell of (gates, beta, keys, state given or not), a line for each tensor, tab-separated, with
// the distributions of bench/compare.py: K = V = 128, log gates and betas as f32 values, f32 states [K, V], grouped heads.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>

#include "call.h"
#include "compare.h"
#include "oracle.h"

using namespace numeric;

namespace {

constexpr const char* kGates[] = {"none", "gentle", "model", "strong"};
constexpr const char* kKeys[] = {"random", "alike", "norm1.4"};

Case base_case(int argc, char** argv) {
    Case c;
    const std::string dtype = option(argc, argv, "--dtype", "bf16"), heads = option(argc, argv, "--heads", "2/4");
    c.dtype = dtype == "f32" ? FLASHQLA_DTYPE_F32 : dtype == "f16" ? FLASHQLA_DTYPE_F16 : FLASHQLA_DTYPE_BF16;
    c.key_heads = std::atoi(heads.c_str());
    c.value_heads = std::atoi(heads.c_str() + heads.find('/') + 1);
    c.key_dim = c.value_dim = 128;
    c.lengths.clear();
    std::stringstream rows(option(argc, argv, "--rows", flag(argc, argv, "--quick") ? "100+1+65" : "384+65+1+300"));
    for (std::string row; std::getline(rows, row, '+');) c.lengths.push_back(std::atoll(row.c_str()));
    return c;
}

void print_cell(const Case& c, int32_t engine, int32_t op, const Sample& sample) {
    Call::Options options;
    options.op = op;
    options.engine = engine;
    Call call(sample, options);
    const flashqla_query_info info = call.query();
    const std::string name = info.engine_name ? info.engine_name : "?";
    char cell[160];
    std::snprintf(cell, sizeof cell, "%s\t%s\t%s\t%s\t%s", kGates[static_cast<int>(c.gates)], c.beta_scale > 1 ? "2sigmoid" : "sigmoid",
                  kKeys[static_cast<int>(c.keys)], c.reads_state() ? "given" : "none", name.c_str());
    if (const int32_t status = call.run()) {
        std::printf("%s\t%s\t%s\n", cell, op ? "backward" : "forward", flashqla_status_name(status));
        return;
    }
    const Outcome got = call.read(), want = op ? oracle_backward(sample) : oracle_forward(sample);
    for (size_t g = 0; g < want.grids.size(); g++) {
        if (!c.reads_state() && !std::strcmp(want.grids[g].name, "d_initial")) continue;
        const Difference d = compare(got.grids[g], want.grids[g], 1);
        const size_t bad = d.nans + d.infinities;
        std::printf("%s\t%s\t%.3e%s\n", cell, want.grids[g].name, d.relative, bad ? (" (" + std::to_string(bad) + " not finite)").c_str() : "");
    }
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    Session& s = session();
    const std::string missing = s.open(option(argc, argv, "--device", "cuda").c_str());
    if (!missing.empty()) {
        std::printf("skipped: %s\n", missing.c_str());
        return 77;
    }
    Case c = base_case(argc, argv);
    const int32_t engine = std::atoi(option(argc, argv, "--engine", "0").c_str());
    c.seed = std::strtoull(option(argc, argv, "--seed", "1").c_str(), nullptr, 0);
    std::printf("# %s, %s, seed %llu\ngates\tbeta\tkeys\tstate\tengine\ttensor\trelative L2\n", s.device.name, c.text().c_str(),
                static_cast<unsigned long long>(c.seed));
    for (const Gates gates : {Gates::none, Gates::gentle, Gates::model, Gates::strong})
        for (const double scale : {1.0, 2.0})
            for (const Keys keys : {Keys::random, Keys::alike, Keys::long_})
                for (const States states : {States::separate, States::write}) {
                    c.gates = gates, c.beta_scale = scale, c.keys = keys, c.states = states;
                    c.seed++;
                    const Sample sample = make_sample(c);
                    print_cell(c, engine, FLASHQLA_OP_FORWARD, sample);
                    print_cell(c, engine, FLASHQLA_OP_BACKWARD, sample);
                }
    s.close();
    return 0;
}
