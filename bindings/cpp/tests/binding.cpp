// flashqla.hpp end to end on the CPU: gradients against finite differences through every field, states, refusals, threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "device.hpp"
#include "flashqla.hpp"

namespace {

using Doubles = std::vector<double>;

// Numbers in [-1, 1) that differ from array to array.
Doubles numbers(size_t count, size_t step) {
    Doubles x(count);
    for (size_t i = 0; i < count; i++) x[i] = static_cast<double>((i + 1) * step % 64) / 32 - 1;
    return x;
}

const flashqla::device kCpu(-1);
const flashqla::handle& cpu() {
    static const flashqla::handle handle(FLASHQLA_DEVICE_CPU, 2);
    return handle;
}

flashqla::problem small_problem() {
    flashqla::problem p(FLASHQLA_FORM_QWEN);
    p.key_heads = 1, p.value_heads = 2, p.key_dim = 3, p.value_dim = 2, p.dtype = FLASHQLA_DTYPE_F64;
    return p;
}

// Two rows packed by offsets, states in pools with slots; all of it in double.
struct Job {
    static constexpr size_t kTokens = 6, kRows = 2, kState = 2 * 3 * 2;
    flashqla::problem problem = small_problem();
    std::vector<int64_t> offsets{0, 2, 6};
    std::vector<int32_t> read_slots{2, 0}, write_slots{1, 2};
    Doubles q = numbers(kTokens * 3, 7), k = numbers(kTokens * 3, 11), v = numbers(kTokens * 4, 13), gate = numbers(kTokens * 2, 5),
            beta = numbers(kTokens * 2, 3), A_log = numbers(2, 9), dt_bias = numbers(2, 17), out = Doubles(kTokens * 4), read_pool = numbers(3 * kState, 19),
            write_pool = Doubles(3 * kState), d_out = numbers(kTokens * 4, 23), d_final = numbers(kRows * kState, 29);

    flashqla::sequences sequences() const {
        flashqla::sequences s;
        s.rows = kRows, s.tokens = kTokens, s.max_tokens = 4, s.offsets = offsets;
        return s;
    }
    flashqla::state state() {
        flashqla::state s;
        s.read = read_pool, s.read_slots_count = 3, s.read_slots = read_slots;
        s.write = write_pool, s.write_slots_count = 3, s.write_slots = write_slots;
        return s;
    }
    template <class Args>
    Args inputs() const {
        Args a;
        a.q = q, a.k = k, a.v = v, a.gate = gate, a.beta = beta, a.A_log = A_log, a.dt_bias = dt_bias;
        return a;
    }
    flashqla::forward_args forward_args() {
        auto a = inputs<flashqla::forward_args>();
        a.out = out;
        return a;
    }
    void forward() {
        const auto s = state();
        flashqla::buffer<std::byte> workspace(kCpu, cpu().query(problem, sequences(), &s, FLASHQLA_OP_FORWARD).workspace_bytes);
        cpu().forward(problem, sequences(), &s, forward_args(), workspace);
    }
    double loss() {
        forward();
        double sum = 0;
        for (size_t i = 0; i < out.size(); i++) sum += d_out[i] * out[i];
        for (size_t n = 0; n < kRows; n++)
            for (size_t i = 0; i < kState; i++) sum += d_final[n * kState + i] * write_pool[static_cast<size_t>(write_slots[n]) * kState + i];
        return sum;
    }
};

template <class Run>
flashqla::error refusal(const Run& run) {
    try {
        run();
    } catch (const flashqla::error& e) {
        return e;
    }
    return {0, "was not refused"};
}

void check_refused(int32_t status, const char* part, Job& job, const flashqla::forward_args& args, const flashqla::sequences& s) {
    const auto st = job.state();
    const auto e = refusal([&] { cpu().forward(job.problem, s, &st, args, {}); });
    CHECK(e.status == status);
    CHECK_MESSAGE(std::string(e.what()).find(part) != std::string::npos, e.what());
}

}  // namespace

TEST_CASE("the library and the handle tell about themselves") {
    CHECK(flashqla_version() == FLASHQLA_VERSION);
    CHECK(std::string(cpu().info().name) == "CPU");
    CHECK(cpu().info().threads == 2);
    Job job;
    const auto s = job.state();
    const auto info = cpu().query(job.problem, job.sequences(), &s, FLASHQLA_OP_FORWARD);
    CHECK(info.status == FLASHQLA_STATUS_OK);
    CHECK(std::string(info.engine_name).find("cpu") == 0);
    CHECK(cpu().explain(job.problem, job.sequences(), &s, FLASHQLA_OP_BACKWARD).find("cpu") != std::string::npos);
    cpu().warmup(nullptr, FLASHQLA_OP_FORWARD);
    cpu().warmup(&job.problem, FLASHQLA_OP_BACKWARD);
}

TEST_CASE("every gradient is that of finite differences") {
    Job job;
    Doubles dq(job.q.size()), dk(job.k.size()), dv(job.v.size()), d_gate(job.gate.size()), d_beta(job.beta.size()), dA_log(2), ddt_bias(2),
        d_initial(Job::kRows * Job::kState);
    auto args = job.inputs<flashqla::backward_args>();
    args.d_out = job.d_out, args.d_final = job.d_final;
    args.dq = dq, args.dk = dk, args.dv = dv, args.d_gate = d_gate, args.d_beta = d_beta, args.dA_log = dA_log, args.ddt_bias = ddt_bias,
    args.d_initial = d_initial;
    const auto s = job.state();
    flashqla::buffer<std::byte> workspace(kCpu, cpu().query(job.problem, job.sequences(), &s, FLASHQLA_OP_BACKWARD).workspace_bytes);
    cpu().backward(job.problem, job.sequences(), &s, args, workspace);

    const auto compare = [&](const char* name, Doubles& x, size_t at, double gradient) {
        const double kept = x[at], step = 1e-5;
        x[at] = kept + step;
        const double above = job.loss();
        x[at] = kept - step;
        const double below = job.loss();
        x[at] = kept;
        CHECK_MESSAGE(std::fabs((above - below) / (2 * step) - gradient) < 1e-7, name, at);
    };
    const std::array<std::tuple<const char*, Doubles*, Doubles*>, 7> pairs{{{"q", &job.q, &dq},
                                                                            {"k", &job.k, &dk},
                                                                            {"v", &job.v, &dv},
                                                                            {"gate", &job.gate, &d_gate},
                                                                            {"beta", &job.beta, &d_beta},
                                                                            {"A_log", &job.A_log, &dA_log},
                                                                            {"dt_bias", &job.dt_bias, &ddt_bias}}};
    for (const auto& [name, x, gradient] : pairs)
        for (size_t i = 0; i < x->size(); i++) compare(name, *x, i, (*gradient)[i]);
    for (size_t n = 0; n < Job::kRows; n++)
        for (size_t i = 0; i < Job::kState; i++)
            compare("initial", job.read_pool, static_cast<size_t>(job.read_slots[n]) * Job::kState + i, d_initial[n * Job::kState + i]);
}

TEST_CASE("what the forward saves serves the backward; strides walk a packed row") {
    Job plain, wide;
    plain.forward();
    Doubles row(Job::kTokens * 10);  // q, k and v of a token side by side
    for (size_t t = 0; t < Job::kTokens; t++)
        for (size_t i = 0; i < 10; i++) row[t * 10 + i] = i < 3 ? wide.q[t * 3 + i] : i < 6 ? wide.k[t * 3 + i - 3] : wide.v[t * 4 + i - 6];
    auto args = wide.forward_args();
    const auto part = [&](size_t first) { return flashqla::input(row.data() + first, row.size() - first, 0, 10, first < 6 ? 3 : 2); };
    args.q = part(0), args.k = part(3), args.v = part(6);
    const auto s = wide.state();
    const auto info = cpu().query(wide.problem, wide.sequences(), &s, FLASHQLA_OP_FORWARD);
    flashqla::buffer<std::byte> workspace(kCpu, info.workspace_bytes), saved(kCpu, info.saved_bytes);
    if (info.saved_bytes) args.saved = saved;
    cpu().forward(wide.problem, wide.sequences(), &s, args, workspace);
    CHECK(wide.out == plain.out);
    CHECK(wide.write_pool == plain.write_pool);
    args.v = flashqla::input(row.data() + 6, row.size() - 7, 0, 10, 2);
    check_refused(FLASHQLA_STATUS_INVALID_ARGUMENT, "args.v has 53 elements", wide, args, wide.sequences());
}

TEST_CASE("memory of just the length that a call reaches is enough, and one element less is not") {
    std::mt19937 random(20261123);
    const auto pick = [&](int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random); };
    for (int round = 0; round < 300; round++) {
        flashqla::problem p;
        p.key_heads = static_cast<int32_t>(pick(1, 3)), p.value_heads = p.key_heads * static_cast<int32_t>(pick(1, 2));
        p.key_dim = static_cast<int32_t>(pick(1, 9)), p.value_dim = static_cast<int32_t>(pick(1, 9)), p.dtype = FLASHQLA_DTYPE_F32;
        const int64_t rows = pick(1, 3), each = pick(1, 5);
        flashqla::sequences s;
        s.rows = static_cast<int32_t>(rows), s.tokens = rows * each;
        const bool packed_rows = pick(0, 1) == 1;
        std::vector<int32_t> offsets;
        for (int64_t n = 0; n <= rows; n++) offsets.push_back(static_cast<int32_t>(n * each));
        if (packed_rows) s.offsets = offsets;

        // A tensor whose memory ends behind its last element, found by walking all of them.
        std::vector<std::vector<float>> memory;
        memory.reserve(6);
        const auto tensor = [&](int64_t heads, int64_t dim) {
            const bool packed = pick(0, 3) == 0;
            const int64_t head = packed ? dim : dim + pick(0, 2), token = packed ? heads * dim : heads * head + pick(0, 3);
            const int64_t row = packed ? each * token : each * token + pick(0, 4);
            int64_t last = 0;
            for (int64_t n = 0; n < rows; n++)
                for (int64_t t = 0; t < each; t++)
                    for (int64_t h = 0; h < heads; h++)
                        last = std::max(last, (packed_rows ? (n * each + t) * token : n * row + t * token) + h * head + dim - 1);
            memory.emplace_back(static_cast<size_t>(last + 1), 0.25F);
            return packed ? flashqla::output(memory.back()) : flashqla::output(memory.back(), row, token, head);
        };
        flashqla::forward_args args;
        args.q = tensor(p.key_heads, p.key_dim), args.k = tensor(p.key_heads, p.key_dim), args.v = tensor(p.value_heads, p.value_dim);
        args.gate = tensor(p.value_heads, 1), args.beta = tensor(p.value_heads, 1), args.out = tensor(p.value_heads, p.value_dim);
        flashqla::buffer<std::byte> workspace(kCpu, cpu().query(p, s, nullptr, FLASHQLA_OP_FORWARD).workspace_bytes);
        cpu().forward(p, s, nullptr, args, workspace);
        flashqla::input* const all[] = {&args.q, &args.k, &args.v, &args.gate, &args.beta, &args.out};
        flashqla::input& cut = *all[pick(0, 5)];
        cut.elements--;
        CHECK(std::string(refusal([&] { cpu().forward(p, s, nullptr, args, workspace); }).what()).find("elements of dtype 1: must be") != std::string::npos);
    }
}

TEST_CASE("checkpoints, per-token states and rollback") {
    flashqla::problem p;
    p.key_heads = p.value_heads = 1, p.key_dim = p.value_dim = 4, p.dtype = FLASHQLA_DTYPE_F64;
    const Doubles q = numbers(128 * 4, 7), k = numbers(128 * 4, 11), v = numbers(128 * 4, 13), gate(128, -0.25), beta(128, 0.5);
    Doubles out(128 * 4), pool(5 * 16);
    const auto run = [&](size_t from, size_t count, const flashqla::state& s) {
        const auto part = [&](const Doubles& x, size_t width) { return flashqla::input(x.data() + from * width, count * width); };
        flashqla::sequences one;
        one.rows = 1, one.tokens = static_cast<int64_t>(count);
        flashqla::forward_args a;
        a.q = part(q, 4), a.k = part(k, 4), a.v = part(v, 4), a.gate = part(gate, 1), a.beta = part(beta, 1);
        a.out = flashqla::output(out.data() + from * 4, count * 4);
        cpu().forward(p, one, &s, a, {});
    };
    const auto slot = [&](int i) { return Doubles(pool.begin() + i * 16, pool.begin() + i * 16 + 16); };
    const std::vector<int32_t> none{FLASHQLA_SLOT_NONE}, zero{0}, one{1}, tokens{2, 3, 4}, two{2};

    flashqla::state s;
    s.write = pool, s.write_slots_count = 5, s.write_slots = zero;
    run(0, 64, s);
    s.write_slots = none, s.checkpoint_interval = 64, s.checkpoint_slots = one, s.checkpoint_width = 1;
    run(0, 128, s);
    CHECK(slot(0) == slot(1));

    flashqla::state verify;
    verify.read = pool, verify.write = pool, verify.read_slots_count = verify.write_slots_count = 5, verify.read_slots = zero;
    verify.write_slots = one, verify.flags = FLASHQLA_STATE_NO_FINAL, verify.token_slots = tokens, verify.token_width = 3;
    run(64, 3, verify);
    flashqla::state accept = verify;
    accept.accepted = two, accept.flags = 0;
    run(66, 1, accept);  // from the state after two of the three
    flashqla::state plain = accept;
    plain.accepted = {}, plain.token_slots = {}, plain.token_width = 0, plain.write_slots = zero;
    run(64, 3, plain);
    CHECK(slot(0) == slot(1));
}

TEST_CASE("what is wrong is refused with a reason") {
    constexpr int32_t kInvalid = FLASHQLA_STATUS_INVALID_ARGUMENT;
    Job job;
    const auto good = job.forward_args();
    const auto s = job.sequences();
    auto bad = good;
    std::vector<float> floats(job.q.size());
    bad.q = floats;
    check_refused(kInvalid, "args.q.dtype = 1: must be F64", job, bad, s);
    bad = good, bad.k = flashqla::input(job.k.data(), job.k.size() - 1);
    check_refused(kInvalid, "args.k has 17 elements of dtype 4: must be 18", job, bad, s);
    bad = good, bad.out = flashqla::output(job.out.data(), 3);
    check_refused(kInvalid, "args.out has 3", job, bad, s);
    bad = good, bad.beta = {};
    check_refused(kInvalid, "args.beta.data is NULL: it is required", job, bad, s);
    bad = good, bad.q = flashqla::input(job.q.data(), job.q.size(), 0, -3, 3);
    check_refused(kInvalid, "args.q.stride_token = -3: negative", job, bad, s);
    bad = good, bad.q = flashqla::input(job.q.data(), job.q.size(), 0, INT64_MAX, 3);
    check_refused(kInvalid, "args.q has 18", job, bad, s);

    auto negative = s;
    negative.tokens = -1;
    check_refused(kInvalid, "sequences.tokens = -1", job, good, negative);
    negative = s, negative.rows = -2;
    check_refused(kInvalid, "sequences.rows = -2", job, good, negative);
    auto huge = s;
    huge.tokens = INT64_MAX;
    check_refused(kInvalid, "sequences.tokens = 9223372036854775807", job, good, huge);
    auto cut = s;
    cut.offsets = flashqla::input(job.offsets.data(), 2);
    check_refused(kInvalid, "sequences.offsets has 2 elements", job, good, cut);
    cut.offsets = floats;
    check_refused(kInvalid, "sequences.offsets_dtype", job, good, cut);

    Job other;
    other.problem.key_dim = 999;
    check_refused(kInvalid, "problem.key_dim = 999: must be 1 to 256", other, other.forward_args(), s);
    other = Job(), other.read_slots.pop_back();
    check_refused(kInvalid, "state.read_slots has 1", other, other.forward_args(), s);
    other = Job(), other.write_pool.pop_back();
    check_refused(kInvalid, "state.write has 35", other, other.forward_args(), s);
    other = Job(), other.problem.gate = FLASHQLA_GATE_LOG_PER_KEY;
    check_refused(FLASHQLA_STATUS_UNSUPPORTED, "LOG_PER_KEY", other, other.forward_args(), s);

    auto st = job.state();
    st.read = floats;
    CHECK(std::string(refusal([&] { cpu().forward(job.problem, s, &st, good, {}); }).what()).find("state.read has 18 elements of dtype 1") == 0);
    CHECK(refusal([] { flashqla::problem(99); }).status == kInvalid);
    CHECK(refusal([] { flashqla::handle(-7); }).status == kInvalid);
    CHECK(refusal([] { flashqla::handle(FLASHQLA_DEVICE_CPU, -1); }).status == kInvalid);
    flashqla::handle moved(FLASHQLA_DEVICE_CPU, 1);
    const flashqla::handle taken = std::move(moved);
    CHECK(refusal([&] { moved.info(); }).status == kInvalid);
    CHECK(refusal([&] { moved.forward(job.problem, s, nullptr, good, {}); }).status == kInvalid);
    int not_a_stream = 0;
    const auto in = job.state();
    CHECK(refusal([&] { cpu().forward(job.problem, s, &in, good, {}, &not_a_stream); }).status == kInvalid);
}

TEST_CASE("threads share a handle and keep their errors apart; the log is called") {
    Job first;
    first.forward();
    std::vector<std::thread> threads;
    std::array<bool, 4> good{};
    for (size_t i = 0; i < good.size(); i++)
        threads.emplace_back([&, i] {
            for (int round = 0; round < 20; round++) {
                Job job;
                job.forward();
                job.problem.key_dim = 1000 + static_cast<int32_t>(i);
                const auto e = refusal([&] { job.forward(); });
                good[i] = job.out == first.out && std::string(e.what()).find("key_dim = " + std::to_string(1000 + i)) != std::string::npos;
                if (!good[i]) return;
            }
        });
    for (auto& t : threads) t.join();
    for (const bool g : good) CHECK(g);

    std::string said;
    const flashqla::handle best(FLASHQLA_DEVICE_BEST, 1, [&](int32_t level, const char* message) { said = std::to_string(level) + message; });
    CHECK((best.info().device >= 0 || said.find("1no usable CUDA device") == 0));
}

// Run with the fake driver in the place of libcuda.so.1, where it counts what is given back.
TEST_CASE("device memory of CUDA" * doctest::skip(!std::getenv("FLASHQLA_FAKE_DRIVER"))) {
    CHECK_THROWS_WITH(flashqla::device(7), "cuDeviceGet: CUDA_ERROR_INVALID_DEVICE (101)");
    const flashqla::device device(0);
    const Doubles some = numbers(100, 7);
    flashqla::buffer<double> buffer(device, some);
    Doubles back(100), few(3);
    std::thread([&] {
        CHECK_THROWS_WITH(device.synchronize(), "cuCtxSynchronize: CUDA_ERROR_INVALID_CONTEXT (201)");
        device.attach();
        buffer.download(back);
        buffer.download(few);
    }).join();
    CHECK(back == some);
    CHECK(few == Doubles(some.begin(), some.begin() + 3));
    const flashqla::buffer<double> moved = std::move(buffer);
    void* stream = device.create_stream();
    device.synchronize(stream);
    device.destroy_stream(stream);
    device.synchronize();
    CHECK(stream != nullptr);
    CHECK(flashqla::device(-1).create_stream() == nullptr);
}
