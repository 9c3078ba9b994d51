// What the program runs on: the device under test, the CPU handle of the oracle, and the options of the command line.
#pragma once
#include <string>

#include "device.h"
#include "flashqla.h"

namespace numeric {

struct Session {
    fqla_dev device{};
    flashqla_handle* handle = nullptr;
    flashqla_handle* oracle = nullptr;  // a CPU handle
    bool quick = false;                 // a reduced set: sanitizers
    int rounds = 0;                     // of the covering cases; 0: as many as the test likes
    bool bare_workspace = false;        // not even poisoned, so that initcheck sees what is read before it is written
    int32_t engine = 0;                 // takes the place of AUTO in every call that it can serve
    uint64_t seed = 0;

    bool cuda() const { return device.is_cuda != 0; }
    // "" or why there is no such device.
    std::string open(const char* wanted);
    void close();
};

Session& session();

// "--name=value" of the command line, else `otherwise`.
std::string option(int argc, char** argv, const char* name, const char* otherwise);
bool flag(int argc, char** argv, const char* name);

// A CPU handle with `threads` threads; null on failure.
flashqla_handle* cpu_handle(int32_t threads);

}  // namespace numeric
