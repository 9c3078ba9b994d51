// The extern "C" functions: check, plan, run.
#include "flashqla.h"

#include <cstdio>
#include <cstring>
#include <type_traits>

#include "build_info.h"
#include "cpu.h"
#include "decode.h"
#include "desc.h"
#include "device.h"
#include "explain.h"
#include "handle.h"
#include "plan.h"
#include "status.h"
#include "text.h"

using namespace fqla;

namespace {

constexpr int32_t kOk = FLASHQLA_STATUS_OK;

int32_t check_handle(const flashqla_handle* handle) { return handle ? kOk : fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "handle is NULL"); }

int32_t check_op(int32_t op) {
    if (op == FLASHQLA_OP_FORWARD || op == FLASHQLA_OP_BACKWARD) return kOk;
    return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "op = %d: must be FLASHQLA_OP_FORWARD (0) or _BACKWARD (1)", op);
}

// The parts that all operations and queries share.
struct Description {
    Problem problem;
    Rows rows;
    StateIo state;
};

int32_t describe(const flashqla_handle* handle, const flashqla_problem* problem, const flashqla_sequences* sequences, const flashqla_state* state,
                 Description& out) {
    if (const int32_t s = check_handle(handle)) return s;
    if (const int32_t s = read_problem(problem, !handle->caps.cuda, out.problem)) return s;
    if (const int32_t s = read_sequences(sequences, out.problem, out.rows)) return s;
    return read_state(state, out.problem, out.rows, out.state);
}

// For queries, where "not supported" is an answer and not a failure: OK then, with the reason.
int32_t describe_or_tell(const flashqla_handle* handle, const flashqla_problem* problem, const flashqla_sequences* sequences, const flashqla_state* state,
                         Description& out, const char*& unsupported) {
    KeptMessage kept;
    unsupported = nullptr;
    const int32_t status = describe(handle, problem, sequences, state, out);
    if (status == FLASHQLA_STATUS_UNSUPPORTED) {
        unsupported = note(last_message());
        return kOk;
    }
    if (status) kept.drop();
    return status;
}

Request request_of(const Description& d, int32_t op, bool aligned) { return {op, d.problem, bounds_of(d.rows), use_of(d.state), aligned}; }

// For queries, whose tensors are not there yet: as they should be.
Request request_of(const Description& d, int32_t op) {
    Request request = request_of(d, op, true);
    request.decode_reaches = op == FLASHQLA_OP_FORWARD && decode_reaches({d.problem.form, d.rows, d.state, {}, {}});
    return request;
}

int32_t check_saved(const Plan& plan, const Buffer& saved) {
    if (saved.bytes >= plan.saved.total_bytes()) return kOk;
    return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "args.saved_bytes = %llu: this call's are %llu (flashqla_query tells)",
                static_cast<unsigned long long>(saved.bytes), static_cast<unsigned long long>(plan.saved.total_bytes()));
}

int32_t check_workspace(const Plan& plan, const void* workspace, uint64_t bytes) {
    const uint64_t needed = plan.workspace.total_bytes();
    if (bytes < needed)
        return fail(FLASHQLA_STATUS_WORKSPACE_TOO_SMALL, "workspace_bytes = %llu: this call needs %llu (flashqla_query tells)",
                    static_cast<unsigned long long>(bytes), static_cast<unsigned long long>(needed));
    if (needed && !workspace)
        return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "workspace is NULL: this call needs %llu bytes", static_cast<unsigned long long>(needed));
    return kOk;
}

// Plans, checks what only the plan knows, and hands over to the backend. Call is Forward or Backward.
template <class Call>
int32_t run(const flashqla_handle* handle, const Request& asked, const Call& call, const Buffer& saved, void* workspace, uint64_t workspace_bytes,
            void* stream) {
    Request request = asked;
    request.saved = saved.data && saved_bytes(asked, handle->caps) > 0;
    const Plan plan = make_plan(request, handle->caps);
    if (plan.status) return fail(plan.status, "%s", plan.reason);
    if (const int32_t s = check_saved(plan, saved)) return s;
    if (const int32_t s = check_workspace(plan, workspace, workspace_bytes)) return s;
    if (stream && !handle->caps.cuda) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "stream = %p: must be NULL on a CPU handle", stream);
    if (call.rows.count == 0) return kOk;
    constexpr bool forward = std::is_same_v<Call, Forward>;
    if (handle->caps.cuda) {
        const Memory memory{workspace, saved.data};
        int32_t status = kOk;
        if constexpr (forward)
            status = cuda::launch_forward(handle->caps, plan, call, memory, stream);
        else
            status = cuda::launch_backward(handle->caps, plan, call, memory, stream);
        if (status == FLASHQLA_STATUS_CUDA_ERROR || status == FLASHQLA_STATUS_INTERNAL) handle->say(FLASHQLA_LOG_ERROR, last_message());
        return status;
    }
    if constexpr (forward)
        cpu::forward(*handle->pool, call, plan, workspace);
    else
        cpu::backward(*handle->pool, call, plan, workspace);
    return kOk;
}

}  // namespace

extern "C" {

int32_t flashqla_version(void) { return FLASHQLA_VERSION; }
const char* flashqla_build_info(void) { return build_info(); }
const char* flashqla_status_name(int32_t status) { return status_name(status); }
const char* flashqla_last_error(void) { return last_message(); }

size_t flashqla_last_error_copy(char* buffer, size_t capacity) {
    TextWriter text(buffer, buffer ? capacity : 0);
    text.print("%s", last_message());
    return text.needed();
}

int32_t flashqla_config_init(flashqla_config* p, size_t size) {
    if (const int32_t s = init_struct(p, size)) return s;
    p->device = FLASHQLA_DEVICE_BEST;
    return kOk;
}

int32_t flashqla_problem_init(flashqla_problem* p, size_t size, int32_t form) {
    if (form != FLASHQLA_FORM_PLAIN && form != FLASHQLA_FORM_QWEN)
        return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "form = %d: must be FLASHQLA_FORM_PLAIN (0) or _QWEN (1)", form);
    if (const int32_t s = init_struct(p, size)) return s;
    if (form == FLASHQLA_FORM_QWEN) {
        p->dtype = FLASHQLA_DTYPE_BF16;
        p->gate = FLASHQLA_GATE_RAW;
        p->beta = FLASHQLA_BETA_LOGIT;
        p->qk_norm = FLASHQLA_NORM_L2;
        p->state_layout = FLASHQLA_STATE_VK;
    }
    return kOk;
}

int32_t flashqla_sequences_init(flashqla_sequences* p, size_t size) { return init_struct(p, size); }
int32_t flashqla_state_init(flashqla_state* p, size_t size) { return init_struct(p, size); }
int32_t flashqla_forward_args_init(flashqla_forward_args* p, size_t size) { return init_struct(p, size); }
int32_t flashqla_backward_args_init(flashqla_backward_args* p, size_t size) { return init_struct(p, size); }

int32_t flashqla_device_info(const flashqla_handle* handle, flashqla_device* info) {
    if (const int32_t s = check_handle(handle)) return s;
    if (const int32_t s = open_output(info)) return s;
    const Caps& c = handle->caps;
    info->device = c.device;
    info->compute_major = c.compute_major;
    info->compute_minor = c.compute_minor;
    info->multiprocessors = c.multiprocessors;
    info->threads = c.threads;
    info->shared_memory_bytes = c.shared_memory_bytes;
    info->l2_bytes = c.l2_bytes;
    memcpy(info->name, handle->name, sizeof info->name);
    memcpy(info->image, handle->image, sizeof info->image);
    return kOk;
}

int32_t flashqla_query(const flashqla_handle* handle, const flashqla_problem* problem, const flashqla_sequences* sequences, const flashqla_state* state,
                       int32_t op, flashqla_query_info* info) {
    Description d;
    const char* unsupported = nullptr;
    if (const int32_t s = check_op(op)) return s;
    if (const int32_t s = describe_or_tell(handle, problem, sequences, state, d, unsupported)) return s;
    if (const int32_t s = open_output(info)) return s;
    if (unsupported) {
        info->status = FLASHQLA_STATUS_UNSUPPORTED;
        info->engine_name = "none";
        info->reason = unsupported;
        return kOk;
    }
    const Request request = request_of(d, op);
    const Plan plan = make_plan(request, handle->caps);
    info->status = plan.status;
    info->engine = plan.engine;
    info->launches = plan.launches();
    info->workspace_bytes = plan.status ? 0 : most_workspace_bytes(request, handle->caps);
    info->saved_bytes = plan.status ? 0 : saved_bytes(request, handle->caps);
    info->engine_name = engine_name(plan, handle->caps);
    info->reason = note(plan.reason);
    return kOk;
}

int32_t flashqla_explain(const flashqla_handle* handle, const flashqla_problem* problem, const flashqla_sequences* sequences, const flashqla_state* state,
                         int32_t op, char* text, size_t capacity, size_t* needed) {
    Description d;
    const char* unsupported = nullptr;
    if (const int32_t s = check_op(op)) return s;
    if (!text && capacity) return fail(FLASHQLA_STATUS_INVALID_ARGUMENT, "text is NULL: capacity = %zu must then be 0", capacity);
    if (const int32_t s = describe_or_tell(handle, problem, sequences, state, d, unsupported)) return s;
    TextWriter writer(text, capacity);
    if (unsupported)
        writer.print("not supported: %s\n", unsupported);
    else
        explain(request_of(d, op), handle->caps, handle->name, writer);
    if (needed) *needed = writer.needed();
    return kOk;
}

int32_t flashqla_warmup(const flashqla_handle* handle, const flashqla_problem* problem, int32_t op) {
    if (const int32_t s = check_handle(handle)) return s;
    if (const int32_t s = check_op(op)) return s;
    Problem p{};
    if (problem)
        if (const int32_t s = read_problem(problem, !handle->caps.cuda, p)) return s;
    if (!handle->caps.cuda) return kOk;
    bool wanted[kKernelSlots];
    char why[sizeof Plan::reason];
    if (!kernels_of(problem ? &p : nullptr, op, handle->caps, wanted, why)) return fail(FLASHQLA_STATUS_UNSUPPORTED, "%s", why);
    return cuda::warm_up(handle->caps, wanted);
}

int32_t flashqla_forward(const flashqla_handle* handle, const flashqla_problem* problem, const flashqla_sequences* sequences, const flashqla_state* state,
                         const flashqla_forward_args* args, void* workspace, uint64_t workspace_bytes, void* stream) {
    Description d;
    if (const int32_t s = describe(handle, problem, sequences, state, d)) return s;
    Forward call{d.problem.form, d.rows, d.state, {}, {}};
    Operands operands{};
    if (const int32_t s = read_forward(args, {workspace, workspace_bytes}, call, operands)) return s;
    Request request = request_of(d, FLASHQLA_OP_FORWARD, operands.aligned_16_bytes);
    request.decode_reaches = decode_reaches(call);
    return run(handle, request, call, operands.saved, workspace, workspace_bytes, stream);
}

int32_t flashqla_backward(const flashqla_handle* handle, const flashqla_problem* problem, const flashqla_sequences* sequences, const flashqla_state* state,
                          const flashqla_backward_args* args, void* workspace, uint64_t workspace_bytes, void* stream) {
    Description d;
    if (const int32_t s = describe(handle, problem, sequences, state, d)) return s;
    Backward call{d.problem.form, d.rows, d.state, {}, {}, {}, {}};
    call.state.write = {};  // not used: a write slot of PAD skips no row here
    Operands operands{};
    if (const int32_t s = read_backward(args, {workspace, workspace_bytes}, call, operands)) return s;
    return run(handle, request_of(d, FLASHQLA_OP_BACKWARD, operands.aligned_16_bytes), call, operands.saved, workspace, workspace_bytes, stream);
}

}  // extern "C"
