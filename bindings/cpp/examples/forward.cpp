// forward.cpp: the shortest whole use of flashqla.hpp, on the best device there is. Two rows of three tokens, in f32, from an empty state;
// prints a checksum that is the same in every language's example.
#include <cstdio>
#include <exception>
#include <vector>

#include "device.hpp"
#include "flashqla.hpp"

static constexpr int kRows = 2, kTokens = 6, kHeads = 2, kDim = 16, kValues = kTokens * kHeads * kDim, kScalars = kTokens * kHeads;

// Device memory with `count` numbers in it: step/64 apart, going round in [-range, range).
static flashqla::buffer<float> numbers(const flashqla::device& device, int count, int step, float range) {
    std::vector<float> host;
    for (int i = 0; i < count; i++) host.push_back(range * (static_cast<float>(i * step % 64) / 32 - 1));
    return {device, host};
}

static void run() {
    const flashqla::handle handle;  // the best device
    const flashqla_device info = handle.info();
    const flashqla::device device(info.device);

    flashqla::problem problem(FLASHQLA_FORM_QWEN);
    problem.key_heads = problem.value_heads = kHeads;
    problem.key_dim = problem.value_dim = kDim;
    problem.dtype = FLASHQLA_DTYPE_F32;
    flashqla::sequences sequences;
    sequences.rows = kRows;
    sequences.tokens = kTokens;

    const auto q = numbers(device, kValues, 7, 1), k = numbers(device, kValues, 11, 1), v = numbers(device, kValues, 13, 1);
    const auto gate = numbers(device, kScalars, 5, 2), beta = numbers(device, kScalars, 3, 2);
    const auto A_log = numbers(device, kHeads, 9, 1), dt_bias = numbers(device, kHeads, 17, 1);
    auto out = numbers(device, kValues, 0, 0);
    flashqla::forward_args args;
    args.q = q, args.k = k, args.v = v, args.gate = gate, args.beta = beta, args.A_log = A_log, args.dt_bias = dt_bias, args.out = out;

    const flashqla_query_info query = handle.query(problem, sequences, nullptr, FLASHQLA_OP_FORWARD);
    flashqla::buffer<std::byte> workspace(device, query.workspace_bytes);
    handle.forward(problem, sequences, nullptr, args, workspace);
    device.synchronize();

    std::vector<float> result(kValues);
    out.download(result);
    double sum = 0;
    for (int i = 0; i < kValues; i++) sum += static_cast<double>(result[static_cast<size_t>(i)]) * (i % 7 + 1);
    std::printf("%s, %s: checksum %.4f\n", info.name, query.engine_name, sum);
}

int main() try {
    run();
    return 0;
} catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
}
