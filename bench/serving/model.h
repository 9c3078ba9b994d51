// The linear-attention layers on a device: pools, activations, one flashqla_forward call a layer.
#pragma once
#include "bank.h"
#include "session.h"  // first of what needs POSIX
#include "step.h"

namespace serving {

[[noreturn]] void fail(const std::string& what);

class Model {
public:
    Model(const Options& options, const Bank& bank);
    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // Brings the step's tables and activations to the device: what a real engine's other layers leave there.
    void load(const Step& step);
    const flashqla_query_info& engine();               // that serves the loaded step
    double run();                                      // every layer; milliseconds by events
    double enqueue_us() const { return enqueue_us_; }  // host time of the last run's calls, each

    // Outputs of the step's tokens, and the state in a slot, once run() has returned.
    void read_out(int64_t layer, int64_t token, int64_t count, uint8_t* to);
    void read_state(int64_t layer, int32_t slot, uint8_t* to);
    int64_t out_token_bytes() const { return options_.value_heads * options_.dim * size_; }
    int64_t state_bytes() const { return options_.value_heads * options_.dim * options_.dim * 4; }
    int64_t memory_bytes() const { return allocated_; }

private:
    uint8_t* allocate(int64_t bytes, const void* contents = nullptr);
    void check_device(int failed);
    void check(int32_t status);
    void set_views();
    void make_workspace();

    const Options& options_;
    const Bank& bank_;
    fqla_dev& device_;
    flashqla_handle* handle_;
    int64_t size_, allocated_ = 0;  // size_: bytes of an element
    std::vector<void*> memory_;
    uint8_t *bank_qkv_, *bank_ba_, *qkv_, *ba_, *out_, *pools_, *tables_, *a_log_, *dt_bias_, *workspace_ = nullptr;
    void* stream_ = nullptr;
    fqla_dev_event start_{}, end_{};
    flashqla_problem problem_;
    flashqla_sequences sequences_;
    flashqla_state state_;
    flashqla_forward_args args_;
    flashqla_query_info info_;
    uint64_t workspace_bytes_ = 0;
    double enqueue_us_ = 0;
};

}  // namespace serving
