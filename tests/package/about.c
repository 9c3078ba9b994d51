/* about TEXT: the library that was found says TEXT of itself, and computes. For roots where nothing else is installed. */
#include <flashqla.h>
#include <stdio.h>
#include <string.h>

int main(int count, char** words) {
    float q[2] = {1, 0}, k[2] = {1, 0}, v[2] = {2, 3}, gate[1] = {0}, beta[1] = {0.5f}, out[2] = {0, 0};
    flashqla_config config;
    flashqla_handle* handle;
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_forward_args args;
    puts(flashqla_build_info());
    if (count != 2 || !strstr(flashqla_build_info(), words[1])) {
        printf("which does not say: %s\n", count == 2 ? words[1] : "");
        return 1;
    }
    flashqla_config_init(&config, sizeof config);
    config.device = FLASHQLA_DEVICE_CPU;
    flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN);
    problem.key_heads = problem.value_heads = 1;
    problem.key_dim = problem.value_dim = 2;
    problem.dtype = FLASHQLA_DTYPE_F32;
    problem.scale = 1;
    flashqla_sequences_init(&sequences, sizeof sequences);
    sequences.rows = 1;
    sequences.tokens = 1;
    flashqla_forward_args_init(&args, sizeof args);
    args.q.data = q, args.k.data = k, args.v.data = v, args.gate.data = gate, args.beta.data = beta, args.out.data = out;
    if (flashqla_create(&handle, &config) || flashqla_forward(handle, &problem, &sequences, NULL, &args, NULL, 0, NULL)) {
        puts(flashqla_last_error());
        return 1;
    }
    flashqla_destroy(handle);
    if (out[0] != 1 || out[1] != 1.5f) { /* u = 0.5 v, o = u: no rounding */
        printf("out = %g, %g\n", (double)out[0], (double)out[1]);
        return 1;
    }
    return 0;
}
