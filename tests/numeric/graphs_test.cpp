// Calls inside CUDA graphs.
#include <algorithm>

#include "check.h"

using namespace numeric;

namespace {

constexpr int32_t kOps[] = {FLASHQLA_OP_FORWARD, FLASHQLA_OP_BACKWARD};

// A context of its own, in which nothing is loaded yet; device.h has but the primary one.
class FreshContext {
public:
    FreshContext() {
        void* library = dlopen("libcuda.so.1", RTLD_NOW);
        const auto create = reinterpret_cast<int (*)(void**, unsigned, int)>(dlsym(library, "cuCtxCreate_v2"));
        destroy_ = reinterpret_cast<int (*)(void*)>(dlsym(library, "cuCtxDestroy_v2"));
        const bool found = create && destroy_;
        REQUIRE(found);
        REQUIRE(create(&context_, 0, session().device.device) == 0);
    }
    ~FreshContext() {
        destroy_(context_);
        fqla_dev_attach(&session().device);
    }

private:
    void* context_ = nullptr;
    int (*destroy_)(void*) = nullptr;
};

class Graph {
public:
    explicit Graph(fqla_dev& device) : device_(device) { CHECK(!fqla_dev_stream_create(&device_, &stream_)); }
    ~Graph() {
        fqla_dev_graph_destroy(&device_, graph_);
        fqla_dev_stream_destroy(&device_, stream_);
    }
    // The status of the call; the capture itself must survive it.
    int32_t capture(Call& call) {
        REQUIRE_MESSAGE(!fqla_dev_capture_begin(&device_, stream_), fqla_dev_error(&device_));
        const int32_t status = call.run(stream_);
        REQUIRE_MESSAGE(!fqla_dev_capture_end(&device_, stream_, &graph_), fqla_dev_error(&device_));
        return status;
    }
    void launch() {
        REQUIRE_MESSAGE(!fqla_dev_graph_launch(&device_, graph_, stream_), fqla_dev_error(&device_));
        REQUIRE_MESSAGE(!fqla_dev_stream_sync(&device_, stream_), fqla_dev_error(&device_));
    }

private:
    fqla_dev& device_;
    void *stream_ = nullptr, *graph_ = nullptr;
};

std::vector<Case> graph_cases() {
    Case prefill = plain_case("graph prefill");
    prefill.dtype = FLASHQLA_DTYPE_BF16;
    prefill.key_dim = prefill.value_dim = 128;
    prefill.states = States::in_place_slots;
    prefill.lengths = {300, 1, 65, 0, 64};
    Case decode = prefill;
    decode.lengths = {1, 1, 1, 1, 1};
    decode.seed++;
    Case verify = prefill;
    verify.lengths = {4, 3, 4, 0, 1};
    verify.extra = Extra::accepted;
    verify.token_width = 4;
    Case odd = prefill;
    odd.dtype = FLASHQLA_DTYPE_F32;
    odd.key_dim = 40, odd.value_dim = 24;
    return {prefill, decode, verify, odd};
}

Outcome oracle(const Sample& sample, int32_t op) { return op == FLASHQLA_OP_FORWARD ? oracle_forward(sample) : oracle_backward(sample); }

}  // namespace

TEST_SUITE_BEGIN("graphs");

TEST_CASE("gpu: capture before warm-up is refused and leaves the capture whole; after it the graph runs") {
    for (const int32_t op : kOps)
        for (const Case& c : graph_cases()) {
            const FreshContext context;
            const Sample sample = make_sample(c);
            Call::Options options;
            options.op = op;
            Call call(sample, options);
            CHECK_MESSAGE(Graph(session().device).capture(call) == FLASHQLA_STATUS_NOT_WARM, c.text());
            const int32_t warm = flashqla_warmup(session().handle, &call.problem, op);
            CHECK_MESSAGE(warm == FLASHQLA_STATUS_OK, flashqla_last_error());
            Graph graph(session().device);
            const int32_t captured = graph.capture(call);
            CHECK_MESSAGE(captured == FLASHQLA_STATUS_OK, flashqla_last_error());
            graph.launch();
            const std::string wrong = report(sample, call.read(), oracle(sample, op), arithmetic_of(c, call));
            CHECK_MESSAGE(wrong.empty(), wrong);
        }
}

TEST_CASE("gpu: a graph replayed with other offsets, slots and values") {
    for (const int32_t op : kOps)
        for (Case c : graph_cases()) {
            Call::Options options;
            options.op = op;
            Call call(make_sample(c), options);
            CHECK(flashqla_warmup(session().handle, &call.problem, op) == FLASHQLA_STATUS_OK);
            Graph graph(session().device);
            CHECK_MESSAGE(graph.capture(call) == FLASHQLA_STATUS_OK, flashqla_last_error());
            for (int replay = 0; replay < 3; replay++) {
                const Sample sample = make_sample(c);
                call.refill(sample);
                graph.launch();
                const std::string wrong = report(sample, call.read(), oracle(sample, op), arithmetic_of(c, call));
                CHECK_MESSAGE(wrong.empty(), "replay ", replay, wrong);
                std::rotate(c.lengths.begin(), c.lengths.begin() + 1, c.lengths.end());
                c.seed++;
            }
        }
}

TEST_SUITE_END();
