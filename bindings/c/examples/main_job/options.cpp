#include "options.h"

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "flashqla.h"

namespace job {

const char* const kUsage =
    "usage: flashqla-main-job [FILE] [--cpu | --device N] [--dtype bf16|f16|f32] [--tokens N]\n"
    "\n"
    "Runs a text through the linear attention of one Qwen3-Next layer with weights of a fixed seed, through flashqla's C API: prefill,\n"
    "decode, speculative verify with rollback, and a training step's backward. Every result is compared with float64.\n"
    "\n"
    "  FILE          text, README.md when none is named; each byte is a token\n"
    "  --cpu         on the CPU, also where there is a GPU\n"
    "  --device N    on CUDA device N; without it on the first, or on the CPU where there is none\n"
    "  --dtype T     type of q, k, v and outputs: bf16 (default), f16 or f32\n"
    "  --tokens N    most tokens of the prompt, 64 to 65536 (default 2048)\n"
    "\n"
    "Exit status: 0 all within bounds, 1 something is not, 2 bad usage.\n";

namespace {

bool parse_number(const char* text, int64_t low, int64_t high, int64_t& value) {
    char* end = nullptr;
    errno = 0;
    value = std::strtoll(text, &end, 10);
    return *text && !*end && !errno && value >= low && value <= high;
}

}  // namespace

bool parse_options(int argc, char** argv, Options& options, std::string& error) {
    bool file_named = false;
    for (int i = 1; i < argc; i++) {
        const std::string name = argv[i];
        if (name == "--help" || name == "-h")
            options.help = true;
        else if (name == "--cpu")
            options.device = FLASHQLA_DEVICE_CPU;
        else if (name == "--device" || name == "--dtype" || name == "--tokens") {
            if (++i == argc) return error = name + " needs a value", false;
            const std::string value = argv[i];
            int64_t number = 0;
            if (name == "--device") {
                if (!parse_number(argv[i], 0, 1023, number)) return error = "--device " + value + ": must be a CUDA device number, 0 or more", false;
                options.device = static_cast<int32_t>(number);
            } else if (name == "--tokens") {
                if (!parse_number(argv[i], 64, 65536, options.tokens)) return error = "--tokens " + value + ": must be 64 to 65536", false;
            } else if (value == "bf16")
                options.dtype = FLASHQLA_DTYPE_BF16;
            else if (value == "f16")
                options.dtype = FLASHQLA_DTYPE_F16;
            else if (value == "f32")
                options.dtype = FLASHQLA_DTYPE_F32;
            else
                return error = "--dtype " + value + ": must be bf16, f16 or f32", false;
        } else if (name.size() > 1 && name[0] == '-')
            return error = "unknown option " + name, false;
        else if (file_named)
            return error = "one file at a time: " + name + " is a second one", false;
        else
            options.file = name, file_named = true;
    }
    return true;
}

}  // namespace job
