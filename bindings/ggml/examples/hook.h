/* hook.h: ggml_gated_delta_net through flashqla, inside ggml's own graph and on ggml's own threads: a custom op, so that ggml is not
 * patched. Where llama.cpp calls ggml_gated_delta_net, call flashqla_gated_delta_net with a table of handles instead; what the library does
 * not compute goes to ggml as before. Build with flashqla_ggml.c. */
#ifndef FLASHQLA_GGML_HOOK_H
#define FLASHQLA_GGML_HOOK_H

#include <flashqla_ggml.h>
#include <ggml.h>
#include <string.h>

enum { FLASHQLA_GGML_THREADS = 512 }; /* GGML_MAX_N_THREADS */

/* One for each graph that is computed at a time; handles[i] is used by ggml's thread i alone. All zeros at first. */
typedef struct flashqla_ggml_threads {
    flashqla_handle* handles[FLASHQLA_GGML_THREADS];
} flashqla_ggml_threads;

static inline flashqla_ggml_tensor flashqla_ggml_view(const struct ggml_tensor* x) {
    flashqla_ggml_tensor t;
    t.data = x->data;
    memcpy(t.ne, x->ne, sizeof t.ne);
    memcpy(t.nb, x->nb, sizeof t.nb);
    return t;
}

/* The op whose sources are q, k, v, g, beta and state, as those of GGML_OP_GATED_DELTA_NET are. */
static inline flashqla_ggml_op flashqla_ggml_op_of(struct ggml_tensor* const* src, int64_t snapshots, void* out) {
    const int64_t dim = src[2]->ne[0], width = dim * src[2]->ne[1], rows = src[2]->ne[3] * (src[2]->ne[2] + snapshots * dim);
    const size_t row = (size_t)width * sizeof(float), all = row * (size_t)rows;
    flashqla_ggml_op op = {flashqla_ggml_view(src[0]),
                           flashqla_ggml_view(src[1]),
                           flashqla_ggml_view(src[2]),
                           flashqla_ggml_view(src[3]),
                           flashqla_ggml_view(src[4]),
                           flashqla_ggml_view(src[5]),
                           {out, {width, rows, 1, 1}, {sizeof(float), row, all, all}},
                           snapshots,
                           0};
    return op;
}

/* This thread's part of a node, a custom op's or a GGML_OP_GATED_DELTA_NET; 0: it is one for ggml, nothing was done. */
static inline int flashqla_ggml_try(struct ggml_tensor* out, int ith, int nth, flashqla_ggml_threads* threads) {
    flashqla_handle** handle = &threads->handles[ith];
    const struct ggml_tensor* v = out->src[2];
    const int64_t snapshots = (out->ne[1] / v->ne[3] - v->ne[2]) / v->ne[0]; /* a custom op has no parameters: the shapes tell */
    const flashqla_ggml_op op = flashqla_ggml_op_of(out->src, snapshots, out->data);
    flashqla_config config;
    if (flashqla_ggml_refusal(&op)) return 0;
    flashqla_config_init(&config, sizeof config);
    config.device = FLASHQLA_DEVICE_CPU;
    config.threads = 1;
    if ((!*handle && flashqla_create(handle, &config)) || flashqla_ggml_forward(*handle, &op, ith, nth, NULL, 0, NULL)) GGML_ABORT("%s", flashqla_last_error());
    return 1;
}

/* ggml calls this on each of its threads, and waits for all of them before the next node. */
static inline void flashqla_ggml_compute(struct ggml_tensor* out, int ith, int nth, void* user) {
    flashqla_ggml_try(out, ith, nth, (flashqla_ggml_threads*)user);
}

static inline struct ggml_tensor* flashqla_gated_delta_net(struct ggml_context* ctx, struct ggml_tensor* q, struct ggml_tensor* k, struct ggml_tensor* v,
                                                           struct ggml_tensor* g, struct ggml_tensor* beta, struct ggml_tensor* state, int64_t snapshots,
                                                           flashqla_ggml_threads* threads) {
    struct ggml_tensor* src[6] = {q, k, v, g, beta, state};
    const flashqla_ggml_op op = flashqla_ggml_op_of(src, snapshots, NULL);
    if (flashqla_ggml_refusal(&op)) return ggml_gated_delta_net(ctx, q, k, v, g, beta, state, snapshots);
    return ggml_custom_4d(ctx, GGML_TYPE_F32, op.out.ne[0], op.out.ne[1], 1, 1, src, 6, flashqla_ggml_compute, GGML_N_TASKS_MAX, threads);
}

static inline void flashqla_ggml_free(flashqla_ggml_threads* threads) {
    int i;
    for (i = 0; i < FLASHQLA_GGML_THREADS; i++) flashqla_destroy(threads->handles[i]);
    memset(threads, 0, sizeof *threads);
}

#endif
