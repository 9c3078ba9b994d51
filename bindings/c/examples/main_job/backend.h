// A device with its flashqla handle, memory on it, and status checks. Everything of flashqla that the steps share.
#pragma once
#include <stdexcept>
#include <string>

#include "device.h"  // first: it asks for POSIX
#include "flashqla.h"
#include "layer.h"

namespace job {

[[noreturn]] void fail(const std::string& what);
void check(int32_t status, const char* call);  // throws with the library's own text unless OK

class Backend;

// Owned memory of a backend. Sizes are in elements of `dtype`.
class Memory {
public:
    Memory() = default;
    Memory(Backend& backend, int64_t elements, int32_t dtype);
    Memory(Memory&& other) noexcept { *this = static_cast<Memory&&>(other); }
    Memory& operator=(Memory&& other) noexcept;
    ~Memory();

    void write(const Values& values);
    Values read() const;
    void copy_slot(int64_t to, int64_t from, int64_t slot_elements, void* stream);

    // Element `first` onwards as a tensor; all strides zero means packed.
    flashqla_tensor view(int64_t first = 0, int64_t stride_token = 0, int64_t stride_head = 0) const;
    void* at(int64_t element) const { return static_cast<char*>(data_) + element * element_bytes(dtype_); }
    int64_t bytes() const { return elements_ * element_bytes(dtype_); }

private:
    fqla_dev* device_ = nullptr;
    void* data_ = nullptr;
    int64_t elements_ = 0;
    int32_t dtype_ = 0;
};

// A backend computes in one type: the run's on the device, F64 on a CPU handle for the truth.
class Backend {
public:
    Backend(int32_t device, int32_t dtype, const Layer& layer);
    ~Backend();
    Backend(const Backend&) = delete;
    Backend& operator=(const Backend&) = delete;

    bool exact() const { return dtype_ == FLASHQLA_DTYPE_F64; }
    int32_t dtype() const { return dtype_; }
    int32_t state_dtype() const { return exact() ? FLASHQLA_DTYPE_F64 : FLASHQLA_DTYPE_F32; }
    const Layer& layer() const { return layer_; }
    const flashqla_device& info() const { return info_; }
    const flashqla_handle* handle() const { return handle_; }
    const flashqla_problem* problem() const { return &problem_; }
    fqla_dev& device() { return device_; }
    void* stream() const { return stream_; }
    void* workspace() const { return workspace_.at(0); }
    uint64_t workspace_bytes() const { return static_cast<uint64_t>(workspace_.bytes()); }

    Memory tensor(int64_t elements) { return {*this, elements, dtype_}; }
    Memory tensor(const Values& values);
    Memory states(int64_t slots) { return {*this, slots * layer_.shape().state(), state_dtype()}; }
    Memory weights(const Values& values);  // f32 (F64 for the truth), as models keep A_log and dt_bias
    Memory integers(const std::vector<int32_t>& values);

    // Asks which engine would serve, grows the workspace to what it wants, loads the kernels. Throws when nothing would.
    flashqla_query_info prepare(const flashqla_sequences& sequences, const flashqla_state* state, int32_t op);
    void sync();

private:
    const Layer& layer_;
    int32_t dtype_;
    flashqla_handle* handle_ = nullptr;
    flashqla_problem problem_;
    flashqla_device info_;
    fqla_dev device_;
    void* stream_ = nullptr;
    Memory workspace_;
};

}  // namespace job
