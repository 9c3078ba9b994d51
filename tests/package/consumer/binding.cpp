// The delta rule on one token through the installed flashqla.hpp, as consumer.cpp does it through flashqla.h.
#include <cmath>
#include <cstdio>
#include <flashqla.hpp>
#include <vector>

int main() try {
    const flashqla::handle handle(FLASHQLA_DEVICE_CPU);
    flashqla::problem problem;
    problem.key_heads = problem.value_heads = 1, problem.key_dim = 4, problem.value_dim = 3;
    problem.dtype = FLASHQLA_DTYPE_F32;
    flashqla::sequences sequences;
    sequences.rows = 1, sequences.tokens = 1;
    std::vector<float> q{1, 1, 1, 1}, k{0.5F, 0.5F, 0.5F, 0.5F}, v{1, 2, 3}, gate{0}, beta{0.5F}, out(3);
    flashqla::forward_args args;
    args.q = q, args.k = k, args.v = v, args.gate = gate, args.beta = beta, args.out = out;
    handle.forward(problem, sequences, nullptr, args, {});
    for (int i = 0; i < 3; i++)
        if (std::fabs(out[static_cast<size_t>(i)] - 0.5F * static_cast<float>(i + 1)) > 1e-5F) return 1;
    std::printf("flashqla.hpp: %g %g %g\n", static_cast<double>(out[0]), static_cast<double>(out[1]), static_cast<double>(out[2]));
    return 0;
} catch (const flashqla::error& e) {
    std::puts(e.what());
    return 1;
}
