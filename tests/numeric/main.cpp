// flashqla_numeric [--device=cpu|cuda|cuda:N] [--seed=N] [--quick] [--rounds=N] [--engine=0..4] [--bare-workspace] [doctest's options]
// Test cases whose name begins with "cpu:" or "gpu:" are for that device, the others for both. Without the device wanted the cases are
// listed by name and the exit code is 77.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "compare.h"
#include "session.h"

namespace {

// Options and the filter by device; `more`: an option of doctest's, or null.
int run_cases(int argc, char** argv, const std::string& device, const char* more) {
    std::vector<const char*> arguments(argv, argv + argc);
    if (more) arguments.push_back(more);
    doctest::Context context(static_cast<int>(arguments.size()), arguments.data());
    context.addFilter("test-case-exclude", device == "cpu" ? "gpu:*" : "cpu:*");
    return context.run();
}

}  // namespace

int main(int argc, char** argv) {
    using namespace numeric;
    Session& s = session();
    const std::string device = option(argc, argv, "--device", "cpu");
    s.quick = flag(argc, argv, "--quick");
    s.rounds = std::atoi(option(argc, argv, "--rounds", s.quick ? "1" : "0").c_str());
    s.bare_workspace = flag(argc, argv, "--bare-workspace");
    s.engine = std::atoi(option(argc, argv, "--engine", "0").c_str());
    const std::string seed = option(argc, argv, "--seed", "");
    s.seed = seed.empty() ? static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()) : std::strtoull(seed.c_str(), nullptr, 0);
    const std::string missing = s.open(device.c_str());
    if (!missing.empty()) {
        std::printf("skipped: %s:\n", missing.c_str());
        std::fflush(stdout);
        run_cases(argc, argv, device, "--list-test-cases");
        return device == "cpu" ? 1 : 77;
    }
    std::printf("device %s, --seed=0x%llx%s\n", s.device.name, static_cast<unsigned long long>(s.seed), s.quick ? " --quick" : "");
    std::fflush(stdout);
    const int result = run_cases(argc, argv, device, nullptr);
    print_largest_errors();
    s.close();
    return result;
}
