#include "options.h"

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "flashqla.h"

namespace serving {

const char* const kUsage =
    "usage: bench_serving [--device=cpu|cuda|cuda:N] [--name=value ...]\n"
    "\n"
    "Serves random requests by continuous batching through flashqla's C API: prefill in chunks, decode and speculative verify with rollback\n"
    "in one call a layer, states in a pool of slots, prompts that begin alike from checkpoints. Sampled requests are compared with float64.\n"
    "\n"
    "  --layers --heads=16/32 --dim --dtype=bf16|f16|f32            the model: its linear-attention layers\n"
    "  --seconds --rate --prefix --prompt --answer --groups         the traffic: arrivals a second, most tokens of each part, kinds of prefix\n"
    "  --budget --requests --draft --verify=apart|mixed             the engine: tokens a step, requests at once, tokens of a verify row;\n"
    "                                                               mixed: verify rows also in steps that have prefill rows\n"
    "  --cached --interval                                          the prefix cache: slots, tokens between checkpoints\n"
    "  --step-ms                                                    the clock of arrivals counts steps of this length instead of time\n"
    "  --check --seed                                               requests compared with float64; the seed of everything\n"
    "\n"
    "Exit status: 0 all within bounds, 1 something is not, 2 bad usage, 77 no such device.\n";

namespace {

// A number of the command line, and where it goes.
struct Field {
    const char* name;
    double low, high;
    int64_t Options::*whole;
    double Options::*real;
};

constexpr Field kFields[] = {
    {"layers", 1, 256, &Options::layers, nullptr},        {"dim", 1, 256, &Options::dim, nullptr},
    {"budget", 1, 65536, &Options::budget, nullptr},      {"draft", 0, 16, &Options::draft, nullptr},
    {"requests", 1, 4096, &Options::requests, nullptr},   {"cached", 0, 65536, &Options::cached, nullptr},
    {"interval", 64, 65536, &Options::interval, nullptr}, {"groups", 0, 4096, &Options::groups, nullptr},
    {"prefix", 64, 65536, &Options::prefix, nullptr},     {"prompt", 1, 65536, &Options::prompt, nullptr},
    {"answer", 1, 65536, &Options::answer, nullptr},      {"check", 0, 1024, &Options::check, nullptr},
    {"seed", 0, 9e15, &Options::seed, nullptr},           {"seconds", 0, 86400, nullptr, &Options::seconds},
    {"rate", 1e-3, 1e6, nullptr, &Options::rate},         {"step-ms", 0, 1e4, nullptr, &Options::step_ms},
};

void make_small(Options& o) {
    o.layers = 2, o.key_heads = 2, o.value_heads = 4;
    o.seconds = 10, o.rate = 60;
    o.budget = 192, o.requests = 8, o.check = 12, o.cached = 5, o.interval = 64;
    o.groups = 6, o.prefix = 200, o.prompt = 200, o.answer = 32;
}

bool parse_heads(const char* text, Options& o) {
    char* end = nullptr;
    o.key_heads = std::strtol(text, &end, 10);
    if (*end != '/') return false;
    o.value_heads = std::strtol(end + 1, &end, 10);
    return !*end && o.key_heads >= 1 && o.value_heads >= 1 && o.value_heads % o.key_heads == 0 && o.value_heads <= 1024;
}

bool parse_dtype(const std::string& text, Options& o) {
    o.dtype = text == "bf16" ? FLASHQLA_DTYPE_BF16 : text == "f16" ? FLASHQLA_DTYPE_F16 : text == "f32" ? FLASHQLA_DTYPE_F32 : 0;
    return o.dtype != 0;
}

bool parse_number(const std::string& name, const char* text, Options& o) {
    for (const Field& f : kFields) {
        if (name != f.name) continue;
        char* end = nullptr;
        const double x = std::strtod(text, &end);
        if (end == text || *end || !(x >= f.low && x <= f.high) || (f.whole && x != std::floor(x))) return false;
        if (f.whole)
            o.*f.whole = static_cast<int64_t>(x);
        else
            o.*f.real = x;
        return true;
    }
    return false;
}

bool parse_one(const std::string& name, const char* value, Options& o) {
    if (name == "device") return o.device = value, o.cpu() || o.device.compare(0, 4, "cuda") == 0;
    if (name == "heads") return parse_heads(value, o);
    if (name == "dtype") return parse_dtype(value, o);
    if (name == "verify") return o.mixed = !std::strcmp(value, "mixed"), o.mixed || !std::strcmp(value, "apart");
    return parse_number(name, value, o);
}

}  // namespace

bool parse_options(int argc, char** argv, Options& o, std::string& error) {
    o.dtype = FLASHQLA_DTYPE_BF16;
    for (int i = 1; i < argc; i++)
        if (!std::strcmp(argv[i], "--device=cpu")) make_small(o);
    for (int i = 1; i < argc; i++) {
        if (!std::strcmp(argv[i], "--help")) return error.clear(), false;
        const char* equals = std::strchr(argv[i], '=');
        const bool form = !std::strncmp(argv[i], "--", 2) && equals;
        if (!form || !parse_one(std::string(argv[i] + 2, static_cast<size_t>(equals - argv[i] - 2)), equals + 1, o))
            return error = std::string(argv[i]) + ": no such option or value", false;
    }
    if (o.interval % 64) return error = "--interval: must be a multiple of 64", false;
    // Decode rows come first; what they leave must hold a chunk of some prompt, or prefill would wait for ever.
    const int64_t least = o.requests * (o.draft > 1 ? o.draft : 1) + o.interval;
    if (o.budget < least) return error = "--budget: must be " + std::to_string(least) + " at least: requests * draft + interval", false;
    return true;
}

}  // namespace serving
