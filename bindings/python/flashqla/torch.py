"""Gated DeltaNet for torch, with the signatures of flash-linear-attention's operators, and autograd.

Tensors may be on the CPU or on CUDA, of float32, bfloat16, float16 or (CPU) float64. Work goes to torch's current stream, memory comes
from torch's allocator, nothing waits for the device, and cu_seqlens stays there. The operators are registered with torch, so
torch.compile (fullgraph) and CUDA graphs take them. Gradients of gradients are not there."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import warnings
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, library

from ._abi import DEVICE_CPU, GRADIENTS, Beta, DType, Engine, Gate, NoContext, Norm, Op, Problem, StateLayout
from ._handle import ALIGNMENT, Handle, Sequences, State
from ._tensors import Tensor as Description
from .device import Device

__all__ = ["chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule", "handle"]

if not hasattr(library, "register_autograd"):
    raise ImportError(f"flashqla.torch needs torch 2.4 or newer, this is {torch.__version__}")

# ---- handles: one a device, made at its first use

_handles: dict[int, Handle] = {}
_making = threading.Lock()
_nothing = contextlib.nullcontext()
if hasattr(os, "register_at_fork"):  # a child makes its own
    os.register_at_fork(after_in_child=_handles.clear)


def handle(device: torch.device) -> Handle:
    """The handle that the operators use for tensors of this device."""
    ordinal = DEVICE_CPU if device.type == "cpu" else torch.cuda.current_device() if device.index is None else device.index
    found = _handles.get(ordinal)
    if found is None:
        with _making:
            found = _handles.get(ordinal)
            if found is None:
                found = _handles[ordinal] = Handle(ordinal)
                if ordinal != DEVICE_CPU:
                    _with_context(ordinal, found.warmup)  # every kernel, so that a later capture finds all loaded
    return found


def _with_context(ordinal: int, call: Any, *arguments: Any, **keywords: Any) -> None:
    """Calls, with the device's context current on this thread: torch makes it so only when it first touches the device there."""
    try:
        call(*arguments, **keywords)
    except NoContext:
        Device(ordinal)  # torch uses the primary context too; it is retained for good, as torch does
        call(*arguments, **keywords)


# ---- the ops' arguments, in the order of their schemas


class _Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    beta: Tensor
    A_log: Optional[Tensor]
    dt_bias: Optional[Tensor]
    initial_state: Optional[Tensor]
    cu_seqlens: Optional[Tensor]


class _Form(NamedTuple):
    max_seqlen: int
    scale: float
    l2norm: bool
    beta_logit: bool
    beta_scale: float
    v_first: bool


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor g, Tensor beta, Tensor? A_log, Tensor? dt_bias, Tensor? initial_state, Tensor? cu_seqlens"
_FORM = "SymInt max_seqlen, float scale, bool l2norm, bool beta_logit, float beta_scale, bool v_first"
_SPLIT = len(_Inputs._fields), len(_Inputs._fields) + len(_Form._fields)
_DIFFERENTIABLE = len(_Inputs._fields) - 1  # all but cu_seqlens
_DTYPES = {torch.float32: DType.F32, torch.bfloat16: DType.BF16, torch.float16: DType.F16, torch.float64: DType.F64}


def _split(arguments: tuple) -> tuple[_Inputs, _Form, tuple]:
    return _Inputs(*arguments[: _SPLIT[0]]), _Form(*arguments[_SPLIT[0] : _SPLIT[1]]), arguments[_SPLIT[1] :]


# ---- from torch's arguments to the library's


@functools.lru_cache(maxsize=256)
def _problem_of(dtype: torch.dtype, heads: int, K: int, value_heads: int, V: int, raw: bool, form: _Form, engine: int) -> Problem:
    if dtype not in _DTYPES:
        raise TypeError(f"q: {dtype}: must be float32, bfloat16, float16 or float64")
    return Problem(
        key_heads=heads,
        value_heads=value_heads,
        key_dim=K,
        value_dim=V,
        dtype=_DTYPES[dtype],
        gate=Gate.RAW if raw else Gate.LOG,
        beta=Beta.LOGIT if form.beta_logit else Beta.VALUE,
        qk_norm=Norm.L2 if form.l2norm else Norm.NONE,
        state_layout=StateLayout.VK if form.v_first else StateLayout.KV,
        engine=engine,
        beta_scale=form.beta_scale,
        scale=form.scale,
    )


def _problem(x: _Inputs, form: _Form, engine: int) -> Problem:
    (_, _, heads, K), (_, _, value_heads, V) = x.q.shape, x.v.shape
    return _problem_of(x.q.dtype, heads, K, value_heads, V, x.A_log is not None, form, engine)


def _rows(x: _Inputs) -> int:
    return x.q.shape[0] if x.cu_seqlens is None else x.cu_seqlens.shape[0] - 1


def _sequences(x: _Inputs, form: _Form) -> Sequences:
    batch, length = x.q.shape[:2]
    return Sequences(_rows(x), batch * length, form.max_seqlen if x.cu_seqlens is not None else 0, x.cu_seqlens)


def _walkable(x: Tensor, by_tensor_cores: bool = False) -> Tensor:
    """x, or a copy where the library could not read it (last dimension not contiguous, repeated elements), or, for q, k and v, where
    tensor cores could not (16 bytes): the copy costs less than the engine that could."""
    if x.is_contiguous():
        good = True
    elif by_tensor_cores:
        element = 16 // x.element_size()
        good = x.stride(-1) == 1 and all(s > 0 and s % element == 0 for s in x.stride()[:-1])
    else:
        good = all(s > 0 for s in x.stride())
    if good and (not by_tensor_cores or x.data_ptr() % 16 == 0):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def _packed(x: Optional[Tensor]) -> Optional[Tensor]:
    return None if x is None else x.contiguous()


_sizes: dict[tuple, int] = {}


def _workspace_bytes(user: Handle, op: Op, x: _Inputs, form: _Form, engine: int, state: State) -> int:
    """What query says, remembered: planning takes as long as launching."""
    shapes = x.q.dtype, x.q.shape, x.v.shape, x.A_log is None, _rows(x), x.cu_seqlens is None
    key = (user.info.device, op, shapes, form, engine, state.read is None, state.write is None)
    size = _sizes.get(key)
    if size is None:
        if len(_sizes) >= 4096:
            _sizes.clear()
        size = _sizes[key] = user.query(_problem(x, form, engine), _sequences(x, form), state, op).workspace_bytes
    return size


def _buffer(size: int, device: torch.device) -> Tensor:
    memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=device)  # on the CPU torch aligns to less
    start = -memory.data_ptr() % ALIGNMENT
    return memory[start : start + size]


def _run(
    op: Op, x: _Inputs, form: _Form, engine: int, final: Optional[Tensor], saved: Optional[Tensor], others: dict[str, Optional[Tensor]]
) -> None:
    """Forward or backward on x; `others` are the tensors that only one of them has."""
    device = x.q.device
    user = handle(device)
    ordinal = user.info.device

    arguments: dict[str, Any] = dict(
        q=_walkable(x.q, True),
        k=_walkable(x.k, True),
        v=_walkable(x.v, True),
        gate=_walkable(x.g),
        beta=_walkable(x.beta),
        A_log=_packed(x.A_log),
        dt_bias=_packed(x.dt_bias),
        state=State(_packed(x.initial_state), final),
        saved=saved if saved is not None and saved.numel() else None,
        **others,
    )
    size = _workspace_bytes(user, op, x, form, engine, arguments["state"])
    arguments["workspace"] = _buffer(size, device) if size else None
    problem, sequences, call = _problem(x, form, engine), _sequences(x, form), user.forward if op == Op.FORWARD else user.backward
    if ordinal == DEVICE_CPU:
        call(problem, sequences, **arguments)
        return
    stream = torch.cuda.current_stream(ordinal).cuda_stream
    with torch.cuda.device(ordinal) if ordinal != torch.cuda.current_device() else _nothing:
        _with_context(ordinal, call, problem, sequences, stream=stream, **arguments)


def _state_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _per_token(x: _Inputs, like: Tensor, dtype: torch.dtype) -> Tensor:
    """An output. Tokens outside every row are not written: where there may be such they are zeros."""
    return like.new_empty(like.shape, dtype=dtype) if x.cu_seqlens is None else like.new_zeros(like.shape, dtype=dtype)


# ---- the ops. define and impl rather than custom_op, which takes 30 us longer a call (torch 2.11).

_ops = library.Library("flashqla", "DEF")

# The forward: out, final state, saved. Results that are not asked for are empty tensors, since an op has no optional results.
_ops.define(f"gated_delta_rule({_INPUTS}, {_FORM}, int engine, bool output_final, SymInt saved_bytes) -> (Tensor, Tensor, Tensor)")


def _forward_fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, form, (_, output_final, saved_bytes) = _split(arguments)
    (heads, V), K = x.v.shape[2:], x.q.shape[3]
    final = (_rows(x), heads, V, K) if form.v_first else (_rows(x), heads, K, V)
    return (
        _per_token(x, x.v, x.q.dtype),
        x.q.new_empty(final if output_final else (0,), dtype=_state_dtype(x.q)),
        x.q.new_empty((saved_bytes,), dtype=torch.uint8),
    )


def _forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, form, (engine, output_final, _) = _split(arguments)
    out, final, saved = _forward_fake(*arguments)
    _run(Op.FORWARD, x, form, engine, final if output_final else None, saved, {"out": out})
    return out, final, saved


# The backward: a gradient for each differentiable input, empty where `wanted` does not ask for it.
_ops.define(
    f"gated_delta_rule_backward({_INPUTS}, {_FORM}, Tensor d_out, Tensor? d_final, Tensor saved, bool[] wanted) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _backward_fake(*arguments: Any) -> tuple[Tensor, ...]:
    x, _, (_, _, _, wanted) = _split(arguments)
    gradients: list[Tensor] = []
    for like, want, per_token in zip(x, wanted, (True, True, True, True, True, False, False, False)):
        if like is None or not want:
            gradients.append(x.q.new_empty((0,)))
        else:
            gradients.append(_per_token(x, like, like.dtype) if per_token else like.new_empty(like.shape))
    return tuple(gradients)


def _backward(*arguments: Any) -> tuple[Tensor, ...]:
    x, form, (d_out, d_final, saved, wanted) = _split(arguments)
    gradients = _backward_fake(*arguments)
    named: dict[str, Optional[Tensor]] = {name: gradient for name, gradient, want in zip(GRADIENTS, gradients, wanted) if want}
    _run(Op.BACKWARD, x, form, Engine.AUTO, None, saved, {"d_out": _walkable(d_out, True), "d_final": _packed(d_final), **named})
    return gradients


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    x, form, _ = _split(inputs)
    ctx.save_for_backward(*x, output[2])
    ctx.form = form


def _differentiate(ctx: Any, d_out: Optional[Tensor], d_final: Optional[Tensor], d_saved: Any) -> tuple:
    *inputs, saved = ctx.saved_tensors  # once: checkpointing counts
    x = _Inputs(*inputs)
    wanted = [tensor is not None and need for tensor, need in zip(x[:_DIFFERENTIABLE], ctx.needs_input_grad)]
    if d_out is None:
        d_out = torch.zeros_like(x.v, dtype=x.q.dtype)
    gradients = torch.ops.flashqla.gated_delta_rule_backward.default(*x, *ctx.form, d_out, d_final, saved, wanted)
    rest = [None] * (len(ctx.needs_input_grad) - _DIFFERENTIABLE)
    return (*(gradient if want else None for gradient, want in zip(gradients, wanted)), *rest)


def _refuse_second(ctx: Any, *gradients: Any) -> tuple:
    raise NotImplementedError("flashqla: gradients of gradients are not supported")


for _name, _implementation, _fake in (
    ("gated_delta_rule", _forward, _forward_fake),
    ("gated_delta_rule_backward", _backward, _backward_fake),
):
    for _key in ("CPU", "CUDA"):
        _ops.impl(_name, _implementation, _key)
    library.register_fake(f"flashqla::{_name}", _fake, lib=_ops)
library.register_autograd("flashqla::gated_delta_rule", _differentiate, setup_context=_setup_context, lib=_ops)
library.register_autograd("flashqla::gated_delta_rule_backward", _refuse_second, lib=_ops)

# ---- the functions


def _form(
    scale: Optional[float], max_seqlen: Optional[int], l2norm: bool, beta_logit: bool, allow_neg_eigval: bool, v_first: bool, others: dict
) -> _Form:
    """`others` are arguments that flash-linear-attention has had: taken where they change nothing, else refused."""
    if "transpose_state_layout" in others:
        warnings.warn("transpose_state_layout is now called state_v_first", DeprecationWarning, stacklevel=3)
        v_first = others.pop("transpose_state_layout")
    if others.pop("head_first", False):
        raise ValueError("head_first: inputs must be [B, T, H, ...]")
    others.pop("chunk_size", None)  # the library chooses its own
    if others:
        raise TypeError(f"unexpected arguments: {', '.join(others)}")
    if allow_neg_eigval and not beta_logit:
        raise ValueError("allow_neg_eigval needs use_beta_sigmoid_in_kernel: otherwise beta is taken as it stands, up to 2")
    if scale == 0:
        raise ValueError("scale: must not be 0")
    return _Form(max_seqlen or 0, scale or 0.0, l2norm, beta_logit, 2.0 if allow_neg_eigval else 1.0, v_first)


def _inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor],
    beta: Optional[Tensor],
    gate: tuple[bool, Optional[Tensor], Optional[Tensor]],
    initial_state: Optional[Tensor],
    cu_seqlens: Optional[Tensor],
) -> _Inputs:
    """Checks what the library cannot see, and fills in defaults. `gate` is use_gate_in_kernel, A_log, dt_bias."""
    for name, tensor, rank in (("q", q, 4), ("k", k, 4), ("v", v, 4), ("g", g, 3), ("beta", beta, 3)):
        if tensor is not None and tensor.dim() != rank:
            raise ValueError(f"{name}: shape {list(tensor.shape)}: must have {rank} dimensions, [B, T, H{', D' if rank == 4 else ''}]")
    if cu_seqlens is not None:
        rows = cu_seqlens.shape[0] - 1
        if q.shape[0] != 1:
            raise ValueError(f"q: batch of {q.shape[0]}: must be 1 where cu_seqlens cuts the tokens into rows")
        if initial_state is not None and initial_state.shape[0] != rows:
            raise ValueError(f"initial_state: {initial_state.shape[0]} states: must be one for each of the {rows} rows of cu_seqlens")
    raw, A_log, dt_bias = gate
    if not raw:
        A_log = dt_bias = None
    elif A_log is None or g is None:
        raise ValueError("use_gate_in_kernel needs g and A_log")
    elif dt_bias is None:
        dt_bias = torch.zeros_like(A_log)
    if g is None:
        g = torch.zeros(v.shape[:3], dtype=_state_dtype(q), device=v.device)
    if beta is None:
        beta = torch.ones(v.shape[:3], dtype=q.dtype, device=v.device)
    if initial_state is not None:
        initial_state = initial_state.to(_state_dtype(q))
    return _Inputs(q, k, v, g, beta, A_log, dt_bias, initial_state, cu_seqlens)


def _call(x: _Inputs, form: _Form, engine: Engine, output_final_state: bool, save: bool = False) -> tuple[Tensor, Optional[Tensor]]:
    saved_bytes = _saved_bytes(x, form) if save and not torch.compiler.is_compiling() else 0
    out, final, _ = torch.ops.flashqla.gated_delta_rule.default(*x, *form, engine, output_final_state, saved_bytes)
    return out, final if output_final_state else None


def _saved_bytes(x: _Inputs, form: _Form) -> int:
    """What a forward is to keep for the backward to come. Compiled graphs keep nothing: the size is the library's to tell, and shapes may
    be symbols there; the gradients are the same."""
    if not x.q.is_cuda or not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in x):
        return 0
    user = handle(x.q.device)
    sequences = _sequences(x, form)
    if x.cu_seqlens is not None:  # a query only asks whether there are offsets
        sequences.offsets = Description(ALIGNMENT, DType.I32, (sequences.rows + 1,), (1,), user.info.device)
    return user.query(_problem(x, form, Engine.AUTO), sequences, None, Op.FORWARD).saved_bytes


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Optional[Tensor] = None,
    cu_seqlens_cpu: Optional[Tensor] = None,
    chunk_indices: Optional[Tensor] = None,
    cp_context: Any = None,
    *,
    use_gate_in_kernel: bool = False,
    A_log: Optional[Tensor] = None,
    dt_bias: Optional[Tensor] = None,
    max_seqlen: Optional[int] = None,
    save_for_backward: bool = False,
    **others: Any,
) -> tuple[Tensor, Optional[Tensor]]:
    """Gated DeltaNet over whole rows, by whichever engine suits.

    q, k [B, T, H, K]; v [B, T, HV, V], HV a multiple of H; g, beta [B, T, HV]; initial_state [N, HV, K, V], or [N, HV, V, K] with
    state_v_first. With cu_seqlens [N + 1] B is 1 and row n is tokens cu_seqlens[n] to cu_seqlens[n + 1] - 1. g is the log gate, or with
    use_gate_in_kernel what A_log and dt_bias [HV] make one of; beta a value, or with use_beta_sigmoid_in_kernel its logit.
    Returns out [B, T, HV, V] in q's dtype, and the final state in float32, or None.

    max_seqlen promises that no row is longer (rows that are get cut); without it T stands for it, and room is made for that.
    cu_seqlens_cpu tells the same. chunk_indices is not needed and not read.
    save_for_backward keeps what spares the backward a recomputation, 65 KiB for 64 tokens of a value head, where the engine has that."""
    if cp_context is not None:
        raise NotImplementedError("cp_context: rows spread over several devices are not supported")
    if max_seqlen is None and cu_seqlens is not None and cu_seqlens_cpu is not None and not torch.compiler.is_compiling():
        max_seqlen = int((cu_seqlens_cpu[1:] - cu_seqlens_cpu[:-1]).max())
    form = _form(scale, max_seqlen, use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, others)
    inputs = _inputs(q, k, v, g, beta, (use_gate_in_kernel, A_log, dt_bias), initial_state, cu_seqlens)
    return _call(inputs, form, Engine.AUTO, output_final_state, save_for_backward)


def fused_recurrent_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Optional[Tensor] = None,
    gk: Optional[Tensor] = None,
    gv: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    scale: Optional[float] = None,
    initial_state: Optional[Tensor] = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    use_gate_in_kernel: bool = False,
    A_log: Optional[Tensor] = None,
    dt_bias: Optional[Tensor] = None,
    use_beta_sigmoid_in_kernel: bool = False,
    allow_neg_eigval: bool = False,
    state_v_first: bool = False,
    cu_seqlens: Optional[Tensor] = None,
    *,
    max_seqlen: Optional[int] = None,
    **others: Any,
) -> tuple[Tensor, Optional[Tensor]]:
    """The same, token by token in float32: for decoding and short rows, and the most exact for any. It has a backward too."""
    if gk is not None or gv is not None:
        raise NotImplementedError("gk, gv: a gate for each channel is not supported")
    form = _form(scale, max_seqlen, use_qk_l2norm_in_kernel, use_beta_sigmoid_in_kernel, allow_neg_eigval, state_v_first, others)
    inputs = _inputs(q, k, v, g, beta, (use_gate_in_kernel, A_log, dt_bias), initial_state, cu_seqlens)
    return _call(inputs, form, Engine.RECURRENT, output_final_state)
