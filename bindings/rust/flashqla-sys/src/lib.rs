//! Declarations of flashqla's C ABI, written from `flashqla.h`, whose comments are the reference. `tests/layout.rs` compares every size,
//! offset and constant with what C has. The crate `flashqla` makes this safe.
#![allow(non_camel_case_types, non_snake_case)]

use std::os::raw::{c_char, c_void};

pub const FLASHQLA_VERSION: i32 = 100;

pub const FLASHQLA_STATUS_OK: i32 = 0;
pub const FLASHQLA_STATUS_INVALID_ARGUMENT: i32 = 1;
pub const FLASHQLA_STATUS_UNSUPPORTED: i32 = 2;
pub const FLASHQLA_STATUS_WORKSPACE_TOO_SMALL: i32 = 3;
pub const FLASHQLA_STATUS_NO_DRIVER: i32 = 4;
pub const FLASHQLA_STATUS_DRIVER_TOO_OLD: i32 = 5;
pub const FLASHQLA_STATUS_NO_IMAGE: i32 = 6;
pub const FLASHQLA_STATUS_NO_CONTEXT: i32 = 7;
pub const FLASHQLA_STATUS_WRONG_DEVICE: i32 = 8;
pub const FLASHQLA_STATUS_NOT_WARM: i32 = 9;
pub const FLASHQLA_STATUS_OUT_OF_MEMORY: i32 = 10;
pub const FLASHQLA_STATUS_CUDA_ERROR: i32 = 11;
pub const FLASHQLA_STATUS_INTERNAL: i32 = 12;

pub const FLASHQLA_DTYPE_DEFAULT: i32 = 0;
pub const FLASHQLA_DTYPE_F32: i32 = 1;
pub const FLASHQLA_DTYPE_BF16: i32 = 2;
pub const FLASHQLA_DTYPE_F16: i32 = 3;
pub const FLASHQLA_DTYPE_F64: i32 = 4;
pub const FLASHQLA_DTYPE_I32: i32 = 5;
pub const FLASHQLA_DTYPE_I64: i32 = 6;

pub const FLASHQLA_DEVICE_CPU: i32 = -1;
pub const FLASHQLA_DEVICE_BEST: i32 = -2;

pub const FLASHQLA_HEADS_GROUPED: i32 = 0;
pub const FLASHQLA_HEADS_TILED: i32 = 1;

pub const FLASHQLA_GATE_LOG: i32 = 0;
pub const FLASHQLA_GATE_LINEAR: i32 = 1;
pub const FLASHQLA_GATE_RAW: i32 = 2;
pub const FLASHQLA_GATE_LOG_PER_KEY: i32 = 3;

pub const FLASHQLA_BETA_VALUE: i32 = 0;
pub const FLASHQLA_BETA_LOGIT: i32 = 1;

pub const FLASHQLA_NORM_NONE: i32 = 0;
pub const FLASHQLA_NORM_L2: i32 = 1;

pub const FLASHQLA_STATE_KV: i32 = 0;
pub const FLASHQLA_STATE_VK: i32 = 1;

pub const FLASHQLA_SLOT_PAD: i32 = -1;
pub const FLASHQLA_SLOT_NONE: i32 = -2;

pub const FLASHQLA_ENGINE_AUTO: i32 = 0;
pub const FLASHQLA_ENGINE_RECURRENT: i32 = 1;
pub const FLASHQLA_ENGINE_CHUNKED: i32 = 2;
pub const FLASHQLA_ENGINE_FUSED: i32 = 3;
pub const FLASHQLA_ENGINE_CONTEXT_PARALLEL: i32 = 4;

pub const FLASHQLA_OP_FORWARD: i32 = 0;
pub const FLASHQLA_OP_BACKWARD: i32 = 1;

pub const FLASHQLA_FORM_PLAIN: i32 = 0;
pub const FLASHQLA_FORM_QWEN: i32 = 1;

pub const FLASHQLA_LOG_ERROR: i32 = 0;
pub const FLASHQLA_LOG_INFO: i32 = 1;

pub const FLASHQLA_PROBLEM_KEYS_BOUNDED: u64 = 1;
pub const FLASHQLA_PROBLEM_APPROXIMATE_WARMUP: u64 = 2;
pub const FLASHQLA_PROBLEM_BATCH_INVARIANT: u64 = 4;
pub const FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS: u64 = 8;

pub const FLASHQLA_STATE_NO_FINAL: u64 = 1;

/// Opaque; lives behind pointers alone.
#[repr(C)]
pub struct flashqla_handle {
    _private: [u8; 0],
}

pub type flashqla_log_fn = Option<unsafe extern "C" fn(user: *mut c_void, level: i32, message: *const c_char)>;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_config {
    pub struct_size: u32,
    pub device: i32,
    pub threads: i32,
    pub reserved: i32,
    pub flags: u64,
    pub log: flashqla_log_fn,
    pub log_user: *mut c_void,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_tensor {
    pub data: *mut c_void,
    pub dtype: i32,
    pub reserved0: i32,
    pub stride_row: i64,
    pub stride_token: i64,
    pub stride_head: i64,
    pub reserved: [i64; 2],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_problem {
    pub struct_size: u32,
    pub key_heads: i32,
    pub value_heads: i32,
    pub key_dim: i32,
    pub value_dim: i32,
    pub dtype: i32,
    pub state_dtype: i32,
    pub head_map: i32,
    pub gate: i32,
    pub beta: i32,
    pub qk_norm: i32,
    pub state_layout: i32,
    pub engine: i32,
    pub reserved: i32,
    pub beta_scale: f64,
    pub scale: f64,
    pub eps: f64,
    pub flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_sequences {
    pub struct_size: u32,
    pub rows: i32,
    pub tokens: i64,
    pub max_tokens: i64,
    pub offsets: *const c_void,
    pub offsets_dtype: i32,
    pub reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_state {
    pub struct_size: u32,
    pub reserved: i32,
    pub flags: u64,
    pub read_data: *const c_void,
    pub read_slots_count: i64,
    pub read_slot_stride: i64,
    pub read_slots: *const i32,
    pub write_data: *mut c_void,
    pub write_slots_count: i64,
    pub write_slot_stride: i64,
    pub write_slots: *const i32,
    pub checkpoint_interval: i64,
    pub checkpoint_slots: *const i32,
    pub checkpoint_width: i64,
    pub token_slots: *const i32,
    pub token_width: i64,
    pub accepted: *const i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_forward_args {
    pub struct_size: u32,
    pub reserved: i32,
    pub q: flashqla_tensor,
    pub k: flashqla_tensor,
    pub v: flashqla_tensor,
    pub gate: flashqla_tensor,
    pub beta: flashqla_tensor,
    pub A_log: flashqla_tensor,
    pub dt_bias: flashqla_tensor,
    pub out: flashqla_tensor,
    pub saved: *mut c_void,
    pub saved_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_backward_args {
    pub struct_size: u32,
    pub reserved: i32,
    pub q: flashqla_tensor,
    pub k: flashqla_tensor,
    pub v: flashqla_tensor,
    pub gate: flashqla_tensor,
    pub beta: flashqla_tensor,
    pub A_log: flashqla_tensor,
    pub dt_bias: flashqla_tensor,
    pub d_out: flashqla_tensor,
    pub d_final: flashqla_tensor,
    pub dq: flashqla_tensor,
    pub dk: flashqla_tensor,
    pub dv: flashqla_tensor,
    pub d_gate: flashqla_tensor,
    pub d_beta: flashqla_tensor,
    pub dA_log: flashqla_tensor,
    pub ddt_bias: flashqla_tensor,
    pub d_initial: flashqla_tensor,
    pub saved: *const c_void,
    pub saved_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_query_info {
    pub struct_size: u32,
    pub status: i32,
    pub engine: i32,
    pub launches: i32,
    pub workspace_bytes: u64,
    pub saved_bytes: u64,
    pub engine_name: *const c_char,
    pub reason: *const c_char,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct flashqla_device {
    pub struct_size: u32,
    pub device: i32,
    pub compute_major: i32,
    pub compute_minor: i32,
    pub multiprocessors: i32,
    pub threads: i32,
    pub shared_memory_bytes: u64,
    pub l2_bytes: u64,
    pub name: [c_char; 64],
    pub image: [c_char; 32],
}

extern "C" {
    pub fn flashqla_version() -> i32;
    pub fn flashqla_build_info() -> *const c_char;
    pub fn flashqla_status_name(status: i32) -> *const c_char;
    pub fn flashqla_last_error() -> *const c_char;
    pub fn flashqla_last_error_copy(buffer: *mut c_char, capacity: usize) -> usize;

    pub fn flashqla_config_init(p: *mut flashqla_config, size: usize) -> i32;
    pub fn flashqla_problem_init(p: *mut flashqla_problem, size: usize, form: i32) -> i32;
    pub fn flashqla_sequences_init(p: *mut flashqla_sequences, size: usize) -> i32;
    pub fn flashqla_state_init(p: *mut flashqla_state, size: usize) -> i32;
    pub fn flashqla_forward_args_init(p: *mut flashqla_forward_args, size: usize) -> i32;
    pub fn flashqla_backward_args_init(p: *mut flashqla_backward_args, size: usize) -> i32;

    pub fn flashqla_create(out: *mut *mut flashqla_handle, config: *const flashqla_config) -> i32;
    pub fn flashqla_destroy(handle: *mut flashqla_handle);
    pub fn flashqla_device_info(handle: *const flashqla_handle, info: *mut flashqla_device) -> i32;

    pub fn flashqla_query(
        handle: *const flashqla_handle,
        problem: *const flashqla_problem,
        sequences: *const flashqla_sequences,
        state: *const flashqla_state,
        op: i32,
        info: *mut flashqla_query_info,
    ) -> i32;
    pub fn flashqla_explain(
        handle: *const flashqla_handle,
        problem: *const flashqla_problem,
        sequences: *const flashqla_sequences,
        state: *const flashqla_state,
        op: i32,
        text: *mut c_char,
        capacity: usize,
        needed: *mut usize,
    ) -> i32;
    pub fn flashqla_warmup(handle: *const flashqla_handle, problem: *const flashqla_problem, op: i32) -> i32;
    pub fn flashqla_forward(
        handle: *const flashqla_handle,
        problem: *const flashqla_problem,
        sequences: *const flashqla_sequences,
        state: *const flashqla_state,
        args: *const flashqla_forward_args,
        workspace: *mut c_void,
        workspace_bytes: u64,
        stream: *mut c_void,
    ) -> i32;
    pub fn flashqla_backward(
        handle: *const flashqla_handle,
        problem: *const flashqla_problem,
        sequences: *const flashqla_sequences,
        state: *const flashqla_state,
        args: *const flashqla_backward_args,
        workspace: *mut c_void,
        workspace_bytes: u64,
        stream: *mut c_void,
    ) -> i32;
}
