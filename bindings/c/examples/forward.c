/* forward.c: the shortest whole use of flashqla, on the best device there is. Two rows of three tokens, in f32, from an empty state;
 * prints a checksum that is the same in every language's example. */
#include "device.h"
#include "flashqla.h"

enum { ROWS = 2, TOKENS = 6, HEADS = 2, DIM = 16, VALUES = TOKENS * HEADS * DIM, SCALARS = TOKENS * HEADS };

static void check(int32_t status) {
    if (status == FLASHQLA_STATUS_OK) return;
    fprintf(stderr, "%s: %s\n", flashqla_status_name(status), flashqla_last_error());
    exit(1);
}

/* Device memory with `count` numbers in it: step/64 apart, going round in [-range, range). */
static float* numbers(fqla_dev* dev, int count, int step, float range) {
    float host[VALUES];
    float* memory = (float*)fqla_dev_alloc(dev, (size_t)count * sizeof *host);
    int i;
    for (i = 0; i < count; i++) host[i] = range * ((float)(i * step % 64) / 32 - 1);
    if (!memory || fqla_dev_upload(dev, memory, host, (size_t)count * sizeof *host)) {
        fprintf(stderr, "%s\n", fqla_dev_error(dev));
        exit(1);
    }
    return memory;
}

int main(void) {
    flashqla_handle* handle;
    flashqla_device info;
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_forward_args args;
    flashqla_query_info query;
    fqla_dev dev;
    float out[VALUES];
    void* workspace;
    double sum = 0;
    int i;

    check(flashqla_create(&handle, NULL)); /* the best device */
    info.struct_size = sizeof info;
    check(flashqla_device_info(handle, &info));
    if (fqla_dev_open(&dev, info.device)) {
        fprintf(stderr, "%s\n", fqla_dev_error(&dev));
        return 1;
    }
    check(flashqla_problem_init(&problem, sizeof problem, FLASHQLA_FORM_QWEN));
    problem.key_heads = problem.value_heads = HEADS;
    problem.key_dim = problem.value_dim = DIM;
    problem.dtype = FLASHQLA_DTYPE_F32;
    check(flashqla_sequences_init(&sequences, sizeof sequences));
    sequences.rows = ROWS;
    sequences.tokens = TOKENS;
    check(flashqla_forward_args_init(&args, sizeof args));
    args.q.data = numbers(&dev, VALUES, 7, 1);
    args.k.data = numbers(&dev, VALUES, 11, 1);
    args.v.data = numbers(&dev, VALUES, 13, 1);
    args.gate.data = numbers(&dev, SCALARS, 5, 2);
    args.beta.data = numbers(&dev, SCALARS, 3, 2);
    args.A_log.data = numbers(&dev, HEADS, 9, 1);
    args.dt_bias.data = numbers(&dev, HEADS, 17, 1);
    args.out.data = numbers(&dev, VALUES, 0, 0);
    query.struct_size = sizeof query;
    check(flashqla_query(handle, &problem, &sequences, NULL, FLASHQLA_OP_FORWARD, &query));
    check(query.status);
    workspace = fqla_dev_alloc(&dev, query.workspace_bytes);
    check(flashqla_forward(handle, &problem, &sequences, NULL, &args, workspace, query.workspace_bytes, NULL));
    if (fqla_dev_sync(&dev) || fqla_dev_download(&dev, out, args.out.data, sizeof out)) {
        fprintf(stderr, "%s\n", fqla_dev_error(&dev));
        return 1;
    }
    for (i = 0; i < VALUES; i++) sum += (double)out[i] * (i % 7 + 1);
    printf("%s, %s: checksum %.4f\n", info.name, query.engine_name, sum);

    fqla_dev_free(&dev, workspace);
    fqla_dev_free(&dev, args.q.data);
    fqla_dev_free(&dev, args.k.data);
    fqla_dev_free(&dev, args.v.data);
    fqla_dev_free(&dev, args.gate.data);
    fqla_dev_free(&dev, args.beta.data);
    fqla_dev_free(&dev, args.A_log.data);
    fqla_dev_free(&dev, args.dt_bias.data);
    fqla_dev_free(&dev, args.out.data);
    flashqla_destroy(handle);
    fqla_dev_close(&dev);
    return 0;
}
