// plan_golden FILE [--update]: the planner against a table. A change of the planner shows as a diff of golden.tsv; --update rewrites it.
//
// Columns: a request (card, op, HK/HV, KxV, tensor/state dtype, engine, flags, rows, tokens, max_tokens, options), then the plan (status,
// engine, launches, segments, workspace, most workspace, saved, steps, reason). Options, letter by letter: o offsets, r reads states,
// w writes them, c checkpoints, t per-token states, u unaligned, n not for the decode kernel (decode.h), v VK layout, g raw gate with L2 norm,
// s saves (forward) or reads what was saved (backward); - none.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cards.h"
#include "plan.h"

namespace {

std::string g_path;
bool g_update = false;
constexpr size_t kInputs = 11;

std::vector<std::string> split(const std::string& line) {
    std::vector<std::string> fields;
    std::stringstream stream(line);
    for (std::string field; std::getline(stream, field, '\t');) fields.push_back(field);
    return fields;
}

int32_t code(const std::string& name, std::initializer_list<const char*> names) {
    int32_t i = 0;
    for (const char* n : names) {
        if (name == n) return i;
        i++;
    }
    FAIL("unknown word in the table: " << name);
    return -1;
}

std::pair<int32_t, int32_t> pair(const std::string& text, char between) {
    const size_t at = text.find(between);
    return {std::stoi(text.substr(0, at)), std::stoi(text.substr(at + 1))};
}

const fqla::Caps& card(const std::string& name) {
    for (const Card& c : kCards)
        if (name == c.name) return c.caps;
    FAIL("unknown card in the table: " << name);
    return kCards[0].caps;
}

fqla::Request request_of(const std::vector<std::string>& f) {
    const std::string& options = f[10];
    const auto has = [&](char letter) { return options.find(letter) != std::string::npos; };
    const auto dtype = [](const std::string& name) { return code(name, {"", "f32", "bf16", "f16", "f64"}); };
    fqla::Request r{};
    r.op = code(f[1], {"forward", "backward"});
    fqla::Form& form = r.problem.form;
    std::tie(form.key_heads, form.value_heads) = pair(f[2], '/');
    std::tie(form.key_dim, form.value_dim) = pair(f[3], 'x');
    form.dtype = dtype(f[4].substr(0, f[4].find('/')));
    form.state_dtype = dtype(f[4].substr(f[4].find('/') + 1));
    form.gate = has('g') ? FLASHQLA_GATE_RAW : FLASHQLA_GATE_LOG;
    form.qk_norm = has('g') ? FLASHQLA_NORM_L2 : FLASHQLA_NORM_NONE;
    form.state_layout = has('v') ? FLASHQLA_STATE_VK : FLASHQLA_STATE_KV;
    form.beta_scale = 1, form.scale = 0.1, form.eps = 1e-6;
    r.problem.engine = code(f[5], {"auto", "recurrent", "chunked", "fused", "context_parallel"});
    r.problem.flags = std::stoull(f[6]);
    r.bounds = {std::stoll(f[7]), std::stoll(f[8]), std::stoll(f[9]), has('o')};
    r.state = {has('r'), has('w'), has('c'), has('t')};
    r.aligned_16_bytes = !has('u');
    r.decode_reaches = !has('n');
    r.saved = has('s');
    return r;
}

std::string steps_of(const fqla::Plan& plan) {
    std::ostringstream text;
    for (int i = 0; i < plan.step_count; i++) {
        const fqla::Step& s = plan.steps[i];
        text << (i ? " + " : "") << fqla::kKernels[static_cast<size_t>(s.kernel)].symbol << '[' << s.grid[0] << ',' << s.grid[1] << ',' << s.grid[2] << "]*"
             << s.threads;
        if (s.shared_bytes) text << " shared " << s.shared_bytes;
        if (s.when == fqla::When::each_but_last) text << " each segment but the last";
        if (s.when == fqla::When::each_segment) text << " each segment";
        if (s.when == fqla::When::after) text << " after";
    }
    return plan.step_count ? text.str() : "-";
}

std::string answer(const std::vector<std::string>& fields) {
    const fqla::Request request = request_of(fields);
    const fqla::Caps& caps = card(fields[0]);
    const fqla::Plan plan = fqla::make_plan(request, caps);
    std::ostringstream text;
    text << (plan.status == FLASHQLA_STATUS_OK            ? "OK"
             : plan.status == FLASHQLA_STATUS_UNSUPPORTED ? "UNSUPPORTED"
                                                          : "?")
         << '\t' << plan.engine << '\t' << plan.launches() << '\t' << plan.segments << '\t' << plan.workspace.total_bytes() << '\t'
         << fqla::most_workspace_bytes(request, caps) << '\t' << (plan.status ? 0 : fqla::saved_bytes(request, caps)) << '\t' << steps_of(plan) << '\t'
         << (plan.reason[0] ? plan.reason : "-");
    return text.str();
}

// Calls each(request's fields, request's text, wanted answer) for each row; comments and the heading go to other(line).
template <class Each, class Other>
void read_table(Each each, Other other) {
    std::ifstream file(g_path);
    REQUIRE_MESSAGE(file.good(), g_path);
    for (std::string line; std::getline(file, line);) {
        const std::vector<std::string> fields = split(line);
        if (line.empty() || line[0] == '#') {
            other(line);
            continue;
        }
        REQUIRE_MESSAGE(fields.size() >= kInputs, line);
        std::string request = fields[0], wanted;
        for (size_t i = 1; i < kInputs; i++) request += '\t' + fields[i];
        for (size_t i = kInputs; i < fields.size(); i++) wanted += (i == kInputs ? "" : "\t") + fields[i];
        each(fields, request, wanted);
    }
}

void update() {
    std::string table;
    read_table([&](const auto& fields, const std::string& request, const std::string&) { table += request + '\t' + answer(fields) + '\n'; },
               [&](const std::string& line) { table += line + '\n'; });
    std::ofstream(g_path) << table;
}

}  // namespace

TEST_CASE("plans are those of the table") {
    if (g_update) return update();
    int rows = 0;
    read_table(
        [&](const auto& fields, const std::string& request, const std::string& wanted) {
            CAPTURE(request);
            CHECK(answer(fields) == wanted);
            rows++;
        },
        [](const std::string&) {});
    CHECK(rows > 50);
}

int main(int argc, char** argv) {
    if (argc < 2) return 1;
    g_path = argv[1];
    g_update = argc > 2 && !std::strcmp(argv[2], "--update");
    return doctest::Context(argc - 1, argv + 1).run();
}
