#include "session.h"

#include <cstdlib>
#include <cstring>

namespace numeric {
namespace {

flashqla_handle* make_handle(int32_t device, int32_t threads) {
    flashqla_config config;
    flashqla_config_init(&config, sizeof config);
    config.device = device;
    config.threads = threads;
    flashqla_handle* handle = nullptr;
    return flashqla_create(&handle, &config) ? nullptr : handle;
}

}  // namespace

Session& session() {
    static Session s;
    return s;
}

flashqla_handle* cpu_handle(int32_t threads) { return make_handle(FLASHQLA_DEVICE_CPU, threads); }

std::string Session::open(const char* wanted) {
    int ordinal = -1;
    if (!std::strncmp(wanted, "cuda", 4)) ordinal = wanted[4] == ':' ? std::atoi(wanted + 5) : 0;
    if (ordinal >= 0 && fqla_dev_count() <= ordinal) return "no CUDA device " + std::to_string(ordinal);
    if (fqla_dev_open(&device, ordinal)) return fqla_dev_error(&device);
    oracle = cpu_handle(0);
    if (!oracle) return std::string("no CPU handle: ") + flashqla_last_error();
    handle = ordinal < 0 ? oracle : make_handle(ordinal, 0);
    if (!handle) return std::string("no handle: ") + flashqla_last_error();
    return "";
}

void Session::close() {
    if (handle != oracle) flashqla_destroy(handle);
    flashqla_destroy(oracle);
    handle = oracle = nullptr;
    fqla_dev_close(&device);
}

std::string option(int argc, char** argv, const char* name, const char* otherwise) {
    const size_t length = std::strlen(name);
    for (int i = 1; i < argc; i++)
        if (!std::strncmp(argv[i], name, length) && argv[i][length] == '=') return argv[i] + length + 1;
    return otherwise;
}

bool flag(int argc, char** argv, const char* name) {
    for (int i = 1; i < argc; i++)
        if (!std::strcmp(argv[i], name)) return true;
    return false;
}

}  // namespace numeric
