/* An op is cut into blocks, each one problem of flashqla: whole sequences where their heads are whole, else runs of heads of one sequence
 * within which both head maps can be said as one. */
#include "flashqla_ggml.h"

enum { ELEMENT = 4, MOST_DIM = 256 };

typedef struct {
    int64_t sequence, sequences, head, heads, key_heads;
} Block;

static int64_t dim_of(const flashqla_ggml_op* op) { return op->v.ne[0]; }
static int64_t heads_of(const flashqla_ggml_op* op) { return op->v.ne[1]; }
static int64_t tokens_of(const flashqla_ggml_op* op) { return op->v.ne[2]; }
static int64_t sequences_of(const flashqla_ggml_op* op) { return op->v.ne[3]; }
static int64_t state_size(const flashqla_ggml_op* op) { return dim_of(op) * dim_of(op) * heads_of(op); }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---------------------------------------------------------------- what is refused */

/* A dimension of one element is never stepped over: its stride is free. That of sequences may be 0: they repeat, or there are no tokens. */
static int strides_fit(const flashqla_ggml_tensor* x) {
    int i;
    for (i = 1; i < 4; i++)
        if (x->ne[i] > 1 && (x->nb[i] % ELEMENT != 0 || (x->nb[i] == 0 && i < 3) || x->nb[i] > INT64_MAX)) return 0;
    return x->nb[0] == ELEMENT || x->ne[0] == 1;
}

static int has_shape(const flashqla_ggml_tensor* x, int64_t a, int64_t b, int64_t c, int64_t d) {
    return x->ne[0] == a && x->ne[1] == b && x->ne[2] == c && x->ne[3] == d;
}

static const char* refuses_keys(const flashqla_ggml_op* op, const flashqla_ggml_tensor* x) {
    if (x->ne[0] != dim_of(op) || x->ne[2] != tokens_of(op)) return "q and k must have v's head dim and tokens";
    if (x->ne[1] < 1 || heads_of(op) % x->ne[1] != 0) return "the heads of q and k must divide those of v";
    if (x->ne[3] < 1 || sequences_of(op) % x->ne[3] != 0) return "the sequences of q and k must divide those of v";
    return strides_fit(x) ? NULL : "q and k must have contiguous rows and strides that are multiples of 4";
}

const char* flashqla_ggml_refusal(const flashqla_ggml_op* op) {
    const flashqla_ggml_tensor* out = &op->out;
    const int64_t dim = dim_of(op), heads = heads_of(op), tokens = tokens_of(op), sequences = sequences_of(op);
    const char* why;
    if (dim < 1 || dim > MOST_DIM) return "the head dim must be 1 to 256";
    if (heads < 1 || sequences < 1 || tokens < 0) return "v must have heads and sequences";
    if (heads > INT32_MAX || sequences > INT32_MAX) return "v has too many heads or sequences";
    if (op->snapshots < 1 || op->snapshots > INT32_MAX) return "snapshots must be 1 to 2^31 - 1";
    if ((why = refuses_keys(op, &op->q)) || (why = refuses_keys(op, &op->k))) return why;
    if (!strides_fit(&op->v)) return "v must have contiguous rows and strides that are multiples of 4";
    if (dim > 1 && op->g.ne[0] == dim) return "a gate per key channel (KDA) is not supported, one gate per head is";
    if (!has_shape(&op->g, 1, heads, tokens, sequences) || !has_shape(&op->beta, 1, heads, tokens, sequences)) return "g and beta must be [1, H, T, N]";
    if (!strides_fit(&op->g) || !strides_fit(&op->beta)) return "g and beta must have strides that are multiples of 4";
    if (!has_shape(&op->state, dim, dim, heads, sequences)) return "the state must be [S, S, H, N]";
    if (!strides_fit(&op->state) || (dim > 1 && op->state.nb[1] != (size_t)dim * ELEMENT) || (heads > 1 && op->state.nb[2] != (size_t)(dim * dim) * ELEMENT) ||
        (sequences > 1 && op->state.nb[3] < (size_t)state_size(op) * ELEMENT))
        return "the state must be contiguous within a sequence";
    if (!has_shape(out, dim * heads, sequences * (tokens + op->snapshots * dim), 1, 1)) return "the output must be [S*H, T*N + snapshots*S*N]";
    if (out->nb[0] != ELEMENT || out->nb[1] != (size_t)(dim * heads) * ELEMENT) return "the output must be contiguous";
    return NULL;
}

/* ---------------------------------------------------------------- blocks */

/* Whether sequence n of v meets sequence n or always sequence 0 of x: then a stride says it. */
static int sequences_by_stride(const flashqla_ggml_op* op, const flashqla_ggml_tensor* x) { return x->ne[3] == 1 || x->ne[3] == sequences_of(op); }

/* The block that begins at pair `at` (sequence by sequence, heads within) and ends before pair `end`. */
static Block block_at(const flashqla_ggml_op* op, int64_t at, int64_t end) {
    const int64_t heads = heads_of(op), query_heads = op->q.ne[1], key_heads = op->k.ne[1];
    Block b;
    b.sequence = at / heads;
    b.sequences = 1;
    b.head = at % heads;
    b.heads = smaller(end - at, heads - b.head);
    if (query_heads == key_heads && b.head % key_heads == 0 && b.heads >= key_heads) { /* whole tiles */
        b.heads -= b.heads % key_heads;
        b.key_heads = key_heads;
        if (b.heads == heads && sequences_by_stride(op, &op->q) && sequences_by_stride(op, &op->k)) b.sequences = (end - at) / heads;
    } else { /* one to one, up to where a tile ends */
        b.heads = smaller(b.heads, query_heads - b.head % query_heads);
        b.heads = smaller(b.heads, key_heads - b.head % key_heads);
        b.key_heads = b.heads;
    }
    return b;
}

/* Tokens from `token` on of the block's heads of x. */
static flashqla_tensor view(const flashqla_ggml_op* op, const flashqla_ggml_tensor* x, const Block* b, int64_t token) {
    const int64_t sequence = b->sequence / (sequences_of(op) / x->ne[3]), head = b->head % x->ne[1];
    flashqla_tensor t = {0};
    if (x->data) t.data = (char*)x->data + sequence * (int64_t)x->nb[3] + token * (int64_t)x->nb[2] + head * (int64_t)x->nb[1];
    t.dtype = FLASHQLA_DTYPE_F32;
    t.stride_row = x->ne[3] > 1 ? (int64_t)x->nb[3] / ELEMENT : 0;
    t.stride_token = x->ne[2] > 1 ? (int64_t)x->nb[2] / ELEMENT : 0;
    t.stride_head = x->ne[1] > 1 ? (int64_t)x->nb[1] / ELEMENT : dim_of(op); /* never all three 0, which would mean packed */
    return t;
}

typedef struct {
    flashqla_problem problem;
    flashqla_sequences sequences;
    flashqla_state state;
    flashqla_forward_args args;
} Call;

static float* at(const flashqla_ggml_tensor* x, int64_t element) { return x->data ? (float*)x->data + element : NULL; }

/* `count` tokens of a block from `token` on; the states before and after them are snapshots `from` and `to`, or the op's own state. */
static int32_t prepare(Call* c, const flashqla_ggml_op* op, const Block* b, int64_t token, int64_t count, int64_t from, int64_t to) {
    const int64_t dim = dim_of(op), heads = heads_of(op), tokens = tokens_of(op), sequences = sequences_of(op);
    const int64_t outputs = dim * heads * tokens * sequences, snapshot = state_size(op) * sequences;
    const int64_t block_state = b->sequence * state_size(op) + b->head * dim * dim;
    flashqla_tensor out = {0};
    int32_t status;
    if ((status = flashqla_problem_init(&c->problem, sizeof c->problem, FLASHQLA_FORM_PLAIN))) return status;
    c->problem.key_heads = (int32_t)b->key_heads;
    c->problem.value_heads = (int32_t)b->heads;
    c->problem.key_dim = c->problem.value_dim = (int32_t)dim;
    c->problem.dtype = c->problem.state_dtype = FLASHQLA_DTYPE_F32;
    c->problem.head_map = FLASHQLA_HEADS_TILED;
    c->problem.state_layout = FLASHQLA_STATE_VK;
    c->problem.flags = op->flags;

    if ((status = flashqla_sequences_init(&c->sequences, sizeof c->sequences))) return status;
    c->sequences.rows = (int32_t)b->sequences;
    c->sequences.tokens = b->sequences * count;

    if ((status = flashqla_state_init(&c->state, sizeof c->state))) return status;
    if (from < 0) {
        c->state.read_data = at(&op->state, b->sequence * ((int64_t)op->state.nb[3] / ELEMENT) + b->head * dim * dim);
        c->state.read_slot_stride = sequences > 1 ? (int64_t)op->state.nb[3] / ELEMENT : state_size(op);
    } else {
        c->state.read_data = at(&op->out, outputs + from * snapshot + block_state);
        c->state.read_slot_stride = state_size(op);
    }
    c->state.write_data = at(&op->out, outputs + to * snapshot + block_state);
    c->state.write_slot_stride = state_size(op);

    if ((status = flashqla_forward_args_init(&c->args, sizeof c->args))) return status;
    c->args.q = view(op, &op->q, b, token);
    c->args.k = view(op, &op->k, b, token);
    c->args.v = view(op, &op->v, b, token);
    c->args.gate = view(op, &op->g, b, token);
    c->args.beta = view(op, &op->beta, b, token);
    out.data = at(&op->out, ((b->sequence * tokens + token) * heads + b->head) * dim);
    out.dtype = FLASHQLA_DTYPE_F32;
    out.stride_row = (tokens ? tokens : 1) * heads * dim; /* an output's stride must not be 0, even where it is never stepped */
    out.stride_token = heads * dim;
    out.stride_head = dim;
    c->args.out = out;
    return FLASHQLA_STATUS_OK;
}

/* Calls each(context, call) for what a part consists of, in an order in which each call finds the states that it starts from. All
 * snapshots but the oldest are the states after single tokens: a call for each needs no table of slots, which on a GPU would have to lie
 * in device memory. */
static int32_t each_call(const flashqla_ggml_op* op, int32_t part, int32_t parts, int32_t (*each)(void*, const Call*), void* context) {
    const int64_t pairs = heads_of(op) * sequences_of(op), tokens = tokens_of(op);
    const int64_t end = pairs / parts * (part + 1) + pairs % parts * (part + 1) / parts;
    const int64_t oldest = smaller(op->snapshots, tokens) - 1; /* -1: no tokens */
    int64_t pair = pairs / parts * part + pairs % parts * part / parts, s;
    Call call;
    int32_t status;
    while (pair < end) {
        const Block b = block_at(op, pair, end);
        if (tokens == 0 && op->snapshots > 1) return FLASHQLA_STATUS_OK;
        if ((status = prepare(&call, op, &b, 0, tokens ? tokens - oldest : 0, -1, tokens ? oldest : 0)) || (status = each(context, &call))) return status;
        for (s = oldest - 1; s >= 0; s--)
            if ((status = prepare(&call, op, &b, tokens - 1 - s, 1, s + 1, s)) || (status = each(context, &call))) return status;
        pair += b.heads * b.sequences;
    }
    return FLASHQLA_STATUS_OK;
}

/* ---------------------------------------------------------------- the two things to do with a call */

typedef struct {
    const flashqla_handle* handle;
    flashqla_query_info* info; /* of all calls so far */
    void* workspace;
    uint64_t workspace_bytes;
    void* stream;
} Context;

static int32_t query(void* user, const Call* call) {
    Context* c = (Context*)user;
    flashqla_query_info one = *c->info;
    const int32_t status = flashqla_query(c->handle, &call->problem, &call->sequences, &call->state, FLASHQLA_OP_FORWARD, &one);
    if (status) return status;
    one.launches += c->info->launches;
    if (one.workspace_bytes < c->info->workspace_bytes) one.workspace_bytes = c->info->workspace_bytes;
    *c->info = one;
    return one.status;
}

static int32_t forward(void* user, const Call* call) {
    const Context* c = (const Context*)user;
    return flashqla_forward(c->handle, &call->problem, &call->sequences, &call->state, &call->args, c->workspace, c->workspace_bytes, c->stream);
}

int32_t flashqla_ggml_query(const flashqla_handle* handle, const flashqla_ggml_op* op, int32_t parts, flashqla_query_info* info) {
    Context context = {0};
    int32_t part, status = FLASHQLA_STATUS_OK;
    context.handle = handle;
    context.info = info;
    if (parts < 1 || flashqla_ggml_refusal(op)) return FLASHQLA_STATUS_UNSUPPORTED;
    info->launches = 0;
    info->workspace_bytes = 0;
    for (part = 0; part < parts && !status; part++) status = each_call(op, part, parts, query, &context);
    return status;
}

int32_t flashqla_ggml_forward(const flashqla_handle* handle, const flashqla_ggml_op* op, int32_t part, int32_t parts, void* workspace, uint64_t workspace_bytes,
                              void* stream) {
    Context context = {0};
    context.handle = handle;
    context.workspace = workspace;
    context.workspace_bytes = workspace_bytes;
    context.stream = stream;
    if (part < 0 || part >= parts || flashqla_ggml_refusal(op)) return FLASHQLA_STATUS_UNSUPPORTED;
    return each_call(op, part, parts, forward, &context);
}
