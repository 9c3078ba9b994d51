// What a run of bench_serving is made of.
#pragma once
#include <cstdint>
#include <string>

namespace serving {

// Sizes are in tokens where nothing else is said. The defaults are a Qwen3-Next size for a GPU; on the CPU they are small.
struct Options {
    std::string device = "cuda";  // cpu, cuda or cuda:N
    int32_t dtype = 0;            // of q, k, v and outputs
    int64_t layers = 48, key_heads = 16, value_heads = 32, dim = 128;
    double seconds = 60;     // for which requests arrive; those that run are then finished
    double rate = 150;       // arrivals a second
    double step_ms = 0;      // > 0: the clock of arrivals goes on by this with each step, so that a seed gives one schedule everywhere
    int64_t budget = 2048;   // of a step
    int64_t draft = 4;       // of a verify row: one that is certain and guesses; 0: no speculation
    bool mixed = false;      // verify rows also in steps that have prefill rows
    int64_t requests = 32;   // that run at once
    int64_t cached = 48;     // slots of the prefix cache
    int64_t interval = 256;  // between checkpoints
    int64_t groups = 8;      // of prompts that begin alike
    int64_t prefix = 1024;   // most of such a beginning
    int64_t prompt = 2048;   // most of what follows it
    int64_t answer = 256;    // most
    int64_t check = 8;       // requests compared with float64
    int64_t seed = 1;

    bool cpu() const { return device == "cpu"; }
    int64_t longest() const { return prefix + prompt + answer; }
    int64_t slots() const { return requests * (1 + draft) + cached; }
    int64_t checkpoints() const { return budget / interval; }  // most of a row in a step
};

extern const char* const kUsage;

// False: `error` tells which option is wrong and how, or is empty where help was asked for.
bool parse_options(int argc, char** argv, Options& options, std::string& error);

}  // namespace serving
