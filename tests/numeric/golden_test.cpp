// F64 calls of the CPU backend against the vectors of tests/golden.
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>

#include "check.h"

using namespace numeric;

namespace {

struct Golden {
    Case c;
    std::string name;
    std::map<std::string, Numbers> arrays;
    std::map<std::string, std::vector<int64_t>> shapes;
};

std::vector<std::string> split(const std::string& line, char by) {
    std::vector<std::string> parts;
    std::stringstream in(line);
    for (std::string part; std::getline(in, part, by);) parts.push_back(part);
    return parts;
}

// case name gate beta beta_scale l2 eps map layout scale
Golden read_case(const std::vector<std::string>& f) {
    Golden g;
    g.name = f[1];
    Case& c = g.c;
    c.gate = f[2] == "log" ? FLASHQLA_GATE_LOG : f[2] == "linear" ? FLASHQLA_GATE_LINEAR : FLASHQLA_GATE_RAW;
    c.beta = f[3] == "logit" ? FLASHQLA_BETA_LOGIT : FLASHQLA_BETA_VALUE;
    c.beta_scale = std::stod(f[4]);
    c.qk_norm = f[5] == "1" ? FLASHQLA_NORM_L2 : FLASHQLA_NORM_NONE;
    c.eps = std::stod(f[6]);
    c.head_map = f[7] == "tiled" ? FLASHQLA_HEADS_TILED : FLASHQLA_HEADS_GROUPED;
    c.state_layout = f[8] == "VK" ? FLASHQLA_STATE_VK : FLASHQLA_STATE_KV;
    c.scale = std::stod(f[9]);
    c.dtype = c.gate_dtype = c.state_dtype = FLASHQLA_DTYPE_F64;
    return g;
}

std::vector<Golden> read_all() {
    const std::string folder = FQLA_GOLDEN_FOLDER;
    std::ifstream manifest(folder + "/manifest.tsv"), blob(folder + "/vectors.bin", std::ios::binary);
    std::vector<Golden> all;
    for (std::string line; std::getline(manifest, line);) {
        const std::vector<std::string> f = split(line, '\t');
        if (f[0] == "case") {
            all.push_back(read_case(f));
            continue;
        }
        std::vector<int64_t> shape;
        int64_t count = 1;
        for (const std::string& extent : split(f[3], 'x')) count *= shape.emplace_back(std::stoll(extent));
        Numbers x(static_cast<size_t>(count));
        blob.seekg(std::stoll(f[2]) * 8);
        blob.read(reinterpret_cast<char*>(x.data()), static_cast<std::streamsize>(count * 8));
        all.back().arrays[f[1]] = x;
        all.back().shapes[f[1]] = shape;
    }
    return all;
}

// The vectors' states are in the case's layout, the harness's are [K, V].
Numbers to_kv(const Case& c, const Numbers& x) {
    if (c.state_layout == FLASHQLA_STATE_KV) return x;
    Numbers y(x.size());
    const auto K = static_cast<size_t>(c.key_dim), V = static_cast<size_t>(c.value_dim);
    for (size_t s = 0; s < x.size() / (K * V); s++)
        for (size_t i = 0; i < K; i++)
            for (size_t j = 0; j < V; j++) y[s * K * V + i * V + j] = x[s * K * V + j * K + i];
    return y;
}

Sample sample_of(Golden& g) {
    Case& c = g.c;
    const auto &q = g.shapes["q"], &v = g.shapes["v"];
    c.key_heads = static_cast<int32_t>(q[1]), c.key_dim = static_cast<int32_t>(q[2]);
    c.value_heads = static_cast<int32_t>(v[1]), c.value_dim = static_cast<int32_t>(v[2]);
    const bool state = g.arrays.count("s0") > 0;
    c.states = state ? States::separate : States::write;
    c.offsets = Offsets::i64;
    Sample s;
    c.lengths.clear();
    for (const double offset : g.arrays["cu"]) {
        if (!s.tables.offsets.empty()) c.lengths.push_back(static_cast<int64_t>(offset) - s.tables.offsets.back());
        s.tables.offsets.push_back(static_cast<int64_t>(offset));
    }
    s.c = c;
    s.tokens = q[0];
    s.tables.slots = c.rows();
    for (int64_t n = 0; state && n < c.rows(); n++)
        s.tables.read_slots.push_back(g.arrays["has_s0"][static_cast<size_t>(n)] != 0 ? static_cast<int32_t>(n) : FLASHQLA_SLOT_NONE);
    auto& a = g.arrays;
    const char* gate = c.gate == FLASHQLA_GATE_LOG ? "g" : c.gate == FLASHQLA_GATE_LINEAR ? "alpha" : "a";
    s.values = {a["q"], a["k"], a["v"], a[gate], a["b"], a["A_log"], a["dt_bias"], to_kv(c, a["s0"]), a["do"], to_kv(c, a["dsT"])};
    return s;
}

double worst(const Numbers& got, const Numbers& want) {
    double off = 0, size = 0;
    REQUIRE(got.size() == want.size());
    for (size_t i = 0; i < want.size(); i++) {
        if (!(std::fabs(got[i] - want[i]) <= off)) off = std::fabs(got[i] - want[i]);
        size = std::max(size, std::fabs(want[i]));
    }
    return size > 0 ? off / size : off;
}

double largest = 0;

void check_grid(const Golden& g, const Outcome& got, const char* grid, const std::string& array, bool state = false) {
    const auto found = g.arrays.find(array);
    if (found == g.arrays.end()) return;
    REQUIRE(got.find(grid));
    const double error = worst(got.find(grid)->value, state ? to_kv(g.c, found->second) : found->second);
    CHECK_MESSAGE(error <= 1e-11, g.name, " ", grid, ": largest difference over largest value ", error);
    largest = std::max(largest, error);
}

}  // namespace

TEST_SUITE_BEGIN("golden");

TEST_CASE("cpu: forward and every gradient equal the golden vectors") {
    std::vector<Golden> all = read_all();
    CHECK(all.size() == 52);
    for (Golden& g : all) {
        const Sample sample = sample_of(g);
        Call forward(sample, {});
        const Outcome f = must_run(forward);
        CHECK(f.damage == "");
        check_grid(g, f, "out", "o");
        check_grid(g, f, "state", "sT", true);
        Call::Options options;
        options.op = FLASHQLA_OP_BACKWARD;
        Call backward(sample, options);
        const Outcome b = must_run(backward);
        CHECK(b.damage == "");
        const std::pair<const char*, const char*> gradients[] = {{"dq", "d_q"},     {"dk", "d_k"},         {"dv", "d_v"},
                                                                 {"d_beta", "d_b"}, {"d_gate", "d_g"},     {"d_gate", "d_alpha"},
                                                                 {"d_gate", "d_a"}, {"dA_log", "d_A_log"}, {"ddt_bias", "d_dt_bias"}};
        for (const auto& [grid, array] : gradients) check_grid(g, b, grid, array);
        check_grid(g, b, "d_initial", "d_s0", true);
    }
    MESSAGE(all.size(), " cases, largest difference ", largest);
}

TEST_SUITE_END();
