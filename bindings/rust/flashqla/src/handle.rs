//! A handle and its calls.

use crate::call::Lengths;
use crate::memory::View;
use crate::{check, sys, BackwardArgs, Engine, ForwardArgs, LogLevel, Op, Output, Problem, Result, Sequences, State, Status, Stream, BEST};
use std::ffi::{c_void, CStr};
use std::mem::{size_of, zeroed};
use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::{null, null_mut, NonNull};

/// Called for messages of the library, from any thread that uses the handle. Must not use this crate; a panic in it is dropped.
pub type Log = Box<dyn Fn(LogLevel, &str) + Send + Sync>;

/// How to make a handle.
pub struct Config {
    /// A CUDA ordinal, [`crate::CPU`] or [`BEST`].
    pub device: i32,
    /// CPU: threads that work on one call; 0: all that the process may run on.
    pub threads: i32,
    /// 0.
    pub flags: u64,
    /// None: silent.
    pub log: Option<Log>,
}

impl Default for Config {
    fn default() -> Self {
        Config { device: BEST, threads: 0, flags: 0, log: None }
    }
}

/// A device, what it can do, and (on the CPU) a thread pool.
pub struct Handle {
    raw: NonNull<sys::flashqla_handle>,
    device: i32,
    _log: Option<Box<Log>>, // where C finds it
}

// The handle is immutable and C allows calls on it from any number of threads; the log is Send and Sync.
unsafe impl Send for Handle {}
unsafe impl Sync for Handle {}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Handle(device {})", self.device)
    }
}

/// What a handle runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// [`crate::CPU`] or the CUDA ordinal.
    pub device: i32,
    /// Compute capability; CPU: 0.
    pub compute_major: i32,
    /// Compute capability; CPU: 0.
    pub compute_minor: i32,
    /// CPU: 0.
    pub multiprocessors: i32,
    /// CPU: threads of the pool; CUDA: 0.
    pub threads: i32,
    /// Most that one block may have; CPU: 0.
    pub shared_memory_bytes: u64,
    /// CPU: 0.
    pub l2_bytes: u64,
    /// "NVIDIA H100 80GB HBM3", "CPU".
    pub name: String,
    /// Kernels in use.
    pub image: String,
}

/// How a call would run, and what memory it wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryInfo {
    /// OK or UNSUPPORTED.
    pub status: Status,
    /// The engine that serves an aligned call.
    pub engine: Engine,
    /// Kernels enqueued; CPU: 0.
    pub launches: i32,
    /// Of workspace, aligned to 256, as every [`crate::Buffer`] is.
    pub workspace_bytes: u64,
    /// Of `saved`; 0: nothing is worth saving.
    pub saved_bytes: u64,
    /// "recurrent sm_90a", "cpu avx512", ...
    pub engine_name: &'static str,
    /// Why this engine, or why not at all.
    pub reason: String,
}

/// FLASHQLA_VERSION of the library: major * 10000 + minor * 100 + patch.
pub fn version() -> i32 {
    unsafe { sys::flashqla_version() }
}

/// One line: version, images inside, toolkit, compiler.
pub fn build_info() -> &'static str {
    forever(unsafe { sys::flashqla_build_info() })
}

/// Text that C keeps for ever.
fn forever(text: *const c_char) -> &'static str {
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or("")
}

unsafe extern "C" fn write_log(user: *mut c_void, level: i32, message: *const c_char) {
    let (log, message) = unsafe { (&*(user as *const Log), CStr::from_ptr(message)) };
    // A panic must not pass through C.
    let _ = catch_unwind(AssertUnwindSafe(|| log(LogLevel(level), &message.to_string_lossy())));
}

/// One call's C structs; `state` is a pointer into this.
struct Call {
    problem: sys::flashqla_problem,
    sequences: sys::flashqla_sequences,
    state: Option<sys::flashqla_state>,
}

impl Call {
    fn new(problem: &Problem, sequences: &Sequences, state: Option<&State>) -> Call {
        Call { problem: problem.raw(), sequences: sequences.raw(), state: state.map(State::raw) }
    }

    fn state(&self) -> *const sys::flashqla_state {
        self.state.as_ref().map_or(null(), |s| s)
    }
}

impl Handle {
    /// Makes a handle. [`BEST`] falls back to the CPU, and tells `log` why, instead of failing for want of a usable CUDA device.
    pub fn new(config: Config) -> Result<Handle> {
        let log = config.log.map(Box::new);
        let raw_config = sys::flashqla_config {
            struct_size: size_of::<sys::flashqla_config>() as u32,
            device: config.device,
            threads: config.threads,
            reserved: 0,
            flags: config.flags,
            log: log.as_ref().map(|_| write_log as unsafe extern "C" fn(*mut c_void, i32, *const c_char)),
            log_user: log.as_ref().map_or(null_mut(), |l| &**l as *const Log as *mut c_void),
        };
        let mut raw = null_mut();
        check(unsafe { sys::flashqla_create(&mut raw, &raw_config) })?;
        let raw = NonNull::new(raw).expect("flashqla_create returned OK");
        let mut handle = Handle { raw, device: 0, _log: log };
        handle.device = handle.info()?.device;
        Ok(handle)
    }

    /// What it runs on.
    pub fn info(&self) -> Result<DeviceInfo> {
        let mut d: sys::flashqla_device = unsafe { zeroed() };
        d.struct_size = size_of::<sys::flashqla_device>() as u32;
        check(unsafe { sys::flashqla_device_info(self.raw.as_ptr(), &mut d) })?;
        let text = |chars: &[c_char]| unsafe { CStr::from_ptr(chars.as_ptr()) }.to_string_lossy().into_owned();
        Ok(DeviceInfo {
            device: d.device,
            compute_major: d.compute_major,
            compute_minor: d.compute_minor,
            multiprocessors: d.multiprocessors,
            threads: d.threads,
            shared_memory_bytes: d.shared_memory_bytes,
            l2_bytes: d.l2_bytes,
            name: text(&d.name),
            image: text(&d.image),
        })
    }

    fn query_call(&self, call: &Call, op: Op) -> Result<sys::flashqla_query_info> {
        let mut info: sys::flashqla_query_info = unsafe { zeroed() };
        info.struct_size = size_of::<sys::flashqla_query_info>() as u32;
        check(unsafe { sys::flashqla_query(self.raw.as_ptr(), &call.problem, &call.sequences, call.state(), op.0, &mut info) })?;
        Ok(info)
    }

    /// Whether and how a call of these bounds would run. Looks at no contents and no lengths.
    pub fn query(&self, problem: &Problem, sequences: &Sequences, state: Option<&State>, op: Op) -> Result<QueryInfo> {
        let info = self.query_call(&Call::new(problem, sequences, state), op)?;
        Ok(QueryInfo {
            status: Status(info.status),
            engine: Engine(info.engine),
            launches: info.launches,
            workspace_bytes: info.workspace_bytes,
            saved_bytes: info.saved_bytes,
            engine_name: forever(info.engine_name),
            reason: unsafe { CStr::from_ptr(info.reason) }.to_string_lossy().into_owned(),
        })
    }

    /// The plan as text, for people.
    pub fn explain(&self, problem: &Problem, sequences: &Sequences, state: Option<&State>, op: Op) -> Result<String> {
        let call = Call::new(problem, sequences, state);
        let explain = |text: *mut c_char, capacity: usize, needed: &mut usize| {
            let (handle, state) = (self.raw.as_ptr(), call.state());
            check(unsafe { sys::flashqla_explain(handle, &call.problem, &call.sequences, state, op.0, text, capacity, needed) })
        };
        let mut needed = 0;
        explain(null_mut(), 0, &mut needed)?;
        let mut text = vec![0u8; needed];
        explain(text.as_mut_ptr().cast(), text.len(), &mut needed)?;
        let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        Ok(String::from_utf8_lossy(&text[..end]).into_owned())
    }

    /// Loads every kernel that calls of this problem (None: any) may need into the current context.
    pub fn warmup(&self, problem: Option<&Problem>, op: Op) -> Result<()> {
        let raw = problem.map(Problem::raw);
        check(unsafe { sys::flashqla_warmup(self.raw.as_ptr(), raw.as_ref().map_or(null(), |p| p), op.0) })
    }

    /// Prefill, decode, verify, mixed batches: writes `args.out` and the states.
    #[allow(non_snake_case)]
    pub fn forward(
        &self,
        problem: &Problem,
        sequences: &Sequences,
        state: Option<&mut State>,
        args: &mut ForwardArgs,
        workspace: Output,
        stream: &Stream,
    ) -> Result<()> {
        let state = state.as_deref();
        let call = Call::new(problem, sequences, state);
        let l = Lengths::new(self.device, problem, sequences);
        let raw = (|| {
            let ([q, k, v, gate, beta, A_log, dt_bias], (work, work_bytes)) = self.common(
                &l,
                sequences,
                state,
                [&args.q.view, &args.k.view, &args.v.view, &args.gate.view, &args.beta.view, &args.A_log.view, &args.dt_bias.view],
                &workspace.view,
            )?;
            let out = l.per_token("args.out", &args.out.view, l.hv, l.v)?;
            let (saved, saved_bytes) = l.bytes("args.saved", &args.saved.view)?;
            let struct_size = size_of::<sys::flashqla_forward_args>() as u32;
            let raw = sys::flashqla_forward_args { struct_size, reserved: 0, q, k, v, gate, beta, A_log, dt_bias, out, saved, saved_bytes };
            Ok((raw, work, work_bytes))
        })();
        let (raw, work, work_bytes) = self.or_library(raw, &call, Op::FORWARD)?;
        let (handle, state) = (self.raw.as_ptr(), call.state());
        check(unsafe { sys::flashqla_forward(handle, &call.problem, &call.sequences, state, &raw, work, work_bytes, stream.raw()) })
    }

    /// From dL/dout and dL/d(final state) to the gradients asked for. Of the states, only the reading side is used.
    #[allow(non_snake_case)]
    pub fn backward(
        &self,
        problem: &Problem,
        sequences: &Sequences,
        state: Option<&State>,
        args: &mut BackwardArgs,
        workspace: Output,
        stream: &Stream,
    ) -> Result<()> {
        let call = Call::new(problem, sequences, state);
        let l = Lengths::new(self.device, problem, sequences);
        let raw = (|| {
            let ([q, k, v, gate, beta, A_log, dt_bias], (work, work_bytes)) = self.common(
                &l,
                sequences,
                state,
                [&args.q.view, &args.k.view, &args.v.view, &args.gate.view, &args.beta.view, &args.A_log.view, &args.dt_bias.view],
                &workspace.view,
            )?;
            let (saved, saved_bytes) = l.bytes("args.saved", &args.saved.view)?;
            let raw = sys::flashqla_backward_args {
                struct_size: size_of::<sys::flashqla_backward_args>() as u32,
                reserved: 0,
                q,
                k,
                v,
                gate,
                beta,
                A_log,
                dt_bias,
                d_out: l.per_token("args.d_out", &args.d_out.view, l.hv, l.v)?,
                d_final: l.per_row("args.d_final", &args.d_final.view)?,
                dq: l.per_token("args.dq", &args.dq.view, l.hk, l.k)?,
                dk: l.per_token("args.dk", &args.dk.view, l.hk, l.k)?,
                dv: l.per_token("args.dv", &args.dv.view, l.hv, l.v)?,
                d_gate: l.per_token("args.d_gate", &args.d_gate.view, l.hv, 1.0)?,
                d_beta: l.per_token("args.d_beta", &args.d_beta.view, l.hv, 1.0)?,
                dA_log: l.per_head("args.dA_log", &args.dA_log.view)?,
                ddt_bias: l.per_head("args.ddt_bias", &args.ddt_bias.view)?,
                d_initial: l.per_row("args.d_initial", &args.d_initial.view)?,
                saved,
                saved_bytes,
            };
            Ok((raw, work, work_bytes))
        })();
        let (raw, work, work_bytes) = self.or_library(raw, &call, Op::BACKWARD)?;
        let (handle, state) = (self.raw.as_ptr(), call.state());
        check(unsafe { sys::flashqla_backward(handle, &call.problem, &call.sequences, state, &raw, work, work_bytes, stream.raw()) })
    }

    /// What forward and backward have in common: the inputs and the workspace in C's words.
    #[allow(clippy::type_complexity)]
    fn common(
        &self,
        l: &Lengths,
        sequences: &Sequences,
        state: Option<&State>,
        [q, k, v, gate, beta, a_log, dt_bias]: [&View; 7],
        workspace: &View,
    ) -> Result<([sys::flashqla_tensor; 7], (*mut c_void, u64))> {
        l.offsets(sequences)?;
        state.map_or(Ok(()), |s| l.state(s))?;
        let inputs = [
            l.per_token("args.q", q, l.hk, l.k)?,
            l.per_token("args.k", k, l.hk, l.k)?,
            l.per_token("args.v", v, l.hv, l.v)?,
            l.per_token("args.gate", gate, l.hv, 1.0)?,
            l.per_token("args.beta", beta, l.hv, 1.0)?,
            l.per_head("args.A_log", a_log)?,
            l.per_head("args.dt_bias", dt_bias)?,
        ];
        Ok((inputs, l.bytes("workspace", workspace)?))
    }

    /// A refusal of this crate's gives way to one of the library's: where a size is wrong, that one says more.
    fn or_library<T>(&self, result: Result<T>, call: &Call, op: Op) -> Result<T> {
        if result.is_err() {
            self.query_call(call, op)?;
        }
        result
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        unsafe { sys::flashqla_destroy(self.raw.as_ptr()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dtype, Input, CPU};

    #[test]
    fn memory_of_another_device_is_refused() {
        let handle = Handle::new(Config { device: CPU, threads: 1, ..Config::default() }).unwrap();
        let problem = Problem { key_heads: 1, value_heads: 1, key_dim: 1, value_dim: 1, dtype: Dtype::F32, ..Problem::default() };
        let sequences = Sequences { rows: 1, tokens: 1, ..Sequences::default() };
        let x = [0f32];
        let mut args = ForwardArgs { q: unsafe { Input::from_raw(x.as_ptr(), 1, 3) }, ..ForwardArgs::default() };
        let refused = handle.forward(&problem, &sequences, None, &mut args, Output::default(), &Stream::DEFAULT).unwrap_err();
        assert_eq!(refused.message, "args.q is memory of CUDA device 3: the handle is of the CPU");
    }

    #[test]
    fn a_stream_on_the_cpu_is_refused() {
        let handle = Handle::new(Config { device: CPU, threads: 1, ..Config::default() }).unwrap();
        let problem = Problem { key_heads: 1, value_heads: 1, key_dim: 1, value_dim: 1, ..Problem::default() };
        let mut nothing = 0u64;
        let stream = unsafe { Stream::from_raw((&mut nothing as *mut u64).cast()) };
        let refused =
            handle.forward(&problem, &Sequences::default(), None, &mut ForwardArgs::default(), Output::default(), &stream).unwrap_err();
        assert_eq!(refused.status, Status::INVALID_ARGUMENT);
        assert!(refused.message.contains("stream"), "{}", refused);
    }
}
