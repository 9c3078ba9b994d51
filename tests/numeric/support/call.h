// A sample placed in memory, ready to be run: once or many times, with other contents too.
#pragma once
#include <memory>
#include <vector>

#include "buffer.h"
#include "layout.h"
#include "outcome.h"

namespace numeric {

class Call {
public:
    struct Options {
        int32_t op = FLASHQLA_OP_FORWARD;
        int32_t engine = FLASHQLA_ENGINE_AUTO;
        flashqla_handle* handle = nullptr;  // null: the session's
        uint64_t poison = 0;                // of outputs and workspace: 0: 0xFF, else a seed of random bytes
        bool d_final = true;                // backward: given at all
        bool bare_workspace = false;        // see Buffer
        Buffer* saved = nullptr;            // what a forward saves, and its backward reads
        std::vector<const char*> wanted;    // gradients; empty: all
    };

    Call(const Sample& sample, const Options& options);

    flashqla_query_info query() const;
    std::string explain() const;
    // flashqla_forward or _backward. Enqueued only: read() waits.
    int32_t run(void* stream = nullptr);
    // Outputs and states as they are in memory, and what was damaged.
    Outcome read();
    // Another sample of the same case shape: inputs, tables and poison anew.
    void refill(const Sample& sample);
    // Poisons outputs and puts states back as they were before a run.
    void reset() { refill(sample_); }
    // All bytes of outputs and states, for comparisons bit by bit.
    std::vector<uint8_t> bytes();

    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;
    const Sample& sample() const { return sample_; }

private:
    int32_t run_once(void* stream);
    struct Tensor {
        const char* name;
        int32_t dtype;
        Layout layout;
        Buffer* buffer;
        flashqla_tensor* view;
        bool output, states;
    };

    bool backward() const { return options_.op == FLASHQLA_OP_BACKWARD; }
    bool is_wanted(const char* name) const;
    Buffer* add_buffer(int64_t bytes, bool poison);
    void add(const char* name, int32_t dtype, Layout layout, flashqla_tensor& view, bool output, Buffer* buffer = nullptr);
    void add_group(const std::vector<const char*>& names, int32_t dtype, const std::vector<Layout>& shapes, const std::vector<flashqla_tensor*>& views,
                   bool output);
    void add_tensors();
    void add_states();
    void add_tables();
    void add_workspace();
    void fill_tensor(const Tensor& tensor, const Numbers& x);
    void fill_pool(Buffer& pool, const Numbers& x);
    void read_tensor(const Tensor& tensor, Grid& grid, std::vector<std::vector<uint8_t>>& covered);
    void read_pool(Grid& grid, std::vector<std::vector<uint8_t>>& covered);
    const Numbers& values_of(const char* name) const;
    int64_t state_place(int64_t i, int64_t j) const;  // of element (i, j) within a head's state
    size_t index_of(const Buffer* buffer) const;

    Sample sample_;
    Options options_;
    flashqla_forward_args forward_;
    flashqla_backward_args backward_;
    std::vector<Tensor> tensors_;
    std::vector<std::unique_ptr<Buffer>> buffers_;
    Buffer *read_pool_ = nullptr, *write_pool_ = nullptr, *workspace_ = nullptr;
    Buffer *offsets_ = nullptr, *read_slots_ = nullptr, *write_slots_ = nullptr, *checkpoints_ = nullptr, *token_slots_ = nullptr, *accepted_ = nullptr;
    int64_t slot_stride_ = 0;
    uint64_t workspace_bytes_ = 0;
    bool preferred_ = false;  // the engine is the session's, for what it can serve; AUTO serves the rest
};

}  // namespace numeric
