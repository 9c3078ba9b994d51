/* A client of version 0.1: compiled against frozen/flashqla.h, run on today's library. It must go on to work, unchanged, for ever.
 * Two tokens of one head on the CPU, with numbers that can be followed by hand. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "flashqla.h"

#define REQUIRE(condition)                                                            \
    do {                                                                              \
        if (!(condition)) {                                                           \
            printf("line %d: %s: %s\n", __LINE__, #condition, flashqla_last_error()); \
            return 1;                                                                 \
        }                                                                             \
    } while (0)

static int near(float x, double wanted) { return fabs((double)x - wanted) < 1e-5; }

int main(void) {
    flashqla_config config;
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;
    flashqla_forward_args args;
    flashqla_query_info info;
    flashqla_device device;
    flashqla_handle* handle = NULL;
    /* Token 0: u = 0.5 v = (1, 1.5), S = k u^T. Token 1: S decays to (0.5, 0.75); u = 0.5 (v - (0.5, 0.75)) = (1.75, 1.625). */
    float q[4] = {1, 0, 1, 0}, k[4] = {1, 0, 1, 0}, v[4] = {2, 3, 4, 4}, gate[2] = {0, 0}, beta[2] = {0.5f, 0.5f};
    float out[4] = {0}, final[4] = {7, 7, 7, 7};
    gate[1] = (float)log(0.5);

    REQUIRE(FLASHQLA_VERSION == 100 && flashqla_version() >= FLASHQLA_VERSION && flashqla_version() < 10000);
    REQUIRE(!strcmp(flashqla_status_name(FLASHQLA_STATUS_NOT_WARM), "NOT_WARM"));
    REQUIRE(!flashqla_config_init(&config, sizeof config) && config.device == FLASHQLA_DEVICE_BEST);
    config.device = FLASHQLA_DEVICE_CPU;
    config.threads = 2;
    REQUIRE(!flashqla_create(&handle, &config));
    memset(&device, 0, sizeof device);
    device.struct_size = (uint32_t)sizeof device;
    REQUIRE(!flashqla_device_info(handle, &device) && device.device == FLASHQLA_DEVICE_CPU && !strcmp(device.name, "CPU"));

    REQUIRE(!flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_PLAIN));
    problem.key_heads = problem.value_heads = 1;
    problem.key_dim = problem.value_dim = 2;
    problem.dtype = FLASHQLA_DTYPE_F32;
    problem.scale = 1;
    REQUIRE(!flashqla_sequences_init(&sequences, sizeof sequences));
    sequences.rows = 1;
    sequences.tokens = 2;
    REQUIRE(!flashqla_state_init(&state, sizeof state));
    state.write_data = final;
    REQUIRE(!flashqla_forward_args_init(&args, sizeof args));
    args.q.data = q;
    args.k.data = k;
    args.v.data = v;
    args.gate.data = gate;
    args.beta.data = beta;
    args.out.data = out;

    memset(&info, 0, sizeof info);
    info.struct_size = (uint32_t)sizeof info;
    REQUIRE(!flashqla_query(handle, &problem, &sequences, &state, FLASHQLA_OP_FORWARD, &info));
    REQUIRE(info.status == FLASHQLA_STATUS_OK && info.workspace_bytes == 0 && info.engine_name && info.reason);
    REQUIRE(!flashqla_warmup(handle, &problem, FLASHQLA_OP_FORWARD));
    REQUIRE(!flashqla_forward(handle, &problem, &sequences, &state, &args, NULL, 0, NULL));
    REQUIRE(near(out[0], 1) && near(out[1], 1.5) && near(out[2], 2.25) && near(out[3], 2.375));
    REQUIRE(near(final[0], 2.25) && near(final[1], 2.375) && near(final[2], 0) && near(final[3], 0));

    args.out.data = NULL;
    REQUIRE(flashqla_forward(handle, &problem, &sequences, &state, &args, NULL, 0, NULL) == FLASHQLA_STATUS_INVALID_ARGUMENT);
    REQUIRE(strstr(flashqla_last_error(), "out"));
    flashqla_destroy(handle);
    puts("a client of 0.1 runs");
    return 0;
}
