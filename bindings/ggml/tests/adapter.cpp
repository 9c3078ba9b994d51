// The adapter against the float64 oracle of the library. Tensors are laid out as ggml does by hand here, and laid out again for the oracle:
// a head a call, K x V states, no broadcast, so that no convention of ggml's is used to make the truth.
#include <device.h>
#include <doctest/doctest.h>
#include <flashqla_ggml.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace {

constexpr float kUntouched = 12345;

flashqla_handle* new_handle(int threads, int32_t device) {
    flashqla_config config;
    REQUIRE(flashqla_config_init(&config, sizeof config) == FLASHQLA_STATUS_OK);
    config.device = device;
    config.threads = threads;
    flashqla_handle* handle = nullptr;
    REQUIRE_MESSAGE(flashqla_create(&handle, &config) == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    return handle;
}

struct Handle {
    flashqla_handle* const get;
    explicit Handle(int threads, int32_t device = FLASHQLA_DEVICE_CPU) : get(new_handle(threads, device)) {}
    ~Handle() { flashqla_destroy(get); }
};

struct Shape {
    int64_t dim, query_heads, key_heads, heads, tokens, query_sequences, key_sequences, sequences, snapshots;
    std::string layout;  // "packed", "projection" (q, k, v side by side in a token's row), "permuted" (heads outside tokens)
};

// A tensor of ggml with its memory. Numbers repeat, so that every element is known by its place.
struct Tensor {
    std::vector<float> memory;
    flashqla_ggml_tensor view{};

    Tensor(int64_t a, int64_t b, int64_t c, int64_t d) {
        const int64_t ne[4] = {a, b, c, d};
        size_t step = sizeof(float);
        for (int i = 0; i < 4; i++) view.ne[i] = ne[i], view.nb[i] = step, step *= static_cast<size_t>(ne[i]);
        memory.assign(step / sizeof(float) + 1, 0);  // one more: a tensor of nothing has an address, too
        view.data = memory.data();
    }
    float& at(int64_t a, int64_t b, int64_t c, int64_t d) {
        const int64_t i[4] = {a, b, c, d};
        size_t offset = 0;
        for (int j = 0; j < 4; j++) offset += static_cast<size_t>(i[j]) * view.nb[j];
        return *reinterpret_cast<float*>(static_cast<char*>(view.data) + offset);
    }
    // Rows of `row` floats from token to token, or heads outside tokens.
    void lay_out(const std::string& layout) {
        const size_t f = sizeof(float), dim = static_cast<size_t>(view.ne[0]), heads = static_cast<size_t>(view.ne[1]),
                     tokens = static_cast<size_t>(view.ne[2]);
        if (layout == "projection") {
            const size_t row = 3 * dim * heads + 5;
            view.nb[1] = dim * f, view.nb[2] = row * f, view.nb[3] = tokens * row * f;
            memory.assign(static_cast<size_t>(view.ne[3]) * tokens * row + dim * heads, std::numeric_limits<float>::quiet_NaN());
            view.data = memory.data() + dim * heads;
        } else if (layout == "permuted") {
            view.nb[1] = tokens * dim * f, view.nb[2] = dim * f;
        }
    }
};

uint32_t g_seed;
float random_number() {  // in [-1, 1)
    g_seed = g_seed * 1664525u + 1013904223u;
    return static_cast<float>(g_seed >> 8) / (1 << 23) - 1;
}

struct Op {
    Shape s;
    Tensor q, k, v, g, beta, state, out;

    explicit Op(const Shape& shape)
        : s(shape),
          q(s.dim, s.query_heads, s.tokens, s.query_sequences),
          k(s.dim, s.key_heads, s.tokens, s.key_sequences),
          v(s.dim, s.heads, s.tokens, s.sequences),
          g(1, s.heads, s.tokens, s.sequences),
          beta(1, s.heads, s.tokens, s.sequences),
          state(s.dim, s.dim, s.heads, s.sequences),
          out(s.dim * s.heads, s.sequences * (s.tokens + s.snapshots * s.dim), 1, 1) {
        g_seed = 1;
        for (Tensor* x : {&q, &k, &v}) x->lay_out(s.layout);
        fill(q, [] { return random_number(); });
        fill(k, [&] { return random_number() * std::sqrt(2.f / static_cast<float>(s.dim)); });
        fill(v, [] { return random_number(); });
        fill(g, [] { return -0.2f * std::fabs(random_number()); });
        fill(beta, [] { return 0.5f + 0.5f * random_number(); });
        fill(state, [] { return random_number(); });
        out.memory.assign(out.memory.size(), kUntouched);
        out.view.data = out.memory.data();
    }
    template <class F>
    static void fill(Tensor& x, F number) {
        for (int64_t d = 0; d < x.view.ne[3]; d++)
            for (int64_t c = 0; c < x.view.ne[2]; c++)
                for (int64_t b = 0; b < x.view.ne[1]; b++)
                    for (int64_t a = 0; a < x.view.ne[0]; a++) x.at(a, b, c, d) = number();
    }
    flashqla_ggml_op op() const { return {q.view, k.view, v.view, g.view, beta.view, state.view, out.view, s.snapshots, 0}; }
};

// What the op's output is: head by head and token by token, each a call in double from the state before.
std::vector<double> expected(Op& op) {
    const Shape& s = op.s;
    const auto dim = static_cast<size_t>(s.dim);
    static const Handle oracle(1);
    std::vector<double> wanted(op.out.memory.size(), kUntouched), q(dim), k(dim), v(dim), o(dim), state(dim * dim);
    flashqla_problem problem;
    REQUIRE(flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN) == FLASHQLA_STATUS_OK);
    problem.key_heads = problem.value_heads = 1;
    problem.key_dim = problem.value_dim = static_cast<int32_t>(s.dim);
    problem.dtype = FLASHQLA_DTYPE_F64;
    problem.state_dtype = FLASHQLA_DTYPE_F64;
    flashqla_sequences sequences;
    REQUIRE(flashqla_sequences_init(&sequences, sizeof sequences) == FLASHQLA_STATUS_OK);
    sequences.rows = 1;
    sequences.tokens = 1;
    for (int64_t n = 0; n < s.sequences; n++)
        for (int64_t h = 0; h < s.heads; h++) {
            const auto keep = [&](int64_t snapshot) {
                double* to = wanted.data() + s.dim * s.heads * s.tokens * s.sequences + ((snapshot * s.sequences + n) * s.heads + h) * s.dim * s.dim;
                for (size_t i = 0; i < dim; i++)
                    for (size_t j = 0; j < dim; j++) to[j * dim + i] = state[i * dim + j];
            };
            for (size_t i = 0; i < dim; i++)
                for (size_t j = 0; j < dim; j++) state[i * dim + j] = static_cast<double>(op.state.at(static_cast<int64_t>(i), static_cast<int64_t>(j), h, n));
            if (s.tokens == 0 && s.snapshots == 1) keep(0);
            for (int64_t t = 0; t < s.tokens; t++) {
                for (size_t i = 0; i < dim; i++) {
                    const auto at = static_cast<int64_t>(i);
                    q[i] = static_cast<double>(op.q.at(at, h % s.query_heads, t, n / (s.sequences / s.query_sequences)));
                    k[i] = static_cast<double>(op.k.at(at, h % s.key_heads, t, n / (s.sequences / s.key_sequences)));
                    v[i] = static_cast<double>(op.v.at(at, h, t, n));
                }
                double gate = static_cast<double>(op.g.at(0, h, t, n)), beta = static_cast<double>(op.beta.at(0, h, t, n));
                flashqla_state states;
                REQUIRE(flashqla_state_init(&states, sizeof states) == FLASHQLA_STATUS_OK);
                states.read_data = states.write_data = state.data();
                flashqla_forward_args args;
                REQUIRE(flashqla_forward_args_init(&args, sizeof args) == FLASHQLA_STATUS_OK);
                args.q.data = q.data(), args.k.data = k.data(), args.v.data = v.data(), args.out.data = o.data();
                args.gate.data = &gate, args.beta.data = &beta;
                REQUIRE_MESSAGE(flashqla_forward(oracle.get, &problem, &sequences, &states, &args, nullptr, 0, nullptr) == FLASHQLA_STATUS_OK,
                                std::string(flashqla_last_error()));
                memcpy(wanted.data() + ((n * s.tokens + t) * s.heads + h) * s.dim, o.data(), dim * sizeof(double));
                if (s.tokens - 1 - t < s.snapshots) keep(s.tokens - 1 - t);
            }
        }
    return wanted;
}

void compute(Op& op, const Handle& handle, int32_t parts) {
    const flashqla_ggml_op call = op.op();
    REQUIRE(flashqla_ggml_refusal(&call) == nullptr);
    for (int32_t part = parts - 1; part >= 0; part--)
        REQUIRE_MESSAGE(flashqla_ggml_forward(handle.get, &call, part, parts, nullptr, 0, nullptr) == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
}

std::string text_of(const Shape& shape) {
    std::string text = shape.layout;
    for (const int64_t x : {shape.dim, shape.query_heads, shape.key_heads, shape.heads, shape.tokens, shape.query_sequences, shape.key_sequences,
                            shape.sequences, shape.snapshots})
        text += ' ' + std::to_string(x);
    return text;
}

// Whether all that the op writes is within `bound` of what it should be, and all else as it was.
void compare(const Op& op, const std::vector<double>& wanted, double bound) {
    double error = 0, size = 1e-30;
    bool kept = true;
    for (size_t i = 0; i < wanted.size(); i++) {
        const double have = static_cast<double>(op.out.memory[i]);
        if (wanted[i] == static_cast<double>(kUntouched))
            kept = kept && op.out.memory[i] == kUntouched;
        else
            error += (have - wanted[i]) * (have - wanted[i]), size += wanted[i] * wanted[i];
    }
    CHECK(kept);
    CHECK(std::sqrt(error / size) < bound);
}

void check(const Shape& shape, const Handle& handle) {
    const std::string text = text_of(shape);
    CAPTURE(text);
    Op op(shape);
    const std::vector<double> wanted = expected(op);
    std::vector<float> first;
    for (const int32_t parts : {1, 2, 3, 7}) {
        CAPTURE(parts);
        op.out.memory.assign(op.out.memory.size(), kUntouched);
        compute(op, handle, parts);
        compare(op, wanted, 2e-6);
        if (first.empty()) first = op.out.memory;
        CHECK_MESSAGE(memcmp(first.data(), op.out.memory.data(), first.size() * sizeof(float)) == 0, "results depend on parts");
    }
}

// The tensors on a GPU: each one's memory there, its view moved along.
class OnDevice {
public:
    OnDevice(fqla_dev& device, Tensor& x) : device_(device), host_(x) {
        base_ = static_cast<char*>(fqla_dev_alloc(&device_, bytes()));
        REQUIRE(base_);
        REQUIRE(!fqla_dev_upload(&device_, base_, x.memory.data(), bytes()));
        x.view.data = base_ + (static_cast<char*>(x.view.data) - reinterpret_cast<char*>(x.memory.data()));
    }
    ~OnDevice() { fqla_dev_free(&device_, base_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    void download() { REQUIRE(!fqla_dev_download(&device_, host_.memory.data(), base_, bytes())); }

private:
    size_t bytes() const { return host_.memory.size() * sizeof(float); }
    fqla_dev& device_;
    Tensor& host_;
    char* base_;
};

void check_on_device(const Shape& shape, const Handle& handle, fqla_dev& device) {
    const std::string text = text_of(shape);
    CAPTURE(text);
    Op op(shape);
    const std::vector<double> wanted = expected(op);
    const OnDevice q(device, op.q), k(device, op.k), v(device, op.v), g(device, op.g), beta(device, op.beta), state(device, op.state);
    OnDevice out(device, op.out);
    void* stream = nullptr;
    REQUIRE(!fqla_dev_stream_create(&device, &stream));
    const flashqla_ggml_op call = op.op();
    flashqla_query_info info{};
    info.struct_size = sizeof info;
    REQUIRE_MESSAGE(flashqla_ggml_query(handle.get, &call, 1, &info) == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    void* workspace = info.workspace_bytes ? fqla_dev_alloc(&device, info.workspace_bytes) : nullptr;
    REQUIRE_MESSAGE(flashqla_ggml_forward(handle.get, &call, 0, 1, workspace, info.workspace_bytes, stream) == FLASHQLA_STATUS_OK,
                    std::string(flashqla_last_error()));
    REQUIRE(!fqla_dev_stream_sync(&device, stream));
    out.download();
    compare(op, wanted, 2e-6);
    fqla_dev_free(&device, workspace);
    fqla_dev_stream_destroy(&device, stream);
}

}  // namespace

TEST_CASE("ggml's op with its tensors on a GPU, against the oracle" * doctest::skip(fqla_dev_count() == 0)) {
    fqla_dev device;
    REQUIRE_MESSAGE(!fqla_dev_open(&device, 0), std::string(fqla_dev_error(&device)));
    {
        const Handle handle(0, 0);
        for (const std::string layout : {"packed", "projection", "permuted"}) {
            check_on_device({16, 2, 2, 4, 70, 1, 1, 1, 1, layout}, handle, device);
            check_on_device({128, 2, 2, 4, 5, 3, 3, 3, 1, layout}, handle, device);
            check_on_device({128, 1, 1, 2, 1, 2, 2, 2, 1, layout}, handle, device);
            check_on_device({16, 3, 3, 9, 3, 2, 2, 2, 5, layout}, handle, device);
        }
        check_on_device({16, 1, 1, 4, 1, 1, 1, 3, 1, "packed"}, handle, device);
        check_on_device({16, 4, 1, 4, 3, 1, 1, 1, 2, "projection"}, handle, device);
        check_on_device({8, 2, 2, 2, 0, 2, 2, 2, 1, "packed"}, handle, device);
    }
    fqla_dev_close(&device);
}

TEST_CASE("ggml's op, against the oracle") {
    const Handle handle(2);
    // dim, heads of q, of k, of v, tokens, sequences of q, of k, of v, snapshots
    for (const std::string layout : {"packed", "projection", "permuted"}) {
        check({16, 2, 2, 4, 70, 1, 1, 1, 1, layout}, handle);
        check({32, 2, 2, 6, 5, 3, 3, 3, 1, layout}, handle);
        check({128, 1, 1, 2, 1, 2, 2, 2, 1, layout}, handle);
        check({16, 4, 4, 4, 6, 2, 2, 2, 4, layout}, handle);
        check({16, 3, 3, 9, 3, 2, 2, 2, 5, layout}, handle);
    }
    SUBCASE("broadcast over sequences, and heads of q that are not k's") {
        check({16, 1, 1, 4, 1, 1, 1, 3, 1, "packed"}, handle);
        check({16, 2, 2, 4, 3, 1, 4, 4, 1, "packed"}, handle);
        check({16, 2, 2, 4, 3, 2, 1, 4, 2, "packed"}, handle);
        check({16, 2, 4, 8, 3, 2, 2, 2, 1, "packed"}, handle);
        check({16, 4, 1, 4, 3, 1, 1, 1, 2, "projection"}, handle);
    }
    SUBCASE("odd and large dims, no tokens") {
        check({1, 1, 1, 1, 2, 1, 1, 1, 2, "packed"}, handle);
        check({7, 1, 1, 3, 9, 2, 2, 2, 2, "projection"}, handle);
        check({256, 1, 1, 1, 2, 1, 1, 1, 1, "packed"}, handle);
        check({8, 2, 2, 2, 0, 2, 2, 2, 1, "packed"}, handle);
        check({8, 2, 2, 2, 0, 2, 2, 2, 3, "packed"}, handle);
    }
}

TEST_CASE("states of a cache whose sequences lie apart") {
    const Handle handle(1);
    Op packed({16, 2, 2, 4, 3, 2, 2, 2, 1, "packed"});
    compute(packed, handle, 1);
    Op apart({16, 2, 2, 4, 3, 2, 2, 2, 1, "packed"});
    const size_t one = 16 * 16 * 4, gap = 48;
    std::vector<float> cache(2 * (one + gap), std::numeric_limits<float>::quiet_NaN());
    for (size_t n = 0; n < 2; n++) memcpy(cache.data() + n * (one + gap), apart.state.memory.data() + n * one, one * sizeof(float));
    apart.state.view.data = cache.data();
    apart.state.view.nb[3] = (one + gap) * sizeof(float);
    for (const int32_t parts : {1, 3}) {
        apart.out.memory.assign(apart.out.memory.size(), kUntouched);
        compute(apart, handle, parts);
        CHECK(packed.out.memory == apart.out.memory);
    }
}

TEST_CASE("an op by hand") {
    // One head of one key and value: s = 0.5 * 4 = 2, u = 0.5 (3 - 2 * 1) = 0.5, s = 2.5, o = 2 * 2.5.
    float q = 2, k = 1, v = 3, g = std::log(0.5f), beta = 0.5f, state = 4, out[2] = {0, 0};
    const auto view = [](float* x, int64_t rows) { return flashqla_ggml_tensor{x, {1, rows, 1, 1}, {4, 4, 4 * static_cast<size_t>(rows), 4}}; };
    flashqla_ggml_op op{view(&q, 1), view(&k, 1), view(&v, 1), view(&g, 1), view(&beta, 1), view(&state, 1), view(out, 2), 1, 0};
    const Handle handle(1);
    REQUIRE(flashqla_ggml_forward(handle.get, &op, 0, 1, nullptr, 0, nullptr) == FLASHQLA_STATUS_OK);
    CHECK(out[0] == doctest::Approx(5));
    CHECK(out[1] == doctest::Approx(2.5));
    CHECK(state == 4);
}

TEST_CASE("queries need no data") {
    const Handle handle(1);
    Op op({128, 2, 2, 8, 16, 2, 2, 2, 3, "packed"});
    flashqla_ggml_op call = op.op();
    for (flashqla_ggml_tensor* x : {&call.q, &call.k, &call.v, &call.g, &call.beta, &call.state, &call.out}) x->data = nullptr;
    flashqla_query_info info{};
    info.struct_size = sizeof info;
    REQUIRE_MESSAGE(flashqla_ggml_query(handle.get, &call, 3, &info) == FLASHQLA_STATUS_OK, std::string(flashqla_last_error()));
    CHECK(info.status == FLASHQLA_STATUS_OK);
    CHECK(info.workspace_bytes == 0);
    CHECK(std::string(info.engine_name).find("cpu") == 0);
    CHECK(flashqla_ggml_forward(handle.get, &call, 0, 1, nullptr, 0, nullptr) == FLASHQLA_STATUS_INVALID_ARGUMENT);
    CHECK(std::string(flashqla_last_error()).find("NULL") != std::string::npos);
}

TEST_CASE("what is left to ggml") {
    const Handle handle(1);
    Op good({16, 2, 2, 4, 3, 2, 2, 2, 2, "packed"});
    const auto refuses = [&](const char* word, auto change) {
        CAPTURE(word);
        flashqla_ggml_op op = good.op();
        change(op);
        const char* why = flashqla_ggml_refusal(&op);
        REQUIRE(why);
        CHECK_MESSAGE(std::string(why).find(word) != std::string::npos, std::string(why));
        CHECK(flashqla_ggml_forward(handle.get, &op, 0, 1, nullptr, 0, nullptr) == FLASHQLA_STATUS_UNSUPPORTED);
        flashqla_query_info info{};
        info.struct_size = sizeof info;
        CHECK(flashqla_ggml_query(handle.get, &op, 1, &info) == FLASHQLA_STATUS_UNSUPPORTED);
    };
    using Call = flashqla_ggml_op&;
    refuses("KDA", [](Call op) { op.g.ne[0] = 16; });
    refuses("256", [](Call op) { op.v.ne[0] = 512; });
    refuses("heads and sequences", [](Call op) { op.v.ne[1] = 0; });
    refuses("too many", [](Call op) { op.v.ne[3] = int64_t{1} << 40; });
    refuses("snapshots", [](Call op) { op.snapshots = 0; });
    refuses("head dim and tokens", [](Call op) { op.k.ne[2] = 2; });
    refuses("heads of q and k must divide", [](Call op) { op.q.ne[1] = 3; });
    refuses("sequences of q and k must divide", [](Call op) { op.k.ne[3] = 4; });
    refuses("contiguous rows", [](Call op) { op.q.nb[0] = 8; });
    refuses("multiples of 4", [](Call op) { op.v.nb[2] += 2; });
    refuses("g and beta", [](Call op) { op.beta.ne[1] = 2; });
    refuses("g and beta", [](Call op) { op.g.nb[1] = 6; });
    refuses("state must be [S, S, H, N]", [](Call op) { op.state.ne[3] = 1; });
    refuses("state must be contiguous", [](Call op) { op.state.nb[2] += 4; });
    refuses("state must be contiguous", [](Call op) { op.state.nb[3] -= 4; });
    refuses("output must be [S*H", [](Call op) { op.out.ne[1]--; });
    refuses("output must be contiguous", [](Call op) { op.out.nb[1] += 4; });
    flashqla_ggml_op op = good.op();
    for (const int32_t part : {-1, 2}) CHECK(flashqla_ggml_forward(handle.get, &op, part, 2, nullptr, 0, nullptr) == FLASHQLA_STATUS_UNSUPPORTED);
}
