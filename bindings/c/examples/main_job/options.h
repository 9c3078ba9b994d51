// The command line.
#pragma once
#include <cstdint>
#include <string>

namespace job {

struct Options {
    std::string file = "README.md";
    int32_t device = -2;         // FLASHQLA_DEVICE_BEST
    int32_t dtype = 2;           // FLASHQLA_DTYPE_BF16
    int64_t tokens = 2048;       // of the prompt, at most
    int64_t train_tokens = 512;  // at most
    bool help = false;
};

extern const char* const kUsage;

// False: `error` says what is wrong with the arguments.
bool parse_options(int argc, char** argv, Options& options, std::string& error);

}  // namespace job
