// The delta rule on one token, through the installed library: S = k u^T, u = beta v, out = scale S^T q.
#include <flashqla.h>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
    flashqla_config config;
    flashqla_config_init(&config, sizeof config);
    config.device = FLASHQLA_DEVICE_CPU;
    flashqla_handle* handle = nullptr;
    if (flashqla_create(&handle, &config)) return std::puts(flashqla_last_error()), 1;
    flashqla_problem problem;
    flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN);
    problem.key_heads = problem.value_heads = 1, problem.key_dim = 4, problem.value_dim = 3;
    problem.dtype = FLASHQLA_DTYPE_F32;
    flashqla_sequences sequences;
    flashqla_sequences_init(&sequences, sizeof sequences);
    sequences.rows = 1, sequences.tokens = 1;
    std::vector<float> q{1, 1, 1, 1}, k{0.5F, 0.5F, 0.5F, 0.5F}, v{1, 2, 3}, gate{0}, beta{0.5F}, out(3);
    flashqla_forward_args args;
    flashqla_forward_args_init(&args, sizeof args);
    args.q.data = q.data(), args.k.data = k.data(), args.v.data = v.data(), args.gate.data = gate.data(), args.beta.data = beta.data(),
    args.out.data = out.data();
    if (flashqla_forward(handle, &problem, &sequences, nullptr, &args, nullptr, 0, nullptr)) return std::puts(flashqla_last_error()), 1;
    flashqla_destroy(handle);
    std::printf("%s: %g %g %g\n", flashqla_build_info(), out[0], out[1], out[2]);
    for (int i = 0; i < 3; i++)
        if (std::fabs(out[static_cast<size_t>(i)] - 0.5F * static_cast<float>(i + 1)) > 1e-5F) return 1;
    return 0;
}
