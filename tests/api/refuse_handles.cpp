// What the functions around the operations refuse: create, initialisers, device_info, query, explain, warmup.
#include <cstring>
#include <string>

#include "call.h"

namespace {

constexpr int32_t kInvalid = FLASHQLA_STATUS_INVALID_ARGUMENT;

bool says(std::initializer_list<const char*> parts) {
    for (const char* part : parts)
        if (!std::strstr(flashqla_last_error(), part)) {
            MESSAGE(flashqla_last_error() << " does not say " << part);
            return false;
        }
    return true;
}

flashqla_config cpu_config() {
    flashqla_config c;
    flashqla_config_init(&c, sizeof c);
    c.device = FLASHQLA_DEVICE_CPU;
    c.threads = 1;
    return c;
}

// The handle is NULL after a refusal, whatever it was before.
int32_t create(const flashqla_config& c) {
    auto* handle = reinterpret_cast<flashqla_handle*>(uintptr_t{1});
    const int32_t status = flashqla_create(&handle, &c);
    CHECK(handle == nullptr);
    return status;
}

}  // namespace

TEST_SUITE("refuse") {
    TEST_CASE("create") {
        flashqla_config c = cpu_config();
        CHECK(flashqla_create(nullptr, &c) == kInvalid);
        CHECK(says({"out", "NULL"}));
        c.struct_size = 39;
        CHECK(create(c) == kInvalid);
        CHECK(says({"flashqla_config.struct_size", "= 39", "at least 40"}));
        c = cpu_config(), c.device = -3;
        CHECK(create(c) == kInvalid);
        CHECK(says({"config.device", "= -3"}));
        c = cpu_config(), c.threads = -1;
        CHECK(create(c) == kInvalid);
        CHECK(says({"config.threads", "= -1", "0 to 1024"}));
        c = cpu_config(), c.threads = 1025;
        CHECK(create(c) == kInvalid);
        CHECK(says({"config.threads", "= 1025", "0 to 1024"}));
        c = cpu_config(), c.reserved = 4;
        CHECK(create(c) == kInvalid);
        CHECK(says({"config.reserved", "= 4", "must be 0"}));
        c = cpu_config(), c.flags = 1;
        CHECK(create(c) == kInvalid);
        CHECK(says({"config.flags", "0x1"}));
        flashqla_destroy(nullptr);
    }

    TEST_CASE("query, explain, warmup, device_info") {
        Call c;
        CHECK(c.query(2) == kInvalid);
        CHECK(says({"op", "= 2", "FORWARD"}));
        CHECK(c.query(-1) == kInvalid);
        c.info.struct_size = 8;
        CHECK(c.query(FLASHQLA_OP_FORWARD) == kInvalid);
        CHECK(says({"flashqla_query_info.struct_size", "= 8", "at least 48"}));
        CHECK(flashqla_query(c.handle, &c.problem, &c.sequences, nullptr, 0, nullptr) == kInvalid);
        CHECK(says({"flashqla_query_info", "NULL"}));

        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, 7, nullptr, 0, nullptr) == kInvalid);
        CHECK(says({"op", "= 7"}));
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, 0, nullptr, 10, nullptr) == kInvalid);
        CHECK(says({"text", "NULL", "capacity = 10"}));
        char text[8] = "as was";
        c.problem.key_dim = 0;
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, 0, text, sizeof text, nullptr) == kInvalid);
        CHECK(std::string(text) == "as was");

        CHECK(flashqla_warmup(c.handle, &c.problem, 0) == kInvalid);
        CHECK(says({"problem.key_dim", "= 0"}));
        CHECK(flashqla_warmup(nullptr, nullptr, 0) == kInvalid);
        CHECK(flashqla_warmup(c.handle, nullptr, 3) == kInvalid);

        flashqla_device device{};
        CHECK(flashqla_device_info(c.handle, &device) == kInvalid);
        CHECK(says({"flashqla_device.struct_size", "= 0", "at least 136"}));
        CHECK(flashqla_device_info(nullptr, &device) == kInvalid);
        CHECK(flashqla_device_info(c.handle, nullptr) == kInvalid);
    }

    TEST_CASE("initialisers") {
        flashqla_problem problem;
        std::memset(&problem, 0xA5, sizeof problem);
        const flashqla_problem before = problem;
        CHECK(flashqla_problem_init(nullptr, sizeof problem, 0) == kInvalid);
        CHECK(says({"flashqla_problem", "NULL"}));
        CHECK(flashqla_problem_init(&problem, sizeof problem - 8, 0) == kInvalid);
        CHECK(says({"size", "= 80", "at least 88"}));
        CHECK(flashqla_problem_init(&problem, sizeof problem, 2) == kInvalid);
        CHECK(says({"form", "= 2", "QWEN"}));
        CHECK(flashqla_problem_init(&problem, sizeof problem, -1) == kInvalid);
        CHECK(std::memcmp(&problem, &before, sizeof problem) == 0);
        CHECK(flashqla_config_init(nullptr, 40) == kInvalid);
        CHECK(flashqla_sequences_init(nullptr, 40) == kInvalid);
        CHECK(flashqla_state_init(nullptr, 128) == kInvalid);
        CHECK(flashqla_forward_args_init(nullptr, 472) == kInvalid);
        CHECK(flashqla_backward_args_init(nullptr, 976) == kInvalid);
    }
}
