//! Gated DeltaNet through flashqla, safely. `flashqla.h` is the reference: names and rules are the same here.
//!
//! * A status other than OK is an [`Error`] with the library's text. Memory carries its length, its dtype and its device, so that a call
//!   which would reach past an end, or into another device's memory, is refused before it starts.
//! * Calls borrow memory while they run. On a CUDA device a call only enqueues; a [`Buffer`] waits for the device before it is freed, so
//!   dropping one early is slow, never wrong. What a stream has written is there after [`Device::synchronize`] or [`Stream::synchronize`].
//! * A [`Handle`] is `Send` and `Sync`: any number of threads may use it. Calls that overlap in time need their own workspace and outputs,
//!   which the borrow checker sees to. On CUDA, each thread makes the device's context current first ([`Device::attach`]).
//!
//! Outputs are exclusive while a call borrows them, so this does not compile:
//!
//! ```compile_fail
//! let mut x = vec![0f32; 4];
//! let mut args = flashqla::ForwardArgs::default();
//! args.out = (&mut x).into();
//! args.q = (&x).into(); // x is lent to args.out
//! args.v = (&x).into();
//! ```
//!
//! Nor does memory that dies before the arguments:
//!
//! ```compile_fail
//! let mut args = flashqla::ForwardArgs::default();
//! {
//!     let x = vec![0f32; 4];
//!     args.q = (&x).into();
//! }
//! drop(args);
//! ```
#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

mod call;
mod codes;
mod device;
mod handle;
mod memory;
mod problem;

pub use call::{BackwardArgs, ForwardArgs, Pool, PoolMut, Pools, Sequences, State};
pub use codes::{
    problem_flags, slot, state_flags, BetaForm, Dtype, Engine, Form, GateForm, HeadMap, LogLevel, Op, QkNorm, StateLayout, Status, BEST,
    CPU,
};
pub use device::{Buffer, Device, Stream};
pub use handle::{build_info, version, Config, DeviceInfo, Handle, Log, QueryInfo};
pub use memory::{Bf16, Element, Input, Output, F16};
pub use problem::Problem;

use flashqla_sys as sys;
use std::ffi::CStr;

/// What went wrong: a status and the library's own text, which names the field, its value and the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Never OK.
    pub status: Status,
    /// One line.
    pub message: String,
}

/// What fallible functions of this crate return.
pub type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.message)
    }
}

impl std::error::Error for Error {}

impl Error {
    fn invalid(message: String) -> Error {
        Error { status: Status::INVALID_ARGUMENT, message }
    }
}

/// Turns a status into a result, copying this thread's message before another call can replace it.
fn check(status: i32) -> Result<()> {
    if status == sys::FLASHQLA_STATUS_OK {
        return Ok(());
    }
    let message = unsafe { CStr::from_ptr(sys::flashqla_last_error()) };
    Err(Error { status: Status(status), message: message.to_string_lossy().into_owned() })
}
