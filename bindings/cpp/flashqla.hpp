// flashqla.hpp: flashqla from C++17. Header-only, over flashqla.h, whose comments are the reference: fields have the same names here.
//
// A status other than OK becomes flashqla::error. Memory is passed as anything that has data() and size() (std::vector, std::array, a
// span), or as address and count, so that a call which would reach past its end is refused before it starts. Nothing is owned but the
// handle: memory must live until the enqueued work is done (CPU: until the call returns).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include "flashqla.h"

namespace flashqla {
struct error : std::runtime_error {
    int32_t status;  // FLASHQLA_STATUS_*
    error(int32_t code, const std::string& message) : std::runtime_error(message), status(code) {}
};
inline void check(int32_t status) { return status == FLASHQLA_STATUS_OK ? void() : throw error(status, flashqla_last_error()); }

// 16-bit elements for programs that have no type of their own; one that has overloads dtype_of in that type's namespace.
enum class bf16 : uint16_t {};
enum class f16 : uint16_t {};
constexpr int32_t dtype_of(const float*) { return FLASHQLA_DTYPE_F32; }
constexpr int32_t dtype_of(const bf16*) { return FLASHQLA_DTYPE_BF16; }
constexpr int32_t dtype_of(const f16*) { return FLASHQLA_DTYPE_F16; }
constexpr int32_t dtype_of(const double*) { return FLASHQLA_DTYPE_F64; }
constexpr int32_t dtype_of(const int32_t*) { return FLASHQLA_DTYPE_I32; }
constexpr int32_t dtype_of(const int64_t*) { return FLASHQLA_DTYPE_I64; }
constexpr int32_t dtype_of(const std::byte*) { return FLASHQLA_DTYPE_DEFAULT; }
template <class C>
using element_of = std::remove_pointer_t<decltype(std::data(std::declval<C&>()))>;

// Memory that is read, and memory that is written. All strides zero: packed.
struct input {
    flashqla_tensor raw{};
    size_t elements = 0, bytes = 0;
    input() = default;
    template <class T>
    input(const T* data, size_t size, int64_t row = 0, int64_t token = 0, int64_t head = 0)
        : raw{const_cast<T*>(data), dtype_of(data), 0, row, token, head, {0, 0}}, elements(size), bytes(size * sizeof(T)) {}
    template <class C, class = element_of<C>>
    input(C& memory, int64_t row = 0, int64_t token = 0, int64_t head = 0) : input(std::data(memory), std::size(memory), row, token, head) {}
};
struct output : input {
    output() = default;
    template <class T, class = std::enable_if_t<!std::is_const_v<T>>>
    output(T* data, size_t size, int64_t row = 0, int64_t token = 0, int64_t head = 0) : input(data, size, row, token, head) {}
    template <class C, class = std::enable_if_t<!std::is_const_v<element_of<C>>>>
    output(C& memory, int64_t row = 0, int64_t token = 0, int64_t head = 0) : input(memory, row, token, head) {}
};

struct problem : flashqla_problem {
    explicit problem(int32_t form = FLASHQLA_FORM_PLAIN) : flashqla_problem() { check(flashqla_problem_init(this, sizeof(flashqla_problem), form)); }
};
struct sequences {
    int32_t rows = 0;
    int64_t tokens = 0, max_tokens = 0;
    input offsets;  // int32_t or int64_t
};
struct state {
    uint64_t flags = 0;
    input read;  // pools: elements of problem.state_dtype
    output write;
    int64_t read_slots_count = 0, read_slot_stride = 0, write_slots_count = 0, write_slot_stride = 0;
    input read_slots, write_slots, checkpoint_slots, token_slots, accepted;  // int32_t
    int64_t checkpoint_interval = 0, checkpoint_width = 0, token_width = 0;
};
struct forward_args {
    input q, k, v, gate, beta, A_log, dt_bias;
    output out, saved;
};
struct backward_args {
    input q, k, v, gate, beta, A_log, dt_bias, d_out, d_final, saved;
    output dq, dk, dv, d_gate, d_beta, dA_log, ddt_bias, d_initial;
};

// A device and its kernels. Any number of threads may use one; calls that overlap in time need their own workspace and outputs.
class handle {
    using logger = std::function<void(int32_t level, const char* message)>;
    std::unique_ptr<logger> log_;  // before the handle, which it must outlive
    std::unique_ptr<flashqla_handle, decltype(&flashqla_destroy)> handle_{nullptr, flashqla_destroy};
    static void write_log(void* user, int32_t level, const char* message) noexcept { (*static_cast<logger*>(user))(level, message); }

    // One call's C structs, and whether memory is as long as it reaches. Extents are doubles: exact for any memory there is, and nothing
    // overflows. What is negative passes: the library refuses it.
    struct call {
        const handle& h;
        const problem& p;
        const state* a;
        const int32_t op;
        flashqla_sequences seq;
        flashqla_state st{};
        const double hk = p.key_heads, hv = p.value_heads, k = p.key_dim, v = p.value_dim, n = seq.rows, rows = seq.offsets ? 1 : n,
                     tokens = n == 0 ? 0 : real(seq.tokens) / rows;
        call(const handle& on, const problem& of, const sequences& s, const state* states, int32_t operation)
            : h(on), p(of), a(states), op(operation), seq{sizeof seq, s.rows, s.tokens, s.max_tokens, s.offsets.raw.data, s.offsets.raw.dtype, 0} {
            if (!a) return;
            st.struct_size = sizeof st, st.flags = a->flags, st.read_data = a->read.raw.data, st.write_data = a->write.raw.data;
            st.read_slots_count = a->read_slots_count, st.read_slot_stride = a->read_slot_stride, st.read_slots = table(a->read_slots);
            st.write_slots_count = a->write_slots_count, st.write_slot_stride = a->write_slot_stride, st.write_slots = table(a->write_slots);
            st.checkpoint_interval = a->checkpoint_interval, st.checkpoint_slots = table(a->checkpoint_slots), st.checkpoint_width = a->checkpoint_width;
            st.token_slots = table(a->token_slots), st.token_width = a->token_width, st.accepted = table(a->accepted);
        }
        static const int32_t* table(const input& in) { return static_cast<const int32_t*>(in.raw.data); }
        static double real(int64_t x) { return static_cast<double>(x); }
        const flashqla_state* state_in() const { return a ? &st : nullptr; }
        flashqla_query_info query() const {
            flashqla_query_info info{};
            info.struct_size = sizeof info;
            check(flashqla_query(h.get(), &p, &seq, state_in(), op, &info));
            return info;
        }
        void fits(const char* name, const input& in, int32_t dtype, double reach) const {
            if (!in.raw.data || (in.raw.dtype == dtype && static_cast<double>(in.elements) >= reach)) return;
            query();  // where a size is wrong, its message says more
            char text[160];
            std::snprintf(text, sizeof text, "%s has %zu elements of dtype %d: must be %.0f of dtype %d", name, in.elements, in.raw.dtype, reach, dtype);
            throw error(FLASHQLA_STATUS_INVALID_ARGUMENT, text);
        }
        void pool(const char* name, const input& in, int64_t slots, int64_t stride) const {
            const double packed = hv * k * v, count = slots ? real(slots) : n;
            const int32_t usual = p.dtype == FLASHQLA_DTYPE_F64 ? FLASHQLA_DTYPE_F64 : FLASHQLA_DTYPE_F32;
            fits(name, in, p.state_dtype ? p.state_dtype : usual, count == 0 ? 0 : (count - 1) * (stride ? real(stride) : packed) + packed);
        }
        void tensor(const char* name, flashqla_tensor& to, const input& in, double heads, double dim, double row_count, double token_count) const {
            to = in.raw;
            const bool packed = !to.stride_row && !to.stride_token && !to.stride_head, empty = row_count * token_count == 0;
            const double last = (row_count - 1) * real(to.stride_row) + (token_count - 1) * real(to.stride_token) + (heads - 1) * real(to.stride_head);
            fits(name, in, to.dtype, packed || empty ? row_count * token_count * heads * dim : last + dim);
        }
        void tensor(const char* name, flashqla_tensor& to, const input& in, double heads, double dim) const { tensor(name, to, in, heads, dim, rows, tokens); }
        template <class Raw, class Args>
        Raw begin(const sequences& s, const Args& args) const {
            Raw raw{};
            raw.struct_size = sizeof raw, raw.saved = args.saved.raw.data, raw.saved_bytes = args.saved.bytes;
            fits("sequences.offsets", s.offsets, seq.offsets_dtype, n + 1);
            tensor("args.q", raw.q, args.q, hk, k), tensor("args.k", raw.k, args.k, hk, k), tensor("args.v", raw.v, args.v, hv, v);
            tensor("args.gate", raw.gate, args.gate, hv, 1), tensor("args.beta", raw.beta, args.beta, hv, 1);
            tensor("args.A_log", raw.A_log, args.A_log, hv, 1, 1, 1), tensor("args.dt_bias", raw.dt_bias, args.dt_bias, hv, 1, 1, 1);
            if (!a) return raw;
            pool("state.read", a->read, st.read_slots_count, st.read_slot_stride), pool("state.write", a->write, st.write_slots_count, st.write_slot_stride);
            fits("state.read_slots", a->read_slots, FLASHQLA_DTYPE_I32, n), fits("state.write_slots", a->write_slots, FLASHQLA_DTYPE_I32, n);
            fits("state.checkpoint_slots", a->checkpoint_slots, FLASHQLA_DTYPE_I32, n * real(st.checkpoint_width));
            fits("state.token_slots", a->token_slots, FLASHQLA_DTYPE_I32, n * real(st.token_width));
            fits("state.accepted", a->accepted, FLASHQLA_DTYPE_I32, n);
            return raw;
        }
    };

public:
    explicit handle(int32_t device = FLASHQLA_DEVICE_BEST, int32_t threads = 0, const logger& log = {}, uint64_t flags = 0) : log_(new logger(log)) {
        const flashqla_config config{sizeof config, device, threads, 0, flags, *log_ ? write_log : nullptr, log_.get()};
        flashqla_handle* made = nullptr;
        check(flashqla_create(&made, &config));
        handle_.reset(made);
    }
    flashqla_handle* get() const { return handle_.get(); }
    flashqla_device info() const {
        flashqla_device device{};
        device.struct_size = sizeof device;
        check(flashqla_device_info(get(), &device));
        return device;
    }
    // Its status tells whether such a call is served; its reason is valid until this thread's next call. Contents and lengths do not count.
    flashqla_query_info query(const problem& p, const sequences& s, const state* st, int32_t op) const { return call(*this, p, s, st, op).query(); }
    std::string explain(const problem& p, const sequences& s, const state* st, int32_t op) const {
        const call c(*this, p, s, st, op);
        size_t needed = 0;
        check(flashqla_explain(get(), &p, &c.seq, c.state_in(), op, nullptr, 0, &needed));
        std::string text(needed, 0);
        check(flashqla_explain(get(), &p, &c.seq, c.state_in(), op, text.data(), needed, nullptr));
        return text.c_str();  // up to the ending zero
    }
    void warmup(const problem* p, int32_t op) const { check(flashqla_warmup(get(), p, op)); }
    void forward(const problem& p, const sequences& s, const state* st, const forward_args& a, const output& workspace, void* stream = nullptr) const {
        const call c(*this, p, s, st, FLASHQLA_OP_FORWARD);
        auto raw = c.begin<flashqla_forward_args>(s, a);
        c.tensor("args.out", raw.out, a.out, c.hv, c.v);
        check(flashqla_forward(get(), &p, &c.seq, c.state_in(), &raw, workspace.raw.data, workspace.bytes, stream));
    }
    void backward(const problem& p, const sequences& s, const state* st, const backward_args& a, const output& workspace, void* stream = nullptr) const {
        const call c(*this, p, s, st, FLASHQLA_OP_BACKWARD);
        auto raw = c.begin<flashqla_backward_args>(s, a);
        c.tensor("args.d_out", raw.d_out, a.d_out, c.hv, c.v), c.tensor("args.d_final", raw.d_final, a.d_final, c.hv, c.k * c.v, c.n, 1);
        c.tensor("args.dq", raw.dq, a.dq, c.hk, c.k), c.tensor("args.dk", raw.dk, a.dk, c.hk, c.k), c.tensor("args.dv", raw.dv, a.dv, c.hv, c.v);
        c.tensor("args.d_gate", raw.d_gate, a.d_gate, c.hv, 1), c.tensor("args.d_beta", raw.d_beta, a.d_beta, c.hv, 1);
        c.tensor("args.dA_log", raw.dA_log, a.dA_log, c.hv, 1, 1, 1), c.tensor("args.ddt_bias", raw.ddt_bias, a.ddt_bias, c.hv, 1, 1, 1);
        c.tensor("args.d_initial", raw.d_initial, a.d_initial, c.hv, c.k * c.v, c.n, 1);
        check(flashqla_backward(get(), &p, &c.seq, c.state_in(), &raw, workspace.raw.data, workspace.bytes, stream));
    }
};
}  // namespace flashqla
