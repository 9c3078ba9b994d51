#include "model.h"

#include <cstring>
#include <stdexcept>

#include "traffic.h"

namespace serving {

void fail(const std::string& what) { throw std::runtime_error(what); }

void Model::check_device(int failed) {
    if (failed) fail(fqla_dev_error(&device_));
}

void Model::check(int32_t status) {
    if (status) fail(std::string(flashqla_status_name(status)) + ": " + flashqla_last_error());
}

uint8_t* Model::allocate(int64_t bytes, const void* contents) {
    void* memory = fqla_dev_alloc(&device_, static_cast<size_t>(bytes));
    if (!memory) fail(fqla_dev_error(&device_));
    memory_.push_back(memory);
    allocated_ += bytes;
    if (contents) check_device(fqla_dev_upload(&device_, memory, contents, static_cast<size_t>(bytes)));
    return static_cast<uint8_t*>(memory);
}

Model::Model(const Options& options, const Bank& bank)
    : options_(options), bank_(bank), device_(numeric::session().device), handle_(numeric::session().handle), size_(numeric::dtype_bytes(options.dtype)) {
    check_device(fqla_dev_stream_create(&device_, &stream_));
    check_device(fqla_dev_event_create(&device_, &start_));
    check_device(fqla_dev_event_create(&device_, &end_));
    const int64_t weights = options.layers * options.value_heads * 4;
    bank_qkv_ = allocate(static_cast<int64_t>(bank.qkv().size()), bank.qkv().data());
    bank_ba_ = allocate(static_cast<int64_t>(bank.ba().size()), bank.ba().data());
    a_log_ = allocate(weights, bank.a_log().data());
    dt_bias_ = allocate(weights, bank.dt_bias().data());
    qkv_ = allocate(options.budget * bank.qkv_width() * size_);
    ba_ = allocate(options.budget * bank.ba_width() * size_);
    out_ = allocate(options.layers * options.budget * out_token_bytes());  // each layer's own, so that what is checked can be read after the step
    // Nobody's state is read before it was written: NaN in the pools would show one that is.
    const int64_t pools = options.layers * options.slots() * state_bytes();
    pools_ = allocate(pools);
    check_device(fqla_dev_set(&device_, pools_, 0xFF, static_cast<size_t>(pools), stream_));
    tables_ = allocate(static_cast<int64_t>(Step(options).tables().size()) * 4);

    check(flashqla_problem_init(&problem_, sizeof problem_, FLASHQLA_FORM_QWEN));
    problem_.key_heads = static_cast<int32_t>(options.key_heads);
    problem_.value_heads = static_cast<int32_t>(options.value_heads);
    problem_.key_dim = problem_.value_dim = static_cast<int32_t>(options.dim);
    problem_.dtype = options.dtype;
    check(flashqla_sequences_init(&sequences_, sizeof sequences_));
    check(flashqla_state_init(&state_, sizeof state_));
    set_views();
    make_workspace();
}

Model::~Model() {
    fqla_dev_sync(&device_);
    fqla_dev_event_destroy(&device_, &start_);
    fqla_dev_event_destroy(&device_, &end_);
    for (void* memory : memory_) fqla_dev_free(&device_, memory);
    fqla_dev_stream_destroy(&device_, stream_);
}

// Views of the packed rows; what differs between layers is set as they run.
void Model::set_views() {
    check(flashqla_forward_args_init(&args_, sizeof args_));
    const auto view = [&](uint8_t* data, int64_t first, int64_t row, int64_t head) {
        flashqla_tensor t{};
        t.data = data + first * size_;
        t.dtype = options_.dtype;
        t.stride_token = row, t.stride_head = head;
        return t;
    };
    const int64_t row = bank_.qkv_width(), scalars = bank_.ba_width(), keys = options_.key_heads * options_.dim;
    args_.q = view(qkv_, 0, row, options_.dim);
    args_.k = view(qkv_, keys, row, options_.dim);
    args_.v = view(qkv_, 2 * keys, row, options_.dim);
    args_.beta = view(ba_, 0, scalars, 1);
    args_.gate = view(ba_, options_.value_heads, scalars, 1);
    args_.A_log.dtype = args_.dt_bias.dtype = FLASHQLA_DTYPE_F32;
}

// For the largest step that there can be; also loads the kernels.
void Model::make_workspace() {
    sequences_.rows = static_cast<int32_t>(options_.requests);
    sequences_.tokens = options_.budget;
    sequences_.offsets = tables_;
    memset(&info_, 0, sizeof info_);
    info_.struct_size = sizeof info_;
    check(flashqla_query(handle_, &problem_, &sequences_, nullptr, FLASHQLA_OP_FORWARD, &info_));
    if (info_.status) fail(info_.reason);
    workspace_bytes_ = info_.workspace_bytes;
    workspace_ = allocate(static_cast<int64_t>(workspace_bytes_));
    check(flashqla_warmup(handle_, &problem_, FLASHQLA_OP_FORWARD));
}

void Model::load(const Step& step) {
    check_device(fqla_dev_upload(&device_, tables_, step.tables().data(), step.tables().size() * 4));
    const auto copy = [&](uint8_t* to, const uint8_t* from, int64_t width, const Piece& p) {
        const int64_t bytes = width * size_;
        check_device(fqla_dev_copy(&device_, to + p.to * bytes, from + p.from * bytes, static_cast<size_t>(p.count * bytes), stream_));
    };
    for (const Piece& piece : step.pieces()) {
        copy(qkv_, bank_qkv_, bank_.qkv_width(), piece);
        copy(ba_, bank_ba_, bank_.ba_width(), piece);
    }
    check(flashqla_state_init(&state_, sizeof state_));
    state_.read_slots_count = state_.write_slots_count = options_.slots();
    state_.read_data = state_.write_data = pools_;
    step.describe(reinterpret_cast<const int32_t*>(tables_), sequences_, state_);
}

const flashqla_query_info& Model::engine() {
    check(flashqla_query(handle_, &problem_, &sequences_, &state_, FLASHQLA_OP_FORWARD, &info_));
    if (info_.status) fail(info_.reason);
    if (info_.workspace_bytes > workspace_bytes_) fail("a step wants more workspace than the query told for the largest step");
    return info_;
}

double Model::run() {
    check_device(fqla_dev_event_record(&device_, &start_, stream_));
    const double begin = fqla_dev_clock_ms();
    for (int64_t layer = 0; layer < options_.layers; layer++) {
        state_.read_data = state_.write_data = pools_ + layer * options_.slots() * state_bytes();
        args_.A_log.data = a_log_ + layer * options_.value_heads * 4;
        args_.dt_bias.data = dt_bias_ + layer * options_.value_heads * 4;
        args_.out.data = out_ + layer * options_.budget * out_token_bytes();
        check(flashqla_forward(handle_, &problem_, &sequences_, &state_, &args_, workspace_, workspace_bytes_, stream_));
    }
    enqueue_us_ = (fqla_dev_clock_ms() - begin) * 1e3 / static_cast<double>(options_.layers);
    check_device(fqla_dev_event_record(&device_, &end_, stream_));
    const double ms = fqla_dev_elapsed_ms(&device_, &start_, &end_);
    check_device(ms < 0);
    return ms;
}

void Model::read_out(int64_t layer, int64_t token, int64_t count, uint8_t* to) {
    const uint8_t* from = out_ + (layer * options_.budget + token) * out_token_bytes();
    check_device(fqla_dev_download(&device_, to, from, static_cast<size_t>(count * out_token_bytes())));
}

void Model::read_state(int64_t layer, int32_t slot, uint8_t* to) {
    const uint8_t* from = pools_ + (layer * options_.slots() + slot) * state_bytes();
    check_device(fqla_dev_download(&device_, to, from, static_cast<size_t>(state_bytes())));
}

}  // namespace serving
