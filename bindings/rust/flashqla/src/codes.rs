//! The codes of `flashqla.h`. Each is an integer that C sees as it stands: one that the library does not know is refused by it.

use crate::sys;
use std::ffi::CStr;
use std::fmt;

macro_rules! codes {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $code:ident = $value:ident,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(transparent)]
        pub struct $name(pub i32);
        impl $name {
            $($(#[$doc])* pub const $code: $name = $name(sys::$value);)*
        }
    };
}

codes! {
    /// What a function returns.
    Status {
        /// All went well.
        OK = FLASHQLA_STATUS_OK,
        /// A field breaks its rule.
        INVALID_ARGUMENT = FLASHQLA_STATUS_INVALID_ARGUMENT,
        /// Well formed, but this device or version does not do it.
        UNSUPPORTED = FLASHQLA_STATUS_UNSUPPORTED,
        /// The message has the bytes needed.
        WORKSPACE_TOO_SMALL = FLASHQLA_STATUS_WORKSPACE_TOO_SMALL,
        /// No CUDA driver library, or no device in it.
        NO_DRIVER = FLASHQLA_STATUS_NO_DRIVER,
        /// Older than the toolkit that built the kernels.
        DRIVER_TOO_OLD = FLASHQLA_STATUS_DRIVER_TOO_OLD,
        /// The library was built without kernels for this device.
        NO_IMAGE = FLASHQLA_STATUS_NO_IMAGE,
        /// No CUDA context is current on the calling thread.
        NO_CONTEXT = FLASHQLA_STATUS_NO_CONTEXT,
        /// The current context is of another device than the handle.
        WRONG_DEVICE = FLASHQLA_STATUS_WRONG_DEVICE,
        /// The stream is being captured and the kernels are not loaded.
        NOT_WARM = FLASHQLA_STATUS_NOT_WARM,
        /// Host memory, threads, or the driver's own memory.
        OUT_OF_MEMORY = FLASHQLA_STATUS_OUT_OF_MEMORY,
        /// A driver call failed.
        CUDA_ERROR = FLASHQLA_STATUS_CUDA_ERROR,
        /// A bug of the library.
        INTERNAL = FLASHQLA_STATUS_INTERNAL,
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = unsafe { CStr::from_ptr(sys::flashqla_status_name(self.0)) };
        f.write_str(&name.to_string_lossy())
    }
}

codes! {
    /// Element types.
    Dtype {
        /// The default told at the field.
        DEFAULT = FLASHQLA_DTYPE_DEFAULT,
        /// `f32`
        F32 = FLASHQLA_DTYPE_F32,
        /// [`crate::Bf16`]
        BF16 = FLASHQLA_DTYPE_BF16,
        /// [`crate::F16`]
        F16 = FLASHQLA_DTYPE_F16,
        /// `f64`; CPU handles only
        F64 = FLASHQLA_DTYPE_F64,
        /// `i32`: offsets
        I32 = FLASHQLA_DTYPE_I32,
        /// `i64`: offsets
        I64 = FLASHQLA_DTYPE_I64,
    }
}

codes! {
    /// Which key head a value head reads.
    HeadMap {
        /// `h / (HV / HK)`
        GROUPED = FLASHQLA_HEADS_GROUPED,
        /// `h % HK`, as in GGUF files
        TILED = FLASHQLA_HEADS_TILED,
    }
}

codes! {
    /// What `gate` holds.
    GateForm {
        /// The natural logarithm of the decay.
        LOG = FLASHQLA_GATE_LOG,
        /// The decay.
        LINEAR = FLASHQLA_GATE_LINEAR,
        /// `a`, with `A_log` and `dt_bias`.
        RAW = FLASHQLA_GATE_RAW,
        /// A gate per key channel: not supported.
        LOG_PER_KEY = FLASHQLA_GATE_LOG_PER_KEY,
    }
}

codes! {
    /// What `beta` holds.
    BetaForm {
        /// beta / beta_scale
        VALUE = FLASHQLA_BETA_VALUE,
        /// Its logit.
        LOGIT = FLASHQLA_BETA_LOGIT,
    }
}

codes! {
    /// What is done to q and k first.
    QkNorm {
        /// Nothing.
        NONE = FLASHQLA_NORM_NONE,
        /// `x / sqrt(sum x^2 + eps)`
        L2 = FLASHQLA_NORM_L2,
    }
}

codes! {
    /// Layout of each head's state.
    StateLayout {
        /// `[K, V]`
        KV = FLASHQLA_STATE_KV,
        /// `[V, K]`
        VK = FLASHQLA_STATE_VK,
    }
}

codes! {
    /// Ways to compute.
    Engine {
        /// Chosen by the sizes.
        AUTO = FLASHQLA_ENGINE_AUTO,
        /// Token by token.
        RECURRENT = FLASHQLA_ENGINE_RECURRENT,
        /// Tensor cores, two kernels.
        CHUNKED = FLASHQLA_ENGINE_CHUNKED,
        /// Tensor cores, one kernel.
        FUSED = FLASHQLA_ENGINE_FUSED,
        /// Tensor cores, long rows in segments.
        CONTEXT_PARALLEL = FLASHQLA_ENGINE_CONTEXT_PARALLEL,
    }
}

codes! {
    /// Operations, where one is asked for.
    Op {
        /// [`crate::Handle::forward`]
        FORWARD = FLASHQLA_OP_FORWARD,
        /// [`crate::Handle::backward`]
        BACKWARD = FLASHQLA_OP_BACKWARD,
    }
}

codes! {
    /// Starting points of [`crate::Problem::new`].
    Form {
        /// Log gate, beta as a value, no norm, KV state.
        PLAIN = FLASHQLA_FORM_PLAIN,
        /// Raw gate, beta as a logit, L2 norm, VK state.
        QWEN = FLASHQLA_FORM_QWEN,
    }
}

codes! {
    /// How much a message matters.
    LogLevel {
        /// A call failed in the driver or in the library.
        ERROR = FLASHQLA_LOG_ERROR,
        /// BEST took the CPU, and why.
        INFO = FLASHQLA_LOG_INFO,
    }
}

/// Values of slot tables beside slots.
pub mod slot {
    /// The row is skipped.
    pub const PAD: i32 = crate::sys::FLASHQLA_SLOT_PAD;
    /// Read: start from zero. Write: store nothing.
    pub const NONE: i32 = crate::sys::FLASHQLA_SLOT_NONE;
}

/// Bits of [`crate::Problem::flags`].
pub mod problem_flags {
    use crate::sys;
    /// The caller promises beta |k|^2 <= 2.
    pub const KEYS_BOUNDED: u64 = sys::FLASHQLA_PROBLEM_KEYS_BOUNDED;
    /// Context parallelism may drop what has decayed below exp(-10).
    pub const APPROXIMATE_WARMUP: u64 = sys::FLASHQLA_PROBLEM_APPROXIMATE_WARMUP;
    /// A row's results do not depend on other rows.
    pub const BATCH_INVARIANT: u64 = sys::FLASHQLA_PROBLEM_BATCH_INVARIANT;
    /// f32 tensors may be rounded for tensor cores.
    pub const ALLOW_16BIT_OPERANDS: u64 = sys::FLASHQLA_PROBLEM_ALLOW_16BIT_OPERANDS;
}

/// Bits of [`crate::State::flags`].
pub mod state_flags {
    /// Do not store final states.
    pub const NO_FINAL: u64 = crate::sys::FLASHQLA_STATE_NO_FINAL;
}

/// The device that is the CPU; CUDA ordinals count from 0.
pub const CPU: i32 = sys::FLASHQLA_DEVICE_CPU;
/// The current CUDA context's device, else CUDA device 0, else the CPU.
pub const BEST: i32 = sys::FLASHQLA_DEVICE_BEST;
