#include "backend.h"

#include <cstring>

namespace job {

void fail(const std::string& what) { throw std::runtime_error(what); }

void check(int32_t status, const char* call) {
    if (status != FLASHQLA_STATUS_OK) fail(std::string(call) + ": " + flashqla_status_name(status) + ": " + flashqla_last_error());
}

namespace {
void check_device(int failed, const fqla_dev& device) {
    if (failed) fail(fqla_dev_error(&device));
}
}  // namespace

// ---- memory

Memory::Memory(Backend& backend, int64_t elements, int32_t dtype) : device_(&backend.device()), elements_(elements), dtype_(dtype) {
    data_ = fqla_dev_alloc(device_, static_cast<size_t>(bytes()));
    if (!data_) fail(fqla_dev_error(device_));
}

Memory& Memory::operator=(Memory&& other) noexcept {
    if (this == &other) return *this;
    if (data_) fqla_dev_free(device_, data_);
    device_ = other.device_;
    data_ = other.data_;
    elements_ = other.elements_;
    dtype_ = other.dtype_;
    other.data_ = nullptr;
    return *this;
}

Memory::~Memory() {
    if (data_) fqla_dev_free(device_, data_);
}

void Memory::write(const Values& values) {
    const std::vector<uint8_t> bytes = encode(values, dtype_);
    check_device(fqla_dev_upload(device_, data_, bytes.data(), bytes.size()), *device_);
}

Values Memory::read() const {
    std::vector<uint8_t> host(static_cast<size_t>(bytes()));
    check_device(fqla_dev_sync(device_), *device_);
    check_device(fqla_dev_download(device_, host.data(), data_, host.size()), *device_);
    return decode(host, dtype_);
}

void Memory::copy_slot(int64_t to, int64_t from, int64_t slot_elements, void* stream) {
    const auto size = static_cast<size_t>(slot_elements * element_bytes(dtype_));
    check_device(fqla_dev_copy(device_, at(to * slot_elements), at(from * slot_elements), size, stream), *device_);
}

flashqla_tensor Memory::view(int64_t first, int64_t stride_token, int64_t stride_head) const {
    flashqla_tensor tensor;
    memset(&tensor, 0, sizeof tensor);
    tensor.data = at(first);
    tensor.dtype = dtype_;
    tensor.stride_token = stride_token;
    tensor.stride_head = stride_head;
    return tensor;
}

// ---- the backend

Backend::Backend(int32_t device, int32_t dtype, const Layer& layer) : layer_(layer), dtype_(dtype) {
    flashqla_config config;
    check(flashqla_config_init(&config, sizeof config), "flashqla_config_init");
    config.device = device;
    check(flashqla_create(&handle_, &config), "flashqla_create");
    memset(&info_, 0, sizeof info_);
    info_.struct_size = sizeof info_;
    check(flashqla_device_info(handle_, &info_), "flashqla_device_info");
    check_device(fqla_dev_open(&device_, info_.device), device_);  // a CPU handle's device is negative, and so is a host device's ordinal
    check_device(fqla_dev_stream_create(&device_, &stream_), device_);

    check(flashqla_problem_init(&problem_, sizeof problem_, FLASHQLA_FORM_QWEN), "flashqla_problem_init");
    problem_.key_heads = layer.shape().key_heads;
    problem_.value_heads = layer.shape().value_heads;
    problem_.key_dim = problem_.value_dim = layer.shape().dim;
    problem_.dtype = dtype;
}

Backend::~Backend() {
    fqla_dev_sync(&device_);
    workspace_ = Memory();
    fqla_dev_stream_destroy(&device_, stream_);
    flashqla_destroy(handle_);
    fqla_dev_close(&device_);
}

Memory Backend::tensor(const Values& values) {
    Memory memory = tensor(static_cast<int64_t>(values.size()));
    memory.write(values);
    return memory;
}

Memory Backend::weights(const Values& values) {
    Memory memory(*this, static_cast<int64_t>(values.size()), state_dtype());
    memory.write(values);
    return memory;
}

Memory Backend::integers(const std::vector<int32_t>& values) {
    Memory memory(*this, static_cast<int64_t>(values.size()), FLASHQLA_DTYPE_F32);  // four bytes each
    check_device(fqla_dev_upload(&device_, memory.at(0), values.data(), values.size() * sizeof(int32_t)), device_);
    return memory;
}

flashqla_query_info Backend::prepare(const flashqla_sequences& sequences, const flashqla_state* state, int32_t op) {
    flashqla_query_info query;
    memset(&query, 0, sizeof query);
    query.struct_size = sizeof query;
    check(flashqla_query(handle_, &problem_, &sequences, state, op, &query), "flashqla_query");
    if (query.status != FLASHQLA_STATUS_OK) fail(std::string(flashqla_status_name(query.status)) + ": " + query.reason);
    check(flashqla_warmup(handle_, &problem_, op), "flashqla_warmup");
    if (query.workspace_bytes > workspace_bytes()) workspace_ = Memory(*this, static_cast<int64_t>(query.workspace_bytes + 3) / 4, FLASHQLA_DTYPE_F32);
    return query;
}

void Backend::sync() { check_device(fqla_dev_sync(&device_), device_); }

}  // namespace job
