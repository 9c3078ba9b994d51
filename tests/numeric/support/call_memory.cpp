// Between plain arrays and memory, and what a run may not have touched.
#include <cstring>

#include "call.h"

namespace numeric {

const Numbers& Call::values_of(const char* name) const {
    const Values& x = sample_.values;
    const struct {
        const char* name;
        const Numbers& values;
    } all[] = {{"q", x.q},
               {"k", x.k},
               {"v", x.v},
               {"gate", x.gate},
               {"beta", x.beta},
               {"A_log", x.a_log},
               {"dt_bias", x.dt_bias},
               {"d_out", x.d_out},
               {"d_final", x.d_final}};
    for (const auto& a : all)
        if (!std::strcmp(a.name, name)) return a.values;
    return x.q;
}

size_t Call::index_of(const Buffer* buffer) const {
    size_t i = 0;
    while (buffers_[i].get() != buffer) i++;
    return i;
}

void Call::fill_tensor(const Tensor& tensor, const Numbers& x) {
    const Layout& l = tensor.layout;
    const int64_t bytes = dtype_bytes(tensor.dtype);
    size_t from = 0;
    for (int64_t r = 0; r < l.rows; r++)
        for (int64_t t = 0; t < l.tokens; t++)
            for (int64_t h = 0; h < l.heads; h++)
                for (int64_t i = 0; i < l.dim; i++) {
                    const int64_t place = tensor.states ? state_place(i / sample_.c.value_dim, i % sample_.c.value_dim) : i;
                    encode(tensor.dtype, x[from++], tensor.buffer->host() + (l.at(r, t, h) + place) * bytes);
                }
}

void Call::fill_pool(Buffer& pool, const Numbers& x) {
    const Case& c = sample_.c;
    const int64_t bytes = dtype_bytes(c.state_dtype), head = int64_t{c.key_dim} * c.value_dim;
    size_t from = 0;
    for (int64_t slot = 0; slot < sample_.tables.slots; slot++)
        for (int64_t h = 0; h < c.value_heads; h++)
            for (int64_t i = 0; i < c.key_dim; i++)
                for (int64_t j = 0; j < c.value_dim; j++)
                    encode(c.state_dtype, x[from++], pool.host() + (slot * slot_stride_ + h * head + state_place(i, j)) * bytes);
    pool.upload();
}

namespace {

// One element from memory into a grid, and its bytes ticked off as accounted for.
void take(Buffer& buffer, std::vector<uint8_t>& covered, int64_t element, int32_t dtype, Grid& grid, size_t to) {
    const auto bytes = static_cast<size_t>(dtype_bytes(dtype)), at = static_cast<size_t>(element) * bytes;
    grid.value[to] = decode(dtype, buffer.downloaded() + at);
    grid.written[to] = std::memcmp(buffer.downloaded() + at, buffer.host() + at, bytes) != 0;
    std::memset(&covered[at], 1, bytes);
}

}  // namespace

void Call::read_tensor(const Tensor& tensor, Grid& grid, std::vector<std::vector<uint8_t>>& covered) {
    const Layout& l = tensor.layout;
    std::vector<uint8_t>& bytes = covered[index_of(tensor.buffer)];
    size_t to = 0;
    for (int64_t r = 0; r < l.rows; r++)
        for (int64_t t = 0; t < l.tokens; t++)
            for (int64_t h = 0; h < l.heads; h++)
                for (int64_t i = 0; i < l.dim; i++) {
                    const int64_t place = tensor.states ? state_place(i / sample_.c.value_dim, i % sample_.c.value_dim) : i;
                    take(*tensor.buffer, bytes, l.at(r, t, h) + place, tensor.dtype, grid, to++);
                }
}

void Call::read_pool(Grid& grid, std::vector<std::vector<uint8_t>>& covered) {
    const Case& c = sample_.c;
    const int64_t head = int64_t{c.key_dim} * c.value_dim;
    std::vector<uint8_t>& bytes = covered[index_of(write_pool_)];
    size_t to = 0;
    for (int64_t slot = 0; slot < sample_.tables.slots; slot++)
        for (int64_t h = 0; h < c.value_heads; h++)
            for (int64_t i = 0; i < c.key_dim; i++)
                for (int64_t j = 0; j < c.value_dim; j++)
                    take(*write_pool_, bytes, slot * slot_stride_ + h * head + state_place(i, j), c.state_dtype, grid, to++);
}

Outcome Call::read() {
    Outcome got = backward() ? empty_backward(sample_) : empty_forward(sample_);
    if (fqla_dev_sync(&session().device)) got.damage += std::string("device: ") + fqla_dev_error(&session().device) + "; ";
    std::vector<std::vector<uint8_t>> covered;
    for (const auto& buffer : buffers_) {
        bool kept = true;
        buffer->download(kept);
        if (!kept) got.damage += "guard band of buffer " + std::to_string(covered.size()) + " written; ";
        covered.emplace_back(buffer.get() == workspace_ ? 0 : buffer->bytes(), uint8_t{0});
    }
    for (const Tensor& tensor : tensors_)
        if (tensor.output) read_tensor(tensor, *got.find(tensor.name), covered);
    if (write_pool_ && !backward()) read_pool(*got.find("state"), covered);
    for (size_t b = 0; b < buffers_.size(); b++)
        for (size_t i = 0; i < covered[b].size(); i++)
            if (!covered[b][i] && buffers_[b]->downloaded()[i] != buffers_[b]->host()[i]) {
                std::string names = buffers_[b].get() == read_pool_ ? "read pool" : buffers_[b].get() == write_pool_ ? "write pool" : "";
                for (const Tensor& tensor : tensors_)
                    if (tensor.buffer == buffers_[b].get()) names += std::string(names.empty() ? "" : ", ") + tensor.name;
                got.damage += "byte " + std::to_string(i) + " of " + (names.empty() ? "a table" : names) + " changed, which is no output; ";
                break;
            }
    return got;
}

std::vector<uint8_t> Call::bytes() {
    fqla_dev_sync(&session().device);
    std::vector<uint8_t> all;
    const auto append = [&](Buffer* buffer) {
        bool kept = true;
        const uint8_t* data = buffer->download(kept);
        all.insert(all.end(), data, data + buffer->bytes());
    };
    for (const Tensor& tensor : tensors_)
        if (tensor.output) append(tensor.buffer);
    if (write_pool_ && !backward()) append(write_pool_);
    return all;
}

}  // namespace numeric
