/* flashqla_ggml.h: ggml's gated delta net (GGML_OP_GATED_DELTA_NET) computed by flashqla. Needs no ggml: tensors come as ggml describes
 * them, by data, ne and nb. All are f32; S is the head dim (K = V), H the value heads, T tokens, N sequences:
 *
 *     q      [S, HQ, T, NQ]   HQ divides H, NQ divides N; value head h reads head h % HQ, sequence n reads sequence n / (N / NQ)
 *     k      [S, HK, T, NK]   the same with HK and NK
 *     v      [S, H, T, N]
 *     g      [1, H, T, N]     the log gate
 *     beta   [1, H, T, N]
 *     state  [S, S, H, N]     the key index contiguous
 *     out    [S*H, T*N + snapshots*S*N]: the outputs [S, H, T, N], then `snapshots` states [S, S, H, N], the newest first. Number s is the
 *            state s tokens before the end; one that would lie before the first token is left as it is
 *
 * Rows of q, k and v are contiguous, all else about the strides of the inputs is free; out is contiguous. The scale is 1 / sqrt(S).
 */
#ifndef FLASHQLA_GGML_H
#define FLASHQLA_GGML_H

#include <flashqla.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A ggml_tensor's fields of these names. nb is in bytes. */
typedef struct flashqla_ggml_tensor {
    void* data;
    int64_t ne[4];
    size_t nb[4];
} flashqla_ggml_tensor;

typedef struct flashqla_ggml_op {
    flashqla_ggml_tensor q, k, v, g, beta, state, out;
    int64_t snapshots; /* the op's parameter K, >= 1 */
    uint64_t flags;    /* FLASHQLA_PROBLEM_*; 0 */
} flashqla_ggml_op;

/* NULL when flashqla_ggml_forward can compute an op of these shapes, else why not, valid for ever: leave the op to ggml. Looks at no
 * data pointer, so it can be asked while the graph is built. */
const char* flashqla_ggml_refusal(const flashqla_ggml_op* op);

/* What the parts' calls of flashqla will want at most: workspace, launches, and the last one's engine and reason. Set info->struct_size.
 * UNSUPPORTED where flashqla_ggml_refusal says why. */
int32_t flashqla_ggml_query(const flashqla_handle* handle, const flashqla_ggml_op* op, int32_t parts, flashqla_query_info* info);

/* Computes part `part` of `parts`, counted from 0: a share of the (value head, sequence) pairs, so that each of ggml's threads can compute
 * one, with a handle (threads = 1) and a workspace of its own; results do not depend on parts. On a CUDA handle: one part, device pointers,
 * and the work is enqueued on stream.
 * UNSUPPORTED where flashqla_ggml_refusal says why; else flashqla_forward's statuses, and flashqla_last_error has the text. */
int32_t flashqla_ggml_forward(const flashqla_handle* handle, const flashqla_ggml_op* op, int32_t part, int32_t parts, void* workspace, uint64_t workspace_bytes,
                              void* stream);

#ifdef __cplusplus
}
#endif
#endif
