//! What is computed.

use crate::{check, sys, BetaForm, Dtype, Engine, Form, GateForm, HeadMap, QkNorm, Result, StateLayout};
use std::mem::{size_of, MaybeUninit};

/// What is computed. The default is the plain mathematical form, in which everything but the sizes is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Problem {
    /// HK: heads of q and k.
    pub key_heads: i32,
    /// HV: heads of v, out, gate, beta and states; a multiple of HK.
    pub value_heads: i32,
    /// K, 1 to 256.
    pub key_dim: i32,
    /// V, 1 to 256.
    pub value_dim: i32,
    /// Of q, k, v, out and their gradients. Default: BF16.
    pub dtype: Dtype,
    /// Of states in memory. Default: F32, or F64 where `dtype` is F64.
    pub state_dtype: Dtype,
    /// Which key head a value head reads.
    pub head_map: HeadMap,
    /// What `gate` holds.
    pub gate: GateForm,
    /// What `beta` holds.
    pub beta: BetaForm,
    /// What is done to q and k first.
    pub qk_norm: QkNorm,
    /// Layout of each head's state.
    pub state_layout: StateLayout,
    /// How to compute: for tests, and for bit parity between calls.
    pub engine: Engine,
    /// 0 is 1; 2 allows negative eigenvalues.
    pub beta_scale: f64,
    /// Of the output; 0 is `1 / sqrt(K)`.
    pub scale: f64,
    /// Of the L2 norm; 0 is 1e-6.
    pub eps: f64,
    /// [`crate::problem_flags`]
    pub flags: u64,
}

impl Problem {
    /// The library's starting point of that name.
    pub fn new(form: Form) -> Result<Problem> {
        let mut raw = MaybeUninit::<sys::flashqla_problem>::zeroed();
        check(unsafe { sys::flashqla_problem_init(raw.as_mut_ptr(), size_of::<sys::flashqla_problem>(), form.0) })?;
        let p = unsafe { raw.assume_init() };
        Ok(Problem {
            key_heads: p.key_heads,
            value_heads: p.value_heads,
            key_dim: p.key_dim,
            value_dim: p.value_dim,
            dtype: Dtype(p.dtype),
            state_dtype: Dtype(p.state_dtype),
            head_map: HeadMap(p.head_map),
            gate: GateForm(p.gate),
            beta: BetaForm(p.beta),
            qk_norm: QkNorm(p.qk_norm),
            state_layout: StateLayout(p.state_layout),
            engine: Engine(p.engine),
            beta_scale: p.beta_scale,
            scale: p.scale,
            eps: p.eps,
            flags: p.flags,
        })
    }

    pub(crate) fn raw(&self) -> sys::flashqla_problem {
        sys::flashqla_problem {
            struct_size: size_of::<sys::flashqla_problem>() as u32,
            key_heads: self.key_heads,
            value_heads: self.value_heads,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
            dtype: self.dtype.0,
            state_dtype: self.state_dtype.0,
            head_map: self.head_map.0,
            gate: self.gate.0,
            beta: self.beta.0,
            qk_norm: self.qk_norm.0,
            state_layout: self.state_layout.0,
            engine: self.engine.0,
            reserved: 0,
            beta_scale: self.beta_scale,
            scale: self.scale,
            eps: self.eps,
            flags: self.flags,
        }
    }

    /// What the library takes states for, which no struct tells it again.
    pub(crate) fn state_elements(&self) -> Dtype {
        match (self.state_dtype, self.dtype) {
            (Dtype::DEFAULT, Dtype::F64) => Dtype::F64,
            (Dtype::DEFAULT, _) => Dtype::F32,
            (told, _) => told,
        }
    }
}
