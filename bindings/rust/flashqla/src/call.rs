//! The arguments of a call, and whether memory is as long as the call reaches.

use crate::memory::View;
use crate::{sys, Dtype, Error, Input, Output, Problem, Result};
use std::mem::size_of;
use std::ptr::null;

/// How tokens form rows.
#[derive(Clone, Copy, Default)]
pub struct Sequences<'a> {
    /// N.
    pub rows: i32,
    /// Tokens in all.
    pub tokens: i64,
    /// No row is longer. 0: tokens / rows without offsets, tokens with them.
    pub max_tokens: i64,
    /// `[N + 1]`, `i32` or `i64`, on the handle's device. NULL: rows of equal length.
    pub offsets: Input<'a>,
}

/// A pool of states that is read: elements of `problem.state_dtype`.
#[derive(Clone, Copy)]
pub struct Pool<'a> {
    /// `[slots]` of `[HV, K, V]` or `[HV, V, K]`.
    pub data: Input<'a>,
    /// Slots in it; 0: N.
    pub slots: i64,
    /// Elements from slot to slot; 0: packed.
    pub slot_stride: i64,
}

/// A pool of states that is written: elements of `problem.state_dtype`.
pub struct PoolMut<'a> {
    /// `[slots]` of `[HV, K, V]` or `[HV, V, K]`.
    pub data: Output<'a>,
    /// Slots in it; 0: N.
    pub slots: i64,
    /// Elements from slot to slot; 0: packed.
    pub slot_stride: i64,
}

/// Which pools a call uses.
#[derive(Default)]
pub enum Pools<'a> {
    /// Rows start from zero and no state is stored.
    #[default]
    None,
    /// Rows start from states; none is stored.
    Read(Pool<'a>),
    /// Rows start from zero.
    Write(PoolMut<'a>),
    /// From one pool to another.
    Both(Pool<'a>, PoolMut<'a>),
    /// One pool for both.
    InPlace(PoolMut<'a>),
}

/// Where states are read and written. Tables are `i32` on the handle's device; those that are NULL are not used.
#[derive(Default)]
pub struct State<'a> {
    /// [`crate::state_flags`]
    pub flags: u64,
    /// The states.
    pub pools: Pools<'a>,
    /// `[N]`; NULL: row n reads slot n.
    pub read_slots: Input<'a>,
    /// `[N]`; NULL: row n writes slot n.
    pub write_slots: Input<'a>,
    /// A multiple of 64; 0: no checkpoints.
    pub checkpoint_interval: i64,
    /// `[N, checkpoint_width]`
    pub checkpoint_slots: Input<'a>,
    /// Entries a row.
    pub checkpoint_width: i64,
    /// `[N, token_width]`
    pub token_slots: Input<'a>,
    /// Entries a row.
    pub token_width: i64,
    /// `[N]`
    pub accepted: Input<'a>,
}

/// Tensors of [`crate::Handle::forward`].
#[derive(Default)]
#[allow(non_snake_case)]
pub struct ForwardArgs<'a> {
    /// `[tokens, HK, K]`
    pub q: Input<'a>,
    /// `[tokens, HK, K]`
    pub k: Input<'a>,
    /// `[tokens, HV, V]`
    pub v: Input<'a>,
    /// `[tokens, HV]`
    pub gate: Input<'a>,
    /// `[tokens, HV]`
    pub beta: Input<'a>,
    /// `[HV]`, raw gate only
    pub A_log: Input<'a>,
    /// `[HV]`, raw gate only
    pub dt_bias: Input<'a>,
    /// `[tokens, HV, V]`
    pub out: Output<'a>,
    /// For a later backward: `saved_bytes` of [`crate::Handle::query`], or NULL.
    pub saved: Output<'a>,
}

/// Tensors of [`crate::Handle::backward`]. Gradients that are NULL are not computed.
#[derive(Default)]
#[allow(non_snake_case)]
pub struct BackwardArgs<'a> {
    /// As in the forward.
    pub q: Input<'a>,
    /// As in the forward.
    pub k: Input<'a>,
    /// As in the forward.
    pub v: Input<'a>,
    /// As in the forward.
    pub gate: Input<'a>,
    /// As in the forward.
    pub beta: Input<'a>,
    /// As in the forward.
    pub A_log: Input<'a>,
    /// As in the forward.
    pub dt_bias: Input<'a>,
    /// `[tokens, HV, V]`
    pub d_out: Input<'a>,
    /// By row, `[N, HV, K, V]` or `[N, HV, V, K]`; NULL: zero
    pub d_final: Input<'a>,
    /// `[tokens, HK, K]`
    pub dq: Output<'a>,
    /// `[tokens, HK, K]`
    pub dk: Output<'a>,
    /// `[tokens, HV, V]`
    pub dv: Output<'a>,
    /// `[tokens, HV]`
    pub d_gate: Output<'a>,
    /// `[tokens, HV]`
    pub d_beta: Output<'a>,
    /// `[HV]`, raw gate only
    pub dA_log: Output<'a>,
    /// `[HV]`, raw gate only
    pub ddt_bias: Output<'a>,
    /// By row, as `d_final`
    pub d_initial: Output<'a>,
    /// What the forward saved, or NULL.
    pub saved: Input<'a>,
}

impl Sequences<'_> {
    pub(crate) fn raw(&self) -> sys::flashqla_sequences {
        sys::flashqla_sequences {
            struct_size: size_of::<sys::flashqla_sequences>() as u32,
            rows: self.rows,
            tokens: self.tokens,
            max_tokens: self.max_tokens,
            offsets: self.offsets.view.data,
            offsets_dtype: self.offsets.view.dtype.0,
            reserved: 0,
        }
    }
}

/// A pool of either kind.
type RawPool = (View, i64, i64);

impl Pools<'_> {
    fn raw(&self) -> (Option<RawPool>, Option<RawPool>) {
        let read = |p: &Pool| (p.data.view, p.slots, p.slot_stride);
        let write = |p: &PoolMut| (p.data.view, p.slots, p.slot_stride);
        match self {
            Pools::None => (None, None),
            Pools::Read(a) => (Some(read(a)), None),
            Pools::Write(b) => (None, Some(write(b))),
            Pools::Both(a, b) => (Some(read(a)), Some(write(b))),
            Pools::InPlace(b) => (Some(write(b)), Some(write(b))),
        }
    }
}

impl State<'_> {
    pub(crate) fn raw(&self) -> sys::flashqla_state {
        let none: RawPool = (Input::default().view, 0, 0);
        let (read, write) = self.pools.raw();
        let (read, write) = (read.unwrap_or(none), write.unwrap_or(none));
        let table = |t: &Input| if t.view.data.is_null() { null() } else { t.view.data as *const i32 };
        sys::flashqla_state {
            struct_size: size_of::<sys::flashqla_state>() as u32,
            reserved: 0,
            flags: self.flags,
            read_data: read.0.data,
            read_slots_count: read.1,
            read_slot_stride: read.2,
            read_slots: table(&self.read_slots),
            write_data: write.0.data,
            write_slots_count: write.1,
            write_slot_stride: write.2,
            write_slots: table(&self.write_slots),
            checkpoint_interval: self.checkpoint_interval,
            checkpoint_slots: table(&self.checkpoint_slots),
            checkpoint_width: self.checkpoint_width,
            token_slots: table(&self.token_slots),
            token_width: self.token_width,
            accepted: table(&self.accepted),
        }
    }
}

/// Extents of one call, as floating-point numbers: exact for any memory there is, and nothing overflows. What is negative makes a reach
/// that is too small, or none: the library refuses such a call by itself.
pub(crate) struct Lengths {
    device: i32,
    state_dtype: Dtype,
    n: f64,
    rows: f64,
    tokens: f64,
    pub hk: f64,
    pub hv: f64,
    pub k: f64,
    pub v: f64,
}

impl Lengths {
    pub fn new(device: i32, p: &Problem, s: &Sequences) -> Lengths {
        let n = f64::from(s.rows);
        let rows = if s.offsets.view.data.is_null() { n } else { 1.0 };
        let tokens = if n == 0.0 { 0.0 } else { s.tokens as f64 / rows };
        let [hk, hv, k, v] = [p.key_heads, p.value_heads, p.key_dim, p.value_dim].map(f64::from);
        Lengths { device, state_dtype: p.state_elements(), n, rows, tokens, hk, hv, k, v }
    }

    fn place(&self, name: &str, m: &View) -> Result<()> {
        if m.data.is_null() || m.device == self.device {
            return Ok(());
        }
        let told = |device: i32| if device < 0 { "the CPU".to_string() } else { format!("CUDA device {}", device) };
        Err(Error::invalid(format!("{} is memory of {}: the handle is of {}", name, told(m.device), told(self.device))))
    }

    fn fits(&self, name: &str, m: &View, dtype: Dtype, reach: f64) -> Result<()> {
        self.place(name, m)?;
        if m.data.is_null() || (m.dtype == dtype && m.elements as f64 >= reach) {
            return Ok(());
        }
        Err(Error::invalid(format!("{} has {} elements of dtype {}: must be {} of dtype {}", name, m.elements, m.dtype.0, reach, dtype.0)))
    }

    fn walk(&self, name: &str, m: &View, [rows, tokens, heads, dim]: [f64; 4]) -> Result<sys::flashqla_tensor> {
        let [row, token, head] = m.strides.map(|s| s as f64);
        let reach = if m.strides == [0; 3] || rows * tokens == 0.0 {
            rows * tokens * heads * dim
        } else {
            (rows - 1.0) * row + (tokens - 1.0) * token + (heads - 1.0) * head + dim
        };
        self.fits(name, m, m.dtype, reach)?;
        Ok(m.tensor())
    }

    /// `[tokens, heads, dim]`
    pub fn per_token(&self, name: &str, m: &View, heads: f64, dim: f64) -> Result<sys::flashqla_tensor> {
        self.walk(name, m, [self.rows, self.tokens, heads, dim])
    }

    /// `[HV]`
    pub fn per_head(&self, name: &str, m: &View) -> Result<sys::flashqla_tensor> {
        self.walk(name, m, [1.0, 1.0, self.hv, 1.0])
    }

    /// `[N, HV, K, V]`
    pub fn per_row(&self, name: &str, m: &View) -> Result<sys::flashqla_tensor> {
        self.walk(name, m, [self.n, 1.0, self.hv, self.k * self.v])
    }

    /// Workspace and saved: the library knows how long they must be.
    pub fn bytes(&self, name: &str, m: &View) -> Result<(*mut std::ffi::c_void, u64)> {
        self.place(name, m)?;
        Ok((m.data, m.bytes as u64))
    }

    pub fn offsets(&self, s: &Sequences) -> Result<()> {
        self.fits("sequences.offsets", &s.offsets.view, s.offsets.view.dtype, self.n + 1.0)
    }

    pub fn state(&self, s: &State) -> Result<()> {
        let (read, write) = s.pools.raw();
        for (name, pool) in [("state.read_data", read), ("state.write_data", write)] {
            if let Some((data, slots, stride)) = pool {
                let packed = self.hv * self.k * self.v;
                let slots = if slots == 0 { self.n } else { slots as f64 };
                let stride = if stride == 0 { packed } else { stride as f64 };
                let reach = if slots == 0.0 { 0.0 } else { (slots - 1.0) * stride + packed };
                self.fits(name, &data, self.state_dtype, reach)?;
            }
        }
        let table = |name: &str, t: &Input, width: f64| self.fits(name, &t.view, Dtype::I32, self.n * width);
        table("state.read_slots", &s.read_slots, 1.0)?;
        table("state.write_slots", &s.write_slots, 1.0)?;
        table("state.checkpoint_slots", &s.checkpoint_slots, s.checkpoint_width as f64)?;
        table("state.token_slots", &s.token_slots, s.token_width as f64)?;
        table("state.accepted", &s.accepted, 1.0)
    }
}
