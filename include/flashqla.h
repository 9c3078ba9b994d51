/* flashqla.h: Gated DeltaNet (GDN) behind a C ABI.
 *
 * GDN is the linear attention of Qwen3-Next and Qwen3.5. Per row (sequence) and value head h it keeps a state S of K x V numbers
 * and does, for each token t of the row, in order:
 *
 *     S'  = exp(g_t) S                            decay;    g_t <= 0 is the log gate
 *     u_t = beta_t (v_t - S'^T k_t)               delta rule; beta_t in [0, beta_scale]
 *     S   = S' + k_t u_t^T
 *     o_t = scale S^T q_t
 *
 * (Yang, Kautz, Hatamizadeh: "Gated Delta Networks", 2024.) One call, flashqla_forward, serves prefill, decode, speculative verify
 * and mixed batches; flashqla_backward gives every gradient. Both run on a CUDA device through kernels that travel inside this
 * library, or on the CPU, by the same calls.
 *
 * FIVE CONCEPTS
 *   handle      a device and its kernels                      flashqla_create
 *   problem     what is computed: sizes, dtypes, forms        flashqla_problem
 *   sequences   how tokens are cut into rows                  flashqla_sequences
 *   state       where states are read and written             flashqla_state
 *   tensor      a pointer with dtype and strides              flashqla_tensor
 * and two operations (forward, backward) and one query (flashqla_query).
 *
 * SYMBOLS USED BELOW   N rows, T tokens, HK key heads, HV value heads, K key dim, V value dim. Sizes and strides are in elements
 *   unless the name ends in `_bytes`. Shapes are row-major, the last index fastest.
 *
 * MEMORY    The library allocates no device memory, creates no context and no stream. Every pointer in a struct is borrowed until
 *   the work enqueued by the call has completed (CPU: until the call returns). On a CUDA handle tensors, states, slot tables,
 *   offsets, workspace and saved are device memory of the handle's device; on a CPU handle the same fields are host memory.
 *   Structs themselves are host memory and may go as soon as the call returns.
 * STREAM    `stream` is a CUstream (cudaStream_t) of the current context, NULL for the default stream, or the per-thread default.
 *   On a CPU handle it must be NULL, and the call returns when the result is there. On CUDA a call only enqueues: it never waits for
 *   the device, reads no device memory on the host and allocates nothing, so it can be captured into a graph (after
 *   flashqla_warmup). A captured call may be replayed with other contents of every device array, offsets and slots included.
 * THREADS   A handle may be used from any number of threads at once; calls that overlap in time need their own workspace and their
 *   own outputs. A CPU handle runs one call at a time on its pool, others wait their turn.
 * ERRORS    Functions return a FLASHQLA_STATUS_*; flashqla_last_error then tells the field, its value and the rule. When the status
 *   is not OK, nothing was launched and nothing was written, but for CUDA_ERROR, which may come after a part was enqueued.
 *   Contents of device arrays cannot be checked on the host: offsets are clamped into [0, tokens] and a row that would end before it
 *   begins is empty (where offsets decrease, results of the whole call are undefined, within its outputs), and slots outside the pool
 *   are skipped. No content of any array makes the library touch memory outside what was described.
 * NUMBERS   Same call, same device, same library: same bits. There is no other mode. CPU results do not depend on the number of
 *   threads. NaN and infinity stay within their row and head.
 * GROWTH    Each struct but flashqla_tensor begins with struct_size, set by its _init function (or to sizeof by hand). A larger struct
 *   from a newer header is accepted if what this library does not know is zero (else UNSUPPORTED). Zero in any field is its
 *   documented default. Symbols are only ever added.
 * OTHER     fork: handles belong to the parent. dlclose: the library stays loaded. Environment variables: none are read.
 *   MIG, MPS, green contexts: the multiprocessor count is that of the context current at flashqla_create; no kernel needs more.
 *
 * C89 with <stdint.h>. No enum, bitfield, union or variadic in any signature or struct.
 */
#ifndef FLASHQLA_H
#define FLASHQLA_H

#include <stddef.h>
#include <stdint.h>

#define FLASHQLA_VERSION_MAJOR 0
#define FLASHQLA_VERSION_MINOR 1
#define FLASHQLA_VERSION_PATCH 0
/* major * 10000 + minor * 100 + patch of this header; flashqla_version() is that of the library. */
#define FLASHQLA_VERSION 100

#if defined(FLASHQLA_STATIC)
#define FLASHQLA_API
#elif defined(_WIN32)
#if defined(FLASHQLA_BUILD)
#define FLASHQLA_API __declspec(dllexport)
#else
#define FLASHQLA_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define FLASHQLA_API __attribute__((visibility("default")))
#else
#define FLASHQLA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ============================================================================ codes ==============================================
 * All codes are passed and stored as int32_t; the enums only name the values. An unknown code is INVALID_ARGUMENT. */

/* What a function returns. */
enum {
    FLASHQLA_STATUS_OK = 0,
    FLASHQLA_STATUS_INVALID_ARGUMENT = 1,    /* a field breaks its rule; the message names field, value and rule */
    FLASHQLA_STATUS_UNSUPPORTED = 2,         /* well formed, but this device or this version does not do it; the message says what does */
    FLASHQLA_STATUS_WORKSPACE_TOO_SMALL = 3, /* the message has the bytes needed */
    FLASHQLA_STATUS_NO_DRIVER = 4,           /* no CUDA driver library, or no device in it */
    FLASHQLA_STATUS_DRIVER_TOO_OLD = 5,      /* older than the toolkit that built the kernels (r580 for CUDA 13.0) */
    FLASHQLA_STATUS_NO_IMAGE = 6,            /* the library was built without kernels for this device */
    FLASHQLA_STATUS_NO_CONTEXT = 7,          /* no CUDA context is current on the calling thread */
    FLASHQLA_STATUS_WRONG_DEVICE = 8,        /* the current context is of another device than the handle */
    FLASHQLA_STATUS_NOT_WARM = 9,            /* the stream is being captured and the kernels are not loaded: call flashqla_warmup first */
    FLASHQLA_STATUS_OUT_OF_MEMORY = 10,      /* host memory or threads (create), or the driver's own memory */
    FLASHQLA_STATUS_CUDA_ERROR = 11,         /* a driver call failed; the message has its name and CUDA's own text */
    FLASHQLA_STATUS_INTERNAL = 12            /* a bug of this library: please report it */
};

/* Element types. 0 (DEFAULT) is told where a dtype is asked for. */
enum {
    FLASHQLA_DTYPE_DEFAULT = 0,
    FLASHQLA_DTYPE_F32 = 1,
    FLASHQLA_DTYPE_BF16 = 2,
    FLASHQLA_DTYPE_F16 = 3,
    FLASHQLA_DTYPE_F64 = 4, /* CPU handles only: the whole computation in double, token by token. The truth that tests compare with */
    FLASHQLA_DTYPE_I32 = 5, /* offsets */
    FLASHQLA_DTYPE_I64 = 6  /* offsets */
};

/* flashqla_config.device: a CUDA ordinal from 0 on, or one of these. */
enum {
    FLASHQLA_DEVICE_CPU = -1,
    FLASHQLA_DEVICE_BEST = -2 /* the current context's device, else CUDA ordinal 0, else the CPU */
};

/* Which key head a value head h reads (HV is a multiple of HK). */
enum {
    FLASHQLA_HEADS_GROUPED = 0, /* h / (HV / HK): transformers, vLLM, SGLang, FLA */
    FLASHQLA_HEADS_TILED = 1    /* h % HK: every GGUF file, ggml and llama.cpp */
};

/* What flashqla_forward_args.gate holds. */
enum {
    FLASHQLA_GATE_LOG = 0,    /* g_t, natural logarithm, <= 0 */
    FLASHQLA_GATE_LINEAR = 1, /* alpha_t = exp(g_t) in [0, 1]; 0 is allowed */
    FLASHQLA_GATE_RAW = 2,    /* a_t; g_t = -exp(A_log[h]) softplus(a_t + dt_bias[h]), as the model makes it */
    FLASHQLA_GATE_LOG_PER_KEY = 3 /* one gate per key channel (Kimi Delta Attention): named so that it can be refused. UNSUPPORTED */
};

/* What flashqla_forward_args.beta holds. */
enum {
    FLASHQLA_BETA_VALUE = 0, /* beta_t = beta_scale x */
    FLASHQLA_BETA_LOGIT = 1  /* beta_t = beta_scale sigmoid(x) */
};

/* What is done to q and k of each token and key head first. */
enum {
    FLASHQLA_NORM_NONE = 0,
    FLASHQLA_NORM_L2 = 1 /* x / sqrt(sum x^2 + eps), eps inside the root: a zero row gives zero and finite gradients */
};

/* Layout of each head's state in a slot. */
enum {
    FLASHQLA_STATE_KV = 0, /* [K, V], V contiguous: FLA, transformers */
    FLASHQLA_STATE_VK = 1  /* [V, K], K contiguous: vLLM, SGLang, FlashInfer, ggml */
};

/* Values of slots. Any other value outside [0, slots) is taken as PAD. */
enum {
    FLASHQLA_SLOT_PAD = -1, /* the row is skipped: its outputs and gradients are zeros, nothing is stored */
    FLASHQLA_SLOT_NONE = -2 /* read: the row starts from zero. write: its final state is not stored */
};

/* Ways to compute. AUTO picks by host-known bounds alone; where most rows must be short beside a few long ones (prefill beside decode) it
 * takes the recurrent kernel for rows of up to 16 tokens, and chunk kernels for longer ones. Engines other than AUTO are for tests and for
 * bit parity between calls, and are refused (UNSUPPORTED, with the reason) where they cannot serve the call. */
enum {
    FLASHQLA_ENGINE_AUTO = 0,
    FLASHQLA_ENGINE_RECURRENT = 1,       /* token by token, state in registers (CPU: in L1). Every device, K and V from 1 to 256 */
    FLASHQLA_ENGINE_CHUNKED = 2,         /* tensor cores, two kernels: a solve over all chunks, then the recurrence over chunks */
    FLASHQLA_ENGINE_FUSED = 3,           /* tensor cores, one kernel */
    FLASHQLA_ENGINE_CONTEXT_PARALLEL = 4 /* tensor cores, long rows cut into segments that run side by side; with bounded keys where the
                                          * gates of all rows say, so that a row's last bits may depend on other rows' gates */
};

/* Operations, where one is asked for. */
enum {
    FLASHQLA_OP_FORWARD = 0,
    FLASHQLA_OP_BACKWARD = 1
};

/* Starting points of flashqla_problem_init. */
enum {
    FLASHQLA_FORM_PLAIN = 0, /* all zero: log gate, beta as a value, no norm, grouped heads, KV state, f32 state */
    FLASHQLA_FORM_QWEN = 1   /* raw gate, beta as a logit, L2 norm, grouped heads, VK state, bf16 tensors, f32 state */
};

/* Log levels. */
enum {
    FLASHQLA_LOG_ERROR = 0, /* a call returned CUDA_ERROR or INTERNAL: the text of flashqla_last_error */
    FLASHQLA_LOG_INFO = 1   /* BEST took the CPU, and why */
};

/* flashqla_problem.flags */
/* The caller promises beta_t |k_t|^2 <= 2 for every token, and that no beta_t |k_t| |k_s| of two tokens reaches 2^15, although the library
 * does not normalise k (qk_norm NONE; with L2 and beta_scale <= 2 it is taken to hold): lets tensor-core engines merge the triangular
 * inverse in half precision, as the fastest ones do. A broken promise may give infinities within the row; never a wrong
 * address. */
#define FLASHQLA_PROBLEM_KEYS_BOUNDED 1
/* Forward, context parallelism, bounded keys: a segment may drop its past once the gates have decayed it below exp(-10) (by default exp(-40),
 * which is below rounding). Which heads forget so fast is found on the device; the segments of others are carried exactly. Ignored
 * elsewhere. */
#define FLASHQLA_PROBLEM_APPROXIMATE_WARMUP 2
/* A row's results do not depend on the other rows of the call: one engine serves every row, and rows are cut at fixed places. */
#define FLASHQLA_PROBLEM_BATCH_INVARIANT 4
/* f32 q, k, v may be rounded to 16 bits for tensor cores. Without it f32 tensors are computed in f32; this version does so
 * with it, too. */
#define FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS 8

/* flashqla_state.flags */
/* Do not store final states (verify: the caller keeps per-token states and decides later). A write slot of PAD still skips its row. */
#define FLASHQLA_STATE_NO_FINAL 1

/* ============================================================================ structs ============================================ */

/* A handle: a device, what it can do, and (on the CPU) a thread pool. Immutable after flashqla_create. */
typedef struct flashqla_handle flashqla_handle;

/* Called for messages of the library: `level` FLASHQLA_LOG_*, `message` one line, valid during the call. May be called from any
 * thread that uses the handle; must not call into this library. */
typedef void (*flashqla_log_fn)(void *user, int32_t level, const char *message);

/* How to make a handle. */
typedef struct flashqla_config {
    uint32_t struct_size;
    int32_t device;      /* FLASHQLA_DEVICE_CPU, _BEST or a CUDA ordinal (0, 1, ...). flashqla_config_init sets BEST */
    int32_t threads;     /* CPU: threads that work on one call, the caller's among them; 0 = all this process may run on; 1 to 1024 */
    int32_t reserved;    /* 0 */
    uint64_t flags;      /* 0 */
    flashqla_log_fn log; /* NULL: silent */
    void *log_user;      /* handed to `log` */
} flashqla_config;

/* A tensor: where it is and how to walk it. Frozen: this struct never changes.
 *
 * Element (row n, token t, head h, i) of a tensor [tokens, heads, dim] lies at
 *     data + n*stride_row + t*stride_token + h*stride_head + i
 * with t counted from the row's start when sequences.offsets is NULL, and
 *     data + (offsets[n] + t)*stride_token + h*stride_head + i                         (stride_row is not used)
 * when it is given. The last dimension is contiguous. All three strides zero: packed. Otherwise they are taken as they stand, so a
 * stride of zero repeats (inputs only), and views of a packed projection row need no copy. Negative strides are refused.
 * `data` already holds any offset; it is aligned to its element. Tensor-core engines want q, k, v, out and their strides at multiples
 * of 16 bytes; else the recurrent engine takes the call, and flashqla_explain says so. */
typedef struct flashqla_tensor {
    void *data;
    int32_t dtype; /* FLASHQLA_DTYPE_*; 0 is the default told at the field */
    int32_t reserved0;
    int64_t stride_row;
    int64_t stride_token;
    int64_t stride_head;
    int64_t reserved[2]; /* 0 */
} flashqla_tensor;

/* What is computed. Zero is the plain mathematical form. */
typedef struct flashqla_problem {
    uint32_t struct_size;
    int32_t key_heads;    /* HK >= 1: heads of q and k */
    int32_t value_heads;  /* HV >= 1: heads of v, out, gate, beta and states; a multiple of HK */
    int32_t key_dim;      /* K, 1 to 256 */
    int32_t value_dim;    /* V, 1 to 256 */
    int32_t dtype;        /* of q, k, v, out, and in the backward of d_out, dq, dk, dv. 0 = BF16. F64: CPU handles */
    int32_t state_dtype;  /* of states in memory: F32 or BF16 (F64 when dtype is F64). 0 = F32 (F64). Arithmetic on states is f32 (f64) */
    int32_t head_map;     /* FLASHQLA_HEADS_* */
    int32_t gate;         /* FLASHQLA_GATE_* */
    int32_t beta;         /* FLASHQLA_BETA_* */
    int32_t qk_norm;      /* FLASHQLA_NORM_* */
    int32_t state_layout; /* FLASHQLA_STATE_* */
    int32_t engine;       /* FLASHQLA_ENGINE_* */
    int32_t reserved;     /* 0 */
    double beta_scale;    /* 0 = 1. 2 allows negative eigenvalues. Finite, > 0 */
    double scale;         /* of the output; 0 = 1 / sqrt(K). Finite */
    double eps;           /* of the L2 norm; 0 = 1e-6. Finite, > 0 */
    uint64_t flags;       /* FLASHQLA_PROBLEM_* */
} flashqla_problem;

/* How tokens form rows. Host-known bounds size the grid and the workspace; the offsets themselves stay on the device. */
typedef struct flashqla_sequences {
    uint32_t struct_size;
    int32_t rows;          /* N >= 0. 0: the call does nothing and returns OK */
    int64_t tokens;        /* tokens in all, >= 0: the extent of q, k, v, gate, beta and out along tokens */
    int64_t max_tokens;    /* no row is longer (a longer one is cut here). 0 = tokens / rows without offsets, tokens with them. The longest row's
                              own length serves best: it tells how short the others must be */
    const void *offsets;   /* [N + 1], row n is tokens offsets[n] to offsets[n+1] - 1. NULL: N rows of tokens / N each (must divide) */
    int32_t offsets_dtype; /* FLASHQLA_DTYPE_I32 or _I64; 0 = I32 */
    int32_t reserved;      /* 0 */
} flashqla_sequences;

/* Where states are read and written. A pool is [slots] of [HV, K, V] or [HV, V, K] (problem.state_layout), heads packed.
 *
 * Row n starts from pool slot read_slots[n] and its state after the last token goes to write_slots[n]. Both pools may be the same
 * memory (then with equal stride and slot count), and a row may read and write one slot (in place). Two rows that write one slot, or
 * one that writes what another reads, leave that slot's contents undefined. Empty rows: the state is copied from read to write.
 *
 * Slot tables are int32 in device memory (host memory on a CPU handle). */
typedef struct flashqla_state {
    uint32_t struct_size;
    int32_t reserved;
    uint64_t flags;             /* FLASHQLA_STATE_* */
    const void *read_data;      /* NULL: every row starts from zero */
    int64_t read_slots_count;   /* slots in the pool; 0 = N */
    int64_t read_slot_stride;   /* elements from slot to slot; 0 = packed, HV*K*V; else at least that */
    const int32_t *read_slots;  /* [N] slots or FLASHQLA_SLOT_*; NULL: row n reads slot n. Needs read_data */
    void *write_data;           /* NULL: no state is stored */
    int64_t write_slots_count;  /* as for reading */
    int64_t write_slot_stride;  /* as for reading */
    const int32_t *write_slots; /* [N]; NULL: row n writes slot n. May be the same array as read_slots. Needs write_data */
    /* Checkpoints (prefix caches). Entry [n, j] names the write-pool slot for row n's state after its first (j+1)*checkpoint_interval
     * tokens. Values outside the pool store nothing; nor do entries behind the row's end. */
    int64_t checkpoint_interval;     /* a multiple of 64; 0: no checkpoints */
    const int32_t *checkpoint_slots; /* [N, checkpoint_width] */
    int64_t checkpoint_width;        /* entries a row */
    /* Per-token states (speculative verify). Entry [n, t] names the write-pool slot for row n's state after token t (t = 0 is the row's
     * first). Values outside the pool store nothing; tokens from token_width on are not stored. */
    const int32_t *token_slots; /* [N, token_width]; NULL: none */
    int64_t token_width;        /* entries a row */
    /* Rollback. accepted[n] = a >= 1: row n starts from slot token_slots[n, a-1], which an earlier call stored; a = 0: from
     * read_slots[n]; a < 0 or > token_width: as PAD. The start is read before anything is stored, so the same table serves both.
     * Needs token_slots and one pool for reading and writing. NULL: not used */
    const int32_t *accepted; /* [N] */
} flashqla_state;

/* Tensors of a forward call. */
typedef struct flashqla_forward_args {
    uint32_t struct_size;
    int32_t reserved;
    flashqla_tensor q;       /* [tokens, HK, K], problem.dtype */
    flashqla_tensor k;       /* [tokens, HK, K], problem.dtype */
    flashqla_tensor v;       /* [tokens, HV, V], problem.dtype */
    flashqla_tensor gate;    /* [tokens, HV]: g, alpha or a by problem.gate. F32 (default), BF16, F16, or F64 where dtype is F64.
                                stride_head is from head to head (1 when packed), stride_token from token to token */
    flashqla_tensor beta;    /* [tokens, HV]; dtypes and strides as gate */
    flashqla_tensor A_log;   /* [HV], raw gate only (else NULL); dtypes as gate; stride_head only. GGUF files hold -exp(A_log): take log(-x) */
    flashqla_tensor dt_bias; /* [HV], raw gate only (else NULL); as A_log */
    flashqla_tensor out;     /* [tokens, HV, V], problem.dtype. Tokens outside every row are left as they are */
    void *saved;             /* for a later backward: NULL (it will recompute), or saved_bytes of device memory (flashqla_query), 256-byte
                                aligned, overwritten; not looked at where the query tells 0. A call that could not fill it (views off 16
                                bytes) is UNSUPPORTED */
    uint64_t saved_bytes;    /* at least the query's */
} flashqla_forward_args;

/* Tensors of a backward call. Inputs are those of the forward call; gradients whose data is NULL are not computed.
 * flashqla_state gives the initial states (its read side and `accepted`); its write side is not used. Gradients of rows that are PAD are
 * zeros. */
typedef struct flashqla_backward_args {
    uint32_t struct_size;
    int32_t reserved;
    flashqla_tensor q, k, v;       /* as in the forward */
    flashqla_tensor gate, beta;    /* as in the forward */
    flashqla_tensor A_log;         /* as in the forward */
    flashqla_tensor dt_bias;       /* as in the forward */
    flashqla_tensor d_out;         /* [tokens, HV, V], problem.dtype: dL/dout */
    flashqla_tensor d_final;       /* dL/d(final state), by row n, never by slot: [N, HV, K, V] or [N, HV, V, K] like the states.
                                      F32 (default) or BF16, F64 where dtype is F64. stride_row and stride_head count; stride_token must
                                      be 0. NULL: zero */
    flashqla_tensor dq, dk;        /* [tokens, HK, K], problem.dtype; sums over the value heads of each key head; through the L2 norm */
    flashqla_tensor dv;            /* [tokens, HV, V], problem.dtype */
    flashqla_tensor d_gate;        /* [tokens, HV], dL/dg, dL/dalpha or dL/da by problem.gate; dtypes as gate */
    flashqla_tensor d_beta;        /* [tokens, HV], dL/d(what beta holds); dtypes as gate */
    flashqla_tensor dA_log;        /* [HV], raw gate only; overwritten with the sum over all tokens of all rows; dtypes as gate */
    flashqla_tensor ddt_bias;      /* [HV], raw gate only; as dA_log */
    flashqla_tensor d_initial;     /* dL/d(initial state), by row, as d_final. Rows that start from zero: zeros */
    const void *saved;             /* what the forward call of the same problem (engine included), sequences, read slots and inputs saved, by
                                      this version of the library, unchanged since; NULL: recomputed. Only read: it serves any number of backward calls */
    uint64_t saved_bytes;
} flashqla_backward_args;

/* What flashqla_query answers. Set struct_size = sizeof before the call; the rest is written. */
typedef struct flashqla_query_info {
    uint32_t struct_size;
    int32_t status;           /* what a call would return for reasons known now: OK or UNSUPPORTED */
    int32_t engine;           /* FLASHQLA_ENGINE_* that serves an aligned call of these bounds; its longer rows, where they have their own */
    int32_t launches;         /* kernels that such a call enqueues; CPU: 0 */
    uint64_t workspace_bytes; /* the most that any call within these bounds takes: of this problem, with no more rows, tokens or
                                 max_tokens, whatever its alignment and state options. Align it to 256 bytes; needs no initialisation;
                                 contents are undefined afterwards */
    uint64_t saved_bytes;     /* size of `saved` for these bounds, the same for both ops and all states; 0: nothing worth saving, pass NULL.
                                 Where it is not 0, about 65 KiB for each 64 tokens of a row and value head. Engine, launches and
                                 reason are those of a call without `saved` */
    const char *engine_name;  /* "recurrent sm_90a", "cpu avx512", ...; valid for ever */
    const char *reason;       /* why this engine, or why not at all; valid until the thread's next call */
} flashqla_query_info;

/* What flashqla_device_info answers. Set struct_size = sizeof before the call; the rest is written. */
typedef struct flashqla_device {
    uint32_t struct_size;
    int32_t device;                  /* FLASHQLA_DEVICE_CPU or the CUDA ordinal */
    int32_t compute_major;           /* compute capability; CPU: 0 */
    int32_t compute_minor;
    int32_t multiprocessors;         /* CPU: 0 */
    int32_t threads;                 /* CPU: threads of the pool; CUDA: 0 */
    uint64_t shared_memory_bytes;    /* most that one block may have; CPU: 0 */
    uint64_t l2_bytes;               /* CPU: 0 */
    char name[64];                   /* "NVIDIA H100 80GB HBM3", "CPU" */
    char image[32];                  /* kernels in use: "sm_90a", "compute_80 (PTX)", or the CPU's "avx512" */
} flashqla_device;

/* ============================================================================ the library ======================================== */

/* FLASHQLA_VERSION of the library. Works without a driver, as do all functions of this section. */
FLASHQLA_API int32_t flashqla_version(void);

/* One line: version, images inside, toolkit, compiler. Valid for ever. */
FLASHQLA_API const char *flashqla_build_info(void);

/* "INVALID_ARGUMENT" for FLASHQLA_STATUS_INVALID_ARGUMENT and so on; "unknown status" for others. Valid for ever. */
FLASHQLA_API const char *flashqla_status_name(int32_t status);

/* What went wrong in this thread's last call that did not return OK; "" before any. Valid until the thread's next call of a function
 * that returns a status. Never NULL. */
FLASHQLA_API const char *flashqla_last_error(void);

/* Copies that text into buffer (capacity bytes, always ended by a zero when capacity > 0; cut if it does not fit) and returns the
 * bytes that all of it needs, the ending zero included. For runtimes whose tasks move between threads: call it on the thread of
 * the failed call. buffer may be NULL when capacity is 0. */
FLASHQLA_API size_t flashqla_last_error_copy(char *buffer, size_t capacity);

/* ---- initialisers: write defaults into *p and set struct_size. `size` is sizeof *p as the caller compiled it.
 * INVALID_ARGUMENT: p NULL, size under version 1's, or an unknown form. A larger size is zeroed to its end. */
FLASHQLA_API int32_t flashqla_config_init(flashqla_config *p, size_t size);
FLASHQLA_API int32_t flashqla_problem_init(flashqla_problem *p, size_t size, int32_t form);
FLASHQLA_API int32_t flashqla_sequences_init(flashqla_sequences *p, size_t size);
FLASHQLA_API int32_t flashqla_state_init(flashqla_state *p, size_t size);
FLASHQLA_API int32_t flashqla_forward_args_init(flashqla_forward_args *p, size_t size);
FLASHQLA_API int32_t flashqla_backward_args_init(flashqla_backward_args *p, size_t size);

/* ---- handles */

/* Makes a handle in *out. config NULL: defaults (BEST). Opens the CUDA driver if a CUDA device is asked for or BEST looks for one;
 * creates no context. Several devices: a handle each. A handle serves its device from any context of it.
 * Errors: INVALID_ARGUMENT, NO_DRIVER, DRIVER_TOO_OLD, NO_IMAGE, OUT_OF_MEMORY, CUDA_ERROR; *out is then NULL. BEST falls back to the
 * CPU, and tells `log` why, instead of failing for want of a usable CUDA device. */
FLASHQLA_API int32_t flashqla_create(flashqla_handle **out, const flashqla_config *config);

/* Frees a handle. Legal once no thread is inside a call with it; work already enqueued goes on. NULL: nothing. */
FLASHQLA_API void flashqla_destroy(flashqla_handle *handle);

/* Tells what the handle runs on. */
FLASHQLA_API int32_t flashqla_device_info(const flashqla_handle *handle, flashqla_device *info);

/* ============================================================================ the operations =====================================
 * `state` may be NULL: rows start from zero and no state is stored. `workspace`: at least query's workspace_bytes, aligned to 256; may be
 * NULL when that is 0. flashqla_query and flashqla_explain look at no contents: any aligned address
 * stands for offsets that are not NULL. */

/* Tells, without touching a device, whether and how a call of these bounds would run and what memory it wants. Only the bounds count:
 * rows, tokens, max_tokens, and whether offsets, checkpoints, per-token states are there. workspace_bytes never falls when a bound
 * grows, so the answer for the largest call serves all. Returns OK also where info->status says UNSUPPORTED.
 * Errors: INVALID_ARGUMENT. */
FLASHQLA_API int32_t flashqla_query(const flashqla_handle *handle, const flashqla_problem *problem, const flashqla_sequences *sequences,
                                    const flashqla_state *state, int32_t op, flashqla_query_info *info);

/* Writes a plan as text, for people: engine, reason, each launch with its grid, workspace by name, and why each other engine was not
 * taken. Copies at most capacity bytes (zero-ended) into text; *needed (if not NULL) gets the bytes that all of it needs. text may be
 * NULL when capacity is 0. Errors: INVALID_ARGUMENT. */
FLASHQLA_API int32_t flashqla_explain(const flashqla_handle *handle, const flashqla_problem *problem, const flashqla_sequences *sequences,
                                      const flashqla_state *state, int32_t op, char *text, size_t capacity, size_t *needed);

/* Loads into the current context every kernel that calls of this problem and op may need. problem NULL: all kernels. The first call
 * would do it too, but a stream that is being captured cannot. CPU handle: nothing to do. The library remembers 64 contexts: a process
 * with more warms up again before it captures.
 * Errors: INVALID_ARGUMENT, UNSUPPORTED, NO_CONTEXT, WRONG_DEVICE, OUT_OF_MEMORY, CUDA_ERROR. */
FLASHQLA_API int32_t flashqla_warmup(const flashqla_handle *handle, const flashqla_problem *problem, int32_t op);

/* Forward: prefill, decode, verify, mixed batches. Writes out and the states; see the top of this file for the formula.
 * Inputs may overlap each other; out may overlap nothing, and the write pool nothing but the read pool when they are the same pool.
 * Rows may be of any length, 0 and 1 included. g > 0 is computed as it stands; -inf and alpha = 0 are gates of exp(-40) or less.
 * Errors: all of the statuses but NO_DRIVER, DRIVER_TOO_OLD and NO_IMAGE. */
FLASHQLA_API int32_t flashqla_forward(const flashqla_handle *handle, const flashqla_problem *problem, const flashqla_sequences *sequences,
                                      const flashqla_state *state, const flashqla_forward_args *args, void *workspace,
                                      uint64_t workspace_bytes, void *stream);

/* Backward: from dL/dout and dL/d(final state) to the gradients asked for. Recomputes what it needs from the forward's inputs
 * unless `saved` is given: 65 KiB for 64 tokens of a value head. It paid in every row timed on an H100 (2026-11-23): forward and backward
 * together took 2 to 20% less (16 / 32 heads, 8192 tokens: .680 ms instead of .824), so save where memory allows.
 * Outputs may overlap nothing. Errors: as flashqla_forward. */
FLASHQLA_API int32_t flashqla_backward(const flashqla_handle *handle, const flashqla_problem *problem, const flashqla_sequences *sequences,
                                       const flashqla_state *state, const flashqla_backward_args *args, void *workspace,
                                       uint64_t workspace_bytes, void *stream);

#ifdef __cplusplus
}
#endif
#endif /* FLASHQLA_H */
