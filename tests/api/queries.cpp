// What is told and not done: initialisers, device_info, query, explain, warm-up.
#include <cstring>
#include <string>
#include <vector>

#include "call.h"

namespace {

constexpr int32_t kOk = FLASHQLA_STATUS_OK;

// A struct with a tail, initialised at a newer header's larger size: zeros to its end and not beyond.
template <class T, class Init>
void check_init(Init init) {
    struct {
        T known;
        char more[24], guard[8];
    } x;
    std::memset(&x, 0xA5, sizeof x);
    const size_t size = offsetof(decltype(x), guard);
    CHECK(init(&x.known, size) == kOk);
    uint32_t struct_size = 0;
    std::memcpy(&struct_size, &x, sizeof struct_size);
    CHECK(struct_size == size);
    for (const char byte : x.more) CHECK(byte == 0);
    for (const char byte : x.guard) CHECK(static_cast<unsigned char>(byte) == 0xA5);
}

}  // namespace

TEST_SUITE("queries") {
    TEST_CASE("initialisers") {
        check_init<flashqla_config>(flashqla_config_init);
        check_init<flashqla_problem>([](flashqla_problem* p, size_t size) { return flashqla_problem_init(p, size, FLASHQLA_FORM_QWEN); });
        check_init<flashqla_sequences>(flashqla_sequences_init);
        check_init<flashqla_state>(flashqla_state_init);
        check_init<flashqla_forward_args>(flashqla_forward_args_init);
        check_init<flashqla_backward_args>(flashqla_backward_args_init);
        flashqla_problem p;
        CHECK(flashqla_problem_init(&p, sizeof p, FLASHQLA_FORM_QWEN) == kOk);
        CHECK(p.dtype == FLASHQLA_DTYPE_BF16);
        CHECK(p.gate == FLASHQLA_GATE_RAW);
        CHECK(p.beta == FLASHQLA_BETA_LOGIT);
        CHECK(p.qk_norm == FLASHQLA_NORM_L2);
        CHECK(p.head_map == FLASHQLA_HEADS_GROUPED);
        CHECK(p.state_layout == FLASHQLA_STATE_VK);
    }

    TEST_CASE("device_info of a CPU handle") {
        Call c(2);
        struct {
            flashqla_device known;
            char more[16];
        } d;
        std::memset(&d, 0xA5, sizeof d);
        d.known.struct_size = sizeof d;
        CHECK(flashqla_device_info(c.handle, &d.known) == kOk);
        CHECK(d.known.struct_size == sizeof d);
        CHECK(d.known.device == FLASHQLA_DEVICE_CPU);
        CHECK(d.known.threads == 2);
        CHECK(d.known.compute_major == 0);
        CHECK(d.known.multiprocessors == 0);
        CHECK(d.known.shared_memory_bytes == 0);
        CHECK(std::string(d.known.name) == "CPU");
        CHECK(std::strlen(d.known.image) > 0);
        for (const char byte : d.more) CHECK(byte == 0);
    }

    TEST_CASE("query of a CPU handle") {
        Call c;
        CHECK(c.query(FLASHQLA_OP_FORWARD) == kOk);
        CHECK(c.info.status == kOk);
        CHECK(c.info.engine == FLASHQLA_ENGINE_RECURRENT);
        CHECK(c.info.launches == 0);
        CHECK(c.info.workspace_bytes % 256 == 0);
        CHECK(std::string(c.info.engine_name).rfind("cpu ", 0) == 0);
        CHECK(std::strlen(c.info.reason) > 10);
        // Data pointers do not count: bounds alone.
        c.use_state = nullptr;
        CHECK(c.query(FLASHQLA_OP_BACKWARD) == kOk);
        CHECK(c.info.workspace_bytes > 0);
    }

    TEST_CASE("the workspace told for the largest call serves all within it") {
        Call large;
        large.make_raw();
        REQUIRE(large.query(FLASHQLA_OP_BACKWARD) == kOk);
        const uint64_t most = large.info.workspace_bytes;
        REQUIRE(most <= Call::kScratch);
        for (const int rows : {1, 2, 3})
            for (const int each : {0, 1, 3, 4}) {
                Call c;
                c.make_raw();
                c.sequences.rows = rows;
                c.sequences.tokens = rows * each;
                c.workspace_bytes = most;
                CHECK(c.backward() == kOk);
            }
    }

    TEST_CASE("explain") {
        Call c;
        size_t needed = 0;
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, FLASHQLA_OP_BACKWARD, nullptr, 0, &needed) == kOk);
        REQUIRE(needed > 50);
        std::vector<char> text(needed + 1, 'x');
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, FLASHQLA_OP_BACKWARD, text.data(), needed, nullptr) == kOk);
        const std::string all = text.data();
        CHECK(all.size() + 1 == needed);
        CHECK(text[needed] == 'x');
        for (const char* part : {"backward", "3 rows", "12 tokens", "heads 2/4", "K 8, V 16", "workspace", "engine cpu", "not recurrent: runs on CUDA handles"})
            CHECK(all.find(part) != std::string::npos);
        text.assign(needed + 1, 'x');
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, FLASHQLA_OP_BACKWARD, text.data(), 10, &needed) == kOk);
        CHECK(text.data() == all.substr(0, 9));
        c.problem.gate = FLASHQLA_GATE_LOG_PER_KEY;
        text.assign(2000, 'x');
        CHECK(flashqla_explain(c.handle, &c.problem, &c.sequences, nullptr, 0, text.data(), 2000, nullptr) == kOk);
        CHECK(std::string(text.data()).find("not supported: problem.gate = 3") == 0);
    }

    TEST_CASE("warm-up of a CPU handle has nothing to do") {
        Call c;
        CHECK(flashqla_warmup(c.handle, &c.problem, FLASHQLA_OP_FORWARD) == kOk);
        CHECK(flashqla_warmup(c.handle, nullptr, FLASHQLA_OP_BACKWARD) == kOk);
    }

    TEST_CASE("version and build") {
        CHECK(flashqla_version() == FLASHQLA_VERSION);
        const std::string build = flashqla_build_info();
        for (const char* part : {"flashqla 0.1.0", "images: ", "CUDA toolkit: "}) CHECK(build.find(part) != std::string::npos);
        CHECK(build.find('\n') == std::string::npos);
    }
}
