// The last error: whose it is, how long it lives, how it is copied out.
#include <cstring>
#include <string>
#include <thread>

#include "call.h"

TEST_SUITE("messages") {
    TEST_CASE("a thread that has not failed has an empty one") {
        std::string first = "not run";
        size_t needed = 99;
        std::thread([&] { first = flashqla_last_error(), needed = flashqla_last_error_copy(nullptr, 0); }).join();
        CHECK(first.empty());
        CHECK(needed == 1);
    }

    TEST_CASE("it stays over calls that succeed") {
        Call c;
        c.problem.key_dim = 999;
        CHECK(c.forward() != FLASHQLA_STATUS_OK);
        const std::string told = flashqla_last_error();
        c.problem.key_dim = Call::kKeyDim;
        CHECK(c.forward() == FLASHQLA_STATUS_OK);
        CHECK(c.query(FLASHQLA_OP_FORWARD) == FLASHQLA_STATUS_OK);
        CHECK(flashqla_last_error() == told);
        // A query that answers "not supported", and BEST that falls back to the CPU, are no failures either.
        c.problem.gate = FLASHQLA_GATE_LOG_PER_KEY;
        CHECK(c.query(FLASHQLA_OP_FORWARD) == FLASHQLA_STATUS_OK);
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, 0, nullptr, 0, nullptr) == FLASHQLA_STATUS_OK);
        flashqla_handle* best = nullptr;
        CHECK(flashqla_create(&best, nullptr) == FLASHQLA_STATUS_OK);
        flashqla_destroy(best);
        CHECK(flashqla_last_error() == told);
    }

    TEST_CASE("each thread has its own") {
        Call c;
        c.problem.key_dim = 999;
        CHECK(c.forward() != FLASHQLA_STATUS_OK);
        const std::string here = flashqla_last_error();
        std::string there;
        std::thread([&] {
            Call other;
            other.problem.value_dim = 777;
            other.forward();
            there = flashqla_last_error();
        }).join();
        CHECK(there.find("value_dim = 777") != std::string::npos);
        CHECK(flashqla_last_error() == here);
        CHECK(here.find("key_dim = 999") != std::string::npos);
    }

    TEST_CASE("copies are cut, ended and counted") {
        Call c;
        c.problem.key_dim = 999;
        c.forward();
        const std::string all = flashqla_last_error();
        char buffer[1024];
        std::memset(buffer, 'x', sizeof buffer);
        CHECK(flashqla_last_error_copy(buffer, sizeof buffer) == all.size() + 1);
        CHECK(buffer == all);
        CHECK(buffer[all.size() + 1] == 'x');
        std::memset(buffer, 'x', sizeof buffer);
        CHECK(flashqla_last_error_copy(buffer, 8) == all.size() + 1);
        CHECK(buffer == all.substr(0, 7));
        CHECK(buffer[8] == 'x');
        std::memset(buffer, 'x', sizeof buffer);
        CHECK(flashqla_last_error_copy(buffer, 1) == all.size() + 1);
        CHECK(buffer[0] == 0);
        CHECK(flashqla_last_error_copy(buffer, 0) == all.size() + 1);
        CHECK(flashqla_last_error_copy(nullptr, 0) == all.size() + 1);
        CHECK(flashqla_last_error_copy(nullptr, 100) == all.size() + 1);
    }

    TEST_CASE("status names") {
        CHECK(std::string(flashqla_status_name(FLASHQLA_STATUS_OK)) == "OK");
        CHECK(std::string(flashqla_status_name(FLASHQLA_STATUS_INTERNAL)) == "INTERNAL");
        CHECK(std::string(flashqla_status_name(-1)) == "unknown status");
        CHECK(std::string(flashqla_status_name(13)) == "unknown status");
    }
}
