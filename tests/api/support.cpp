// support README [--update]: the table of engines in the README against what flashqla_query answers for a device of each kind. The handles are
// made here, of plain facts, so that no device is needed. --update rewrites the block between the README's <!-- support --> marks.
#include <flashqla.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <vector>

#include "../plan/cards.h"
#include "handle.h"

namespace {

const std::string kBegin = "<!-- support -->\n", kEnd = "<!-- /support -->\n";

struct Device {
    const char* title;
    const char* card;  // of cards.h
};
constexpr Device kDevices[] = {{"sm_90a (Hopper)", "h100"}, {"sm_80 (8.x)", "a100"}, {"sm_100f", "b200"},
                               {"sm_120f", "rtx5090"},      {"PTX", "h100-no90a"},   {"CPU", "cpu8"}};

// A problem and how it is called. A row of the table holds for every case that it has.
struct Case {
    flashqla_problem problem{};
    int32_t op = FLASHQLA_OP_FORWARD;
    bool states = false, checkpoints = false, token_states = false;
};
using Cases = std::vector<Case>;

[[noreturn]] void stop(const std::string& why) {
    std::fprintf(stderr, "%s\n", why.c_str());
    std::exit(1);
}

// Each case once for each value, which set(case, value) puts into it.
template <class Value, class Set>
Cases for_each(const Cases& cases, std::initializer_list<Value> values, Set set) {
    Cases all;
    for (const Case& one : cases)
        for (const Value& value : values) {
            all.push_back(one);
            set(all.back(), value);
        }
    return all;
}

// Every gate, beta, norm, head map, state dtype and layout, with states and without, for the given dtypes and head dims.
Cases cases(int32_t op, std::initializer_list<int32_t> dtypes, std::initializer_list<std::pair<int32_t, int32_t>> dims) {
    Case first;
    if (flashqla_problem_init(&first.problem, sizeof first.problem, FLASHQLA_FORM_PLAIN)) stop(flashqla_last_error());
    first.op = op;
    first.problem.key_heads = 2;
    first.problem.value_heads = 8;
    Cases all = for_each({first}, dtypes, [](Case& c, int32_t x) { c.problem.dtype = x; });
    all = for_each(all, dims, [](Case& c, auto x) { c.problem.key_dim = x.first, c.problem.value_dim = x.second; });
    all = for_each(all, {FLASHQLA_GATE_LOG, FLASHQLA_GATE_LINEAR, FLASHQLA_GATE_RAW}, [](Case& c, int32_t x) { c.problem.gate = x; });
    all = for_each(all, {FLASHQLA_BETA_VALUE, FLASHQLA_BETA_LOGIT}, [](Case& c, int32_t x) { c.problem.beta = x; });
    all = for_each(all, {FLASHQLA_NORM_NONE, FLASHQLA_NORM_L2}, [](Case& c, int32_t x) { c.problem.qk_norm = x; });
    all = for_each(all, {FLASHQLA_HEADS_GROUPED, FLASHQLA_HEADS_TILED}, [](Case& c, int32_t x) { c.problem.head_map = x; });
    all = for_each(all, {FLASHQLA_STATE_KV, FLASHQLA_STATE_VK}, [](Case& c, int32_t x) { c.problem.state_layout = x; });
    all = for_each(all, {FLASHQLA_DTYPE_F32, FLASHQLA_DTYPE_BF16},
                   [](Case& c, int32_t x) { c.problem.state_dtype = c.problem.dtype == FLASHQLA_DTYPE_F64 ? int32_t{FLASHQLA_DTYPE_F64} : x; });
    return for_each(all, {false, true}, [](Case& c, bool x) { c.states = x; });
}

Cases with(Cases all, const std::function<void(Case&)>& change) {
    for (Case& c : all) change(c);
    return all;
}

// Calls that between them suit every engine: decode, one long row, many rows.
struct Bounds {
    int32_t rows;
    int64_t tokens_each;
};
constexpr Bounds kBounds[] = {{1, 1}, {1, 65536}, {4, 4096}, {64, 1024}};

// Whether the engine serves a call of the case, of any bounds.
bool serves(const flashqla_handle& handle, const Case& c, int32_t engine) {
    alignas(256) static char memory[256];  // stands for arrays, whose contents no query looks at
    flashqla_problem problem = c.problem;
    problem.engine = engine;
    for (const Bounds& bounds : kBounds) {
        flashqla_sequences sequences;
        flashqla_state state;
        if (flashqla_sequences_init(&sequences, sizeof sequences) || flashqla_state_init(&state, sizeof state)) stop(flashqla_last_error());
        sequences.rows = bounds.rows;
        sequences.tokens = bounds.rows * bounds.tokens_each;
        if (c.states) state.read_data = state.write_data = memory;
        if (c.checkpoints || c.token_states) state.write_data = memory;
        if (c.checkpoints) {
            state.checkpoint_slots = reinterpret_cast<const int32_t*>(memory);
            state.checkpoint_interval = 64;
            state.checkpoint_width = 1;
        }
        if (c.token_states) {
            state.token_slots = reinterpret_cast<const int32_t*>(memory);
            state.token_width = 1;
        }
        flashqla_query_info info{};
        info.struct_size = sizeof info;
        if (flashqla_query(&handle, &problem, &sequences, &state, c.op, &info)) stop(flashqla_last_error());
        if (info.status == FLASHQLA_STATUS_OK) return true;
    }
    return false;
}

// The engines of a cell. One that serves a part of a row's cases is a row that says too much.
std::string cell(const flashqla_handle& handle, const Cases& row, const std::string& title) {
    constexpr int32_t kOrder[] = {FLASHQLA_ENGINE_FUSED, FLASHQLA_ENGINE_CHUNKED, FLASHQLA_ENGINE_CONTEXT_PARALLEL, FLASHQLA_ENGINE_RECURRENT};
    const auto name = [&](int32_t engine) {
        switch (engine) {
            case FLASHQLA_ENGINE_FUSED:
                return "fused";
            case FLASHQLA_ENGINE_CHUNKED:
                return "chunked";
            case FLASHQLA_ENGINE_CONTEXT_PARALLEL:
                return "context parallel";
            default:
                return row[0].op == FLASHQLA_OP_BACKWARD ? "portable" : "recurrent";
        }
    };
    std::string text;
    for (const int32_t engine : kOrder) {
        size_t served = 0;
        for (const Case& c : row) served += serves(handle, c, engine);
        if (served && served < row.size()) stop(title + ": " + name(engine) + " serves only some of the row's cases on " + handle.name + ": split the row");
        if (served) text += (text.empty() ? "" : ", ") + std::string(name(engine));
    }
    return text.empty() ? "no" : text;
}

flashqla_handle handle_of(const Device& device) {
    flashqla_handle handle{};
    for (const Card& card : kCards)
        if (std::string(card.name) == device.card) {
            handle.caps = card.caps;
            std::snprintf(handle.name, sizeof handle.name, "%s", card.name);
            return handle;
        }
    stop(std::string("no card ") + device.card);
}

std::string table() {
    constexpr int32_t forward = FLASHQLA_OP_FORWARD, backward = FLASHQLA_OP_BACKWARD;
    constexpr int32_t f32 = FLASHQLA_DTYPE_F32, bf16 = FLASHQLA_DTYPE_BF16, f16 = FLASHQLA_DTYPE_F16, f64 = FLASHQLA_DTYPE_F64;
    const Cases fast = cases(forward, {bf16, f16}, {{128, 128}}), fast_backward = cases(backward, {bf16, f16}, {{128, 128}});
    const auto invariant = [](Case& c) { c.problem.flags = FLASHQLA_PROBLEM_BATCH_INVARIANT; };
    const auto kda = [](Case& c) { c.problem.gate = FLASHQLA_GATE_LOG_PER_KEY; };
    const std::pair<std::string, Cases> rows[] = {
        {"forward, bf16 or f16, K = V = 128", fast},
        {"the same with checkpoints", with(fast, [](Case& c) { c.checkpoints = true; })},
        {"the same with per-token states (verify)", with(fast, [](Case& c) { c.token_states = true; })},
        {"the same, BATCH_INVARIANT", with(fast, invariant)},
        {"forward, bf16 or f16, other K and V up to 256", cases(forward, {bf16, f16}, {{64, 64}, {128, 64}, {96, 192}, {256, 256}, {1, 7}})},
        {"forward, f32, K and V up to 256", cases(forward, {f32}, {{64, 64}, {128, 128}, {256, 256}})},
        {"forward, f64", cases(forward, {f64}, {{64, 64}, {128, 128}, {256, 256}})},
        {"backward, bf16 or f16, K = V = 128", fast_backward},
        {"the same, BATCH_INVARIANT", with(fast_backward, invariant)},
        {"backward, bf16 or f16, other K and V up to 256", cases(backward, {bf16, f16}, {{64, 64}, {128, 64}, {96, 192}, {256, 256}, {1, 7}})},
        {"backward, f32, K and V up to 256", cases(backward, {f32}, {{64, 64}, {128, 128}, {256, 256}})},
        {"backward, f64", cases(backward, {f64}, {{64, 64}, {128, 128}, {256, 256}})},
        {"a gate per key channel (KDA)", with(cases(forward, {f32, bf16}, {{128, 128}}), kda)},
    };
    // Devices whose columns are the same share one.
    std::vector<std::pair<std::string, std::vector<std::string>>> columns;
    for (const Device& device : kDevices) {
        const flashqla_handle handle = handle_of(device);
        std::vector<std::string> cells;
        for (const auto& [title, row] : rows) cells.push_back(cell(handle, row, title));
        const bool same = !columns.empty() && columns.back().second == cells && handle.caps.cuda;
        if (same)
            columns.back().first += std::string(", ") + device.title;
        else
            columns.push_back({device.title, cells});
    }
    std::ostringstream text;
    text << "Engines that serve a call on each image, as `flashqla_query` answers; a row holds for every gate, beta, norm, head map, state dtype and\n"
            "layout. The target `update_support` writes this table, and a test compares it.\n\n|";
    for (const auto& column : columns) text << " | " << column.first;
    text << " |\n| ---";
    for (size_t i = 0; i < columns.size(); i++) text << " | ---";
    text << " |\n";
    for (size_t i = 0; i < std::size(rows); i++) {
        text << "| " << rows[i].first;
        for (const auto& column : columns) text << " | " << column.second[i];
        text << " |\n";
    }
    return text.str();
}

}  // namespace

int main(int count, char** words) {
    if (count < 2) stop("usage: support README [--update]");
    const std::string path = words[1];
    std::stringstream buffer;
    buffer << std::ifstream(path).rdbuf();
    std::string readme = buffer.str();
    const size_t begin = readme.find(kBegin), end = readme.find(kEnd);
    if (begin == std::string::npos || end == std::string::npos || end < begin) stop(path + " has no block between " + kBegin + "and " + kEnd);
    const size_t from = begin + kBegin.size();
    const std::string today = table();
    std::fputs(today.c_str(), stdout);
    if (readme.substr(from, end - from) == today) return 0;
    if (count < 3 || std::string(words[2]) != "--update") stop("the README has another table: build the target update_support");
    readme.replace(from, end - from, today);
    std::ofstream(path) << readme;
    return 0;
}
