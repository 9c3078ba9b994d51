//! The declarations against C: FLASHQLA_LAYOUT names a file in which a C program has written every size, offset and constant (CTest does
//! so; without it nothing is compared), tests/abi/symbols.txt has every function.
#![allow(non_snake_case)]

use flashqla_sys::*;
use std::collections::BTreeMap;
use std::mem::{size_of, MaybeUninit};

type Table = BTreeMap<String, Vec<i64>>;

/// Lines of "struct size", "struct.field offset size" and "constant value".
fn c_table() -> Option<Table> {
    let text = std::fs::read_to_string(std::env::var_os("FLASHQLA_LAYOUT")?).unwrap();
    let rows = text.lines().map(|line| {
        let mut words = line.split(' ');
        (words.next().unwrap().to_string(), words.map(|word| word.parse().unwrap()).collect())
    });
    Some(rows.collect())
}

fn size_behind<T>(_: *const T) -> i64 {
    size_of::<T>() as i64
}

/// Names a struct's fields, all of them (the pattern has no `..`), with size and offsets.
macro_rules! rows {
    ($table:ident, $name:ident { $($field:ident),* }) => {
        let _ = |$name { $($field: _),* }: $name| ();
        let memory = MaybeUninit::<$name>::uninit();
        let start = memory.as_ptr();
        $table.insert(stringify!($name).to_string(), vec![size_of::<$name>() as i64]);
        $($table.insert(concat!(stringify!($name), ".", stringify!($field)).to_string(), {
            let field = unsafe { std::ptr::addr_of!((*start).$field) };
            vec![field as i64 - start as i64, size_behind(field)]
        });)*
    };
}

macro_rules! values {
    ($table:ident, $($name:ident),*) => { $($table.insert(stringify!($name).to_string(), vec![$name as i64]);)* };
}

fn rust_table() -> Table {
    let mut t = BTreeMap::new();
    rows!(t, flashqla_config { struct_size, device, threads, reserved, flags, log, log_user });
    rows!(t, flashqla_tensor { data, dtype, reserved0, stride_row, stride_token, stride_head, reserved });
    rows!(
        t,
        flashqla_problem {
            struct_size,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            dtype,
            state_dtype,
            head_map,
            gate,
            beta,
            qk_norm,
            state_layout,
            engine,
            reserved,
            beta_scale,
            scale,
            eps,
            flags
        }
    );
    rows!(t, flashqla_sequences { struct_size, rows, tokens, max_tokens, offsets, offsets_dtype, reserved });
    rows!(
        t,
        flashqla_state {
            struct_size,
            reserved,
            flags,
            read_data,
            read_slots_count,
            read_slot_stride,
            read_slots,
            write_data,
            write_slots_count,
            write_slot_stride,
            write_slots,
            checkpoint_interval,
            checkpoint_slots,
            checkpoint_width,
            token_slots,
            token_width,
            accepted
        }
    );
    rows!(t, flashqla_forward_args { struct_size, reserved, q, k, v, gate, beta, A_log, dt_bias, out, saved, saved_bytes });
    rows!(
        t,
        flashqla_backward_args {
            struct_size,
            reserved,
            q,
            k,
            v,
            gate,
            beta,
            A_log,
            dt_bias,
            d_out,
            d_final,
            dq,
            dk,
            dv,
            d_gate,
            d_beta,
            dA_log,
            ddt_bias,
            d_initial,
            saved,
            saved_bytes
        }
    );
    rows!(t, flashqla_query_info { struct_size, status, engine, launches, workspace_bytes, saved_bytes, engine_name, reason });
    rows!(
        t,
        flashqla_device {
            struct_size,
            device,
            compute_major,
            compute_minor,
            multiprocessors,
            threads,
            shared_memory_bytes,
            l2_bytes,
            name,
            image
        }
    );
    values!(
        t,
        FLASHQLA_STATUS_OK,
        FLASHQLA_STATUS_INVALID_ARGUMENT,
        FLASHQLA_STATUS_UNSUPPORTED,
        FLASHQLA_STATUS_WORKSPACE_TOO_SMALL,
        FLASHQLA_STATUS_NO_DRIVER,
        FLASHQLA_STATUS_DRIVER_TOO_OLD,
        FLASHQLA_STATUS_NO_IMAGE,
        FLASHQLA_STATUS_NO_CONTEXT,
        FLASHQLA_STATUS_WRONG_DEVICE,
        FLASHQLA_STATUS_NOT_WARM,
        FLASHQLA_STATUS_OUT_OF_MEMORY,
        FLASHQLA_STATUS_CUDA_ERROR,
        FLASHQLA_STATUS_INTERNAL,
        FLASHQLA_DTYPE_DEFAULT,
        FLASHQLA_DTYPE_F32,
        FLASHQLA_DTYPE_BF16,
        FLASHQLA_DTYPE_F16,
        FLASHQLA_DTYPE_F64,
        FLASHQLA_DTYPE_I32,
        FLASHQLA_DTYPE_I64,
        FLASHQLA_DEVICE_CPU,
        FLASHQLA_DEVICE_BEST,
        FLASHQLA_HEADS_GROUPED,
        FLASHQLA_HEADS_TILED,
        FLASHQLA_GATE_LOG,
        FLASHQLA_GATE_LINEAR,
        FLASHQLA_GATE_RAW,
        FLASHQLA_GATE_LOG_PER_KEY,
        FLASHQLA_BETA_VALUE,
        FLASHQLA_BETA_LOGIT,
        FLASHQLA_NORM_NONE,
        FLASHQLA_NORM_L2,
        FLASHQLA_STATE_KV,
        FLASHQLA_STATE_VK,
        FLASHQLA_SLOT_PAD,
        FLASHQLA_SLOT_NONE,
        FLASHQLA_ENGINE_AUTO,
        FLASHQLA_ENGINE_RECURRENT,
        FLASHQLA_ENGINE_CHUNKED,
        FLASHQLA_ENGINE_FUSED,
        FLASHQLA_ENGINE_CONTEXT_PARALLEL,
        FLASHQLA_OP_FORWARD,
        FLASHQLA_OP_BACKWARD,
        FLASHQLA_FORM_PLAIN,
        FLASHQLA_FORM_QWEN,
        FLASHQLA_LOG_ERROR,
        FLASHQLA_LOG_INFO,
        FLASHQLA_PROBLEM_KEYS_BOUNDED,
        FLASHQLA_PROBLEM_APPROXIMATE_WARMUP,
        FLASHQLA_PROBLEM_BATCH_INVARIANT,
        FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS,
        FLASHQLA_STATE_NO_FINAL
    );
    t
}

#[test]
fn sizes_offsets_and_constants_are_those_of_c() {
    match c_table() {
        Some(c) => assert_eq!(c, rust_table()),
        None => println!("FLASHQLA_LAYOUT is not set: nothing compared"),
    }
}

#[test]
fn every_function_is_declared_and_links() {
    macro_rules! functions {
        ($($name:ident),*) => { [$((stringify!($name), $name as *const ())),*] };
    }
    let declared = functions!(
        flashqla_backward,
        flashqla_backward_args_init,
        flashqla_build_info,
        flashqla_config_init,
        flashqla_create,
        flashqla_destroy,
        flashqla_device_info,
        flashqla_explain,
        flashqla_forward,
        flashqla_forward_args_init,
        flashqla_last_error,
        flashqla_last_error_copy,
        flashqla_problem_init,
        flashqla_query,
        flashqla_sequences_init,
        flashqla_state_init,
        flashqla_status_name,
        flashqla_version,
        flashqla_warmup
    );
    assert!(declared.iter().all(|(_, address)| !address.is_null()));
    let names: Vec<_> = declared.iter().map(|(name, _)| *name).collect();
    let folder = std::env::var("FLASHQLA_ABI").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/abi").into());
    let all = std::fs::read_to_string(folder + "/symbols.txt").unwrap();
    assert_eq!(names, all.lines().collect::<Vec<_>>());
    assert_eq!(unsafe { flashqla_version() }, FLASHQLA_VERSION);
}
