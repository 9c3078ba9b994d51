/* The binary layout of version 1, frozen: compiled as C11 and as C++17; a line that has to change here is a broken ABI. Fields that later
 * versions append get new lines, and SIZE then grows. 64-bit targets. */
#include "flashqla.h"

#ifdef __cplusplus
#define CHECK(condition, text) static_assert(condition, text)
#else
#define CHECK(condition, text) _Static_assert(condition, text)
#endif
#define SIZE(type, bytes) CHECK(sizeof(type) == (bytes), "sizeof(" #type ")")
#define AT(type, field, offset) CHECK(offsetof(type, field) == (offset), #type "." #field)
#define VALUE(name, value) CHECK((name) == (value), #name)

SIZE(flashqla_config, 40);
AT(flashqla_config, struct_size, 0);
AT(flashqla_config, device, 4);
AT(flashqla_config, threads, 8);
AT(flashqla_config, reserved, 12);
AT(flashqla_config, flags, 16);
AT(flashqla_config, log, 24);
AT(flashqla_config, log_user, 32);

SIZE(flashqla_tensor, 56);
AT(flashqla_tensor, data, 0);
AT(flashqla_tensor, dtype, 8);
AT(flashqla_tensor, reserved0, 12);
AT(flashqla_tensor, stride_row, 16);
AT(flashqla_tensor, stride_token, 24);
AT(flashqla_tensor, stride_head, 32);
AT(flashqla_tensor, reserved, 40);

SIZE(flashqla_problem, 88);
AT(flashqla_problem, struct_size, 0);
AT(flashqla_problem, key_heads, 4);
AT(flashqla_problem, value_heads, 8);
AT(flashqla_problem, key_dim, 12);
AT(flashqla_problem, value_dim, 16);
AT(flashqla_problem, dtype, 20);
AT(flashqla_problem, state_dtype, 24);
AT(flashqla_problem, head_map, 28);
AT(flashqla_problem, gate, 32);
AT(flashqla_problem, beta, 36);
AT(flashqla_problem, qk_norm, 40);
AT(flashqla_problem, state_layout, 44);
AT(flashqla_problem, engine, 48);
AT(flashqla_problem, reserved, 52);
AT(flashqla_problem, beta_scale, 56);
AT(flashqla_problem, scale, 64);
AT(flashqla_problem, eps, 72);
AT(flashqla_problem, flags, 80);

SIZE(flashqla_sequences, 40);
AT(flashqla_sequences, struct_size, 0);
AT(flashqla_sequences, rows, 4);
AT(flashqla_sequences, tokens, 8);
AT(flashqla_sequences, max_tokens, 16);
AT(flashqla_sequences, offsets, 24);
AT(flashqla_sequences, offsets_dtype, 32);
AT(flashqla_sequences, reserved, 36);

SIZE(flashqla_state, 128);
AT(flashqla_state, struct_size, 0);
AT(flashqla_state, reserved, 4);
AT(flashqla_state, flags, 8);
AT(flashqla_state, read_data, 16);
AT(flashqla_state, read_slots_count, 24);
AT(flashqla_state, read_slot_stride, 32);
AT(flashqla_state, read_slots, 40);
AT(flashqla_state, write_data, 48);
AT(flashqla_state, write_slots_count, 56);
AT(flashqla_state, write_slot_stride, 64);
AT(flashqla_state, write_slots, 72);
AT(flashqla_state, checkpoint_interval, 80);
AT(flashqla_state, checkpoint_slots, 88);
AT(flashqla_state, checkpoint_width, 96);
AT(flashqla_state, token_slots, 104);
AT(flashqla_state, token_width, 112);
AT(flashqla_state, accepted, 120);

SIZE(flashqla_forward_args, 472);
AT(flashqla_forward_args, struct_size, 0);
AT(flashqla_forward_args, reserved, 4);
AT(flashqla_forward_args, q, 8);
AT(flashqla_forward_args, k, 64);
AT(flashqla_forward_args, v, 120);
AT(flashqla_forward_args, gate, 176);
AT(flashqla_forward_args, beta, 232);
AT(flashqla_forward_args, A_log, 288);
AT(flashqla_forward_args, dt_bias, 344);
AT(flashqla_forward_args, out, 400);
AT(flashqla_forward_args, saved, 456);
AT(flashqla_forward_args, saved_bytes, 464);

SIZE(flashqla_backward_args, 976);
AT(flashqla_backward_args, struct_size, 0);
AT(flashqla_backward_args, reserved, 4);
AT(flashqla_backward_args, q, 8);
AT(flashqla_backward_args, k, 64);
AT(flashqla_backward_args, v, 120);
AT(flashqla_backward_args, gate, 176);
AT(flashqla_backward_args, beta, 232);
AT(flashqla_backward_args, A_log, 288);
AT(flashqla_backward_args, dt_bias, 344);
AT(flashqla_backward_args, d_out, 400);
AT(flashqla_backward_args, d_final, 456);
AT(flashqla_backward_args, dq, 512);
AT(flashqla_backward_args, dk, 568);
AT(flashqla_backward_args, dv, 624);
AT(flashqla_backward_args, d_gate, 680);
AT(flashqla_backward_args, d_beta, 736);
AT(flashqla_backward_args, dA_log, 792);
AT(flashqla_backward_args, ddt_bias, 848);
AT(flashqla_backward_args, d_initial, 904);
AT(flashqla_backward_args, saved, 960);
AT(flashqla_backward_args, saved_bytes, 968);

SIZE(flashqla_query_info, 48);
AT(flashqla_query_info, struct_size, 0);
AT(flashqla_query_info, status, 4);
AT(flashqla_query_info, engine, 8);
AT(flashqla_query_info, launches, 12);
AT(flashqla_query_info, workspace_bytes, 16);
AT(flashqla_query_info, saved_bytes, 24);
AT(flashqla_query_info, engine_name, 32);
AT(flashqla_query_info, reason, 40);

SIZE(flashqla_device, 136);
AT(flashqla_device, struct_size, 0);
AT(flashqla_device, device, 4);
AT(flashqla_device, compute_major, 8);
AT(flashqla_device, compute_minor, 12);
AT(flashqla_device, multiprocessors, 16);
AT(flashqla_device, threads, 20);
AT(flashqla_device, shared_memory_bytes, 24);
AT(flashqla_device, l2_bytes, 32);
AT(flashqla_device, name, 40);
AT(flashqla_device, image, 104);

VALUE(FLASHQLA_STATUS_OK, 0);
VALUE(FLASHQLA_STATUS_INVALID_ARGUMENT, 1);
VALUE(FLASHQLA_STATUS_UNSUPPORTED, 2);
VALUE(FLASHQLA_STATUS_WORKSPACE_TOO_SMALL, 3);
VALUE(FLASHQLA_STATUS_NO_DRIVER, 4);
VALUE(FLASHQLA_STATUS_DRIVER_TOO_OLD, 5);
VALUE(FLASHQLA_STATUS_NO_IMAGE, 6);
VALUE(FLASHQLA_STATUS_NO_CONTEXT, 7);
VALUE(FLASHQLA_STATUS_WRONG_DEVICE, 8);
VALUE(FLASHQLA_STATUS_NOT_WARM, 9);
VALUE(FLASHQLA_STATUS_OUT_OF_MEMORY, 10);
VALUE(FLASHQLA_STATUS_CUDA_ERROR, 11);
VALUE(FLASHQLA_STATUS_INTERNAL, 12);
VALUE(FLASHQLA_DTYPE_DEFAULT, 0);
VALUE(FLASHQLA_DTYPE_F32, 1);
VALUE(FLASHQLA_DTYPE_BF16, 2);
VALUE(FLASHQLA_DTYPE_F16, 3);
VALUE(FLASHQLA_DTYPE_F64, 4);
VALUE(FLASHQLA_DTYPE_I32, 5);
VALUE(FLASHQLA_DTYPE_I64, 6);
VALUE(FLASHQLA_DEVICE_CPU, -1);
VALUE(FLASHQLA_DEVICE_BEST, -2);
VALUE(FLASHQLA_HEADS_GROUPED, 0);
VALUE(FLASHQLA_HEADS_TILED, 1);
VALUE(FLASHQLA_GATE_LOG, 0);
VALUE(FLASHQLA_GATE_LINEAR, 1);
VALUE(FLASHQLA_GATE_RAW, 2);
VALUE(FLASHQLA_GATE_LOG_PER_KEY, 3);
VALUE(FLASHQLA_BETA_VALUE, 0);
VALUE(FLASHQLA_BETA_LOGIT, 1);
VALUE(FLASHQLA_NORM_NONE, 0);
VALUE(FLASHQLA_NORM_L2, 1);
VALUE(FLASHQLA_STATE_KV, 0);
VALUE(FLASHQLA_STATE_VK, 1);
VALUE(FLASHQLA_SLOT_PAD, -1);
VALUE(FLASHQLA_SLOT_NONE, -2);
VALUE(FLASHQLA_ENGINE_AUTO, 0);
VALUE(FLASHQLA_ENGINE_RECURRENT, 1);
VALUE(FLASHQLA_ENGINE_CHUNKED, 2);
VALUE(FLASHQLA_ENGINE_FUSED, 3);
VALUE(FLASHQLA_ENGINE_CONTEXT_PARALLEL, 4);
VALUE(FLASHQLA_OP_FORWARD, 0);
VALUE(FLASHQLA_OP_BACKWARD, 1);
VALUE(FLASHQLA_FORM_PLAIN, 0);
VALUE(FLASHQLA_FORM_QWEN, 1);
VALUE(FLASHQLA_LOG_ERROR, 0);
VALUE(FLASHQLA_LOG_INFO, 1);
VALUE(FLASHQLA_PROBLEM_KEYS_BOUNDED, 1);
VALUE(FLASHQLA_PROBLEM_APPROXIMATE_WARMUP, 2);
VALUE(FLASHQLA_PROBLEM_BATCH_INVARIANT, 4);
VALUE(FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS, 8);
VALUE(FLASHQLA_STATE_NO_FINAL, 1);
