"""Handles and the operations on them."""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from typing import Any, Callable, NamedTuple, Optional, Union

from . import _abi
from ._abi import DType, Engine, InvalidArgument, Op, Problem, Status, check, library
from ._tensors import Reader, Tensor

ALIGNMENT = 256  # of the workspace and of `saved`


class DeviceInfo(NamedTuple):
    device: int  # -1: the CPU; else the CUDA ordinal
    compute_major: int
    compute_minor: int
    multiprocessors: int
    threads: int
    shared_memory_bytes: int
    l2_bytes: int
    name: str
    image: str


class QueryInfo(NamedTuple):
    status: Status  # OK or UNSUPPORTED: what a call would return for reasons known now
    engine: Engine
    launches: int
    workspace_bytes: int
    saved_bytes: int
    engine_name: str
    reason: str


@dataclass
class Sequences:
    """How tokens form rows: `rows` equal ones, or as the device array `offsets` [rows + 1] says."""

    rows: int
    tokens: int
    max_tokens: int = 0
    offsets: Any = None


@dataclass
class State:
    """Where states are read and written: pools [slots, HV, K, V] or [slots, HV, V, K] with tables of slots, as the header says."""

    read: Any = None
    write: Any = None
    read_slots: Any = None
    write_slots: Any = None
    checkpoint_interval: int = 0
    checkpoint_slots: Any = None
    token_slots: Any = None
    accepted: Any = None
    store_final: bool = True


class Handle:
    """A device and its kernels. `device`: "cpu", "cuda", "cuda:1", an ordinal, or None for the best there is. Use it in a `with`, or
    close() it; calls that are running then finish first. Any number of threads may use one."""

    def __init__(self, device: Union[str, int, None] = None, threads: int = 0, log: Optional[Callable[[int, str], None]] = None) -> None:
        self._pointer: Optional[int] = None
        self._calls, self._closed, self._pid, self._lock = 0, False, os.getpid(), threading.Lock()
        config = _abi.Config(device=_ordinal(device), threads=threads)
        if log:
            self._log = _abi.LogFunction(lambda user, level, message: log(level, message.decode()))  # lives as long as the handle
            config.log = self._log
        made = ctypes.c_void_p()
        check(library().flashqla_create(ctypes.byref(made), ctypes.byref(config)))
        self._pointer = made.value
        info = _abi.DeviceStruct(ctypes.sizeof(_abi.DeviceStruct))
        check(library().flashqla_device_info(made, ctypes.byref(info)))
        self.info = DeviceInfo(
            info.device,
            info.compute_major,
            info.compute_minor,
            info.multiprocessors,
            info.threads,
            info.shared_memory_bytes,
            info.l2_bytes,
            info.name.decode(),
            info.image.decode(),
        )

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_pointer", None):
            self.close()

    def close(self) -> None:
        """Frees the handle, now or when the last call inside it returns. Closing twice does nothing."""
        with self._lock:
            self._closed = True
        self._release()

    def _release(self) -> None:
        with self._lock:
            pointer = None
            if self._closed and not self._calls:
                pointer, self._pointer = self._pointer, None
        if pointer and self._pid == os.getpid():  # a forked child has the pointer and not the threads behind it
            library().flashqla_destroy(pointer)

    def _call(self, function: Any, *arguments: Any) -> None:
        """Calls a function of the library with this handle, which cannot go meanwhile."""
        if self._pid != os.getpid():
            raise InvalidArgument(f"handle: belongs to process {self._pid}, which forked this one: make a handle here")
        with self._lock:
            pointer = None if self._closed else self._pointer
            self._calls += 1
        try:
            check(function(pointer, *arguments))  # a closed handle is NULL, which the library refuses
        finally:
            with self._lock:
                self._calls -= 1
            if self._closed:
                self._release()

    # ---- queries

    def query(self, problem: Problem, sequences: Sequences, state: Optional[State] = None, op: Op = Op.FORWARD) -> QueryInfo:
        """Whether and how a call of these bounds would run, and what memory it wants. Touches no device."""
        reader = self._reader(sequences, 0)
        info = self._query(problem, _sequences(reader, sequences), _state(reader, problem, state), op)
        return QueryInfo(
            Status(info.status),
            Engine(info.engine),
            info.launches,
            info.workspace_bytes,
            info.saved_bytes,
            (info.engine_name or b"").decode(),
            (info.reason or b"").decode(),
        )

    def _query(self, problem: Problem, sequences: _abi.SequencesStruct, state: Optional[_abi.StateStruct], op: int) -> _abi.QueryInfoStruct:
        info = _abi.QueryInfoStruct(ctypes.sizeof(_abi.QueryInfoStruct))
        self._call(library().flashqla_query, _ref(problem), _ref(sequences), _ref(state), op, ctypes.byref(info))
        return info

    def explain(self, problem: Problem, sequences: Sequences, state: Optional[State] = None, op: Op = Op.FORWARD) -> str:
        """The plan of such a call as text, for people."""
        reader = self._reader(sequences, 0)
        described = _ref(problem), _ref(_sequences(reader, sequences)), _ref(_state(reader, problem, state)), op
        needed = ctypes.c_size_t()
        self._call(library().flashqla_explain, *described, None, 0, ctypes.byref(needed))
        text = ctypes.create_string_buffer(needed.value)
        self._call(library().flashqla_explain, *described, text, needed.value, None)
        return text.value.decode()

    def warmup(self, problem: Optional[Problem] = None, op: Op = Op.FORWARD) -> None:
        """Loads into the current CUDA context the kernels that such calls may need (no problem: all), so that they can be captured."""
        self._call(library().flashqla_warmup, _ref(problem), op)

    # ---- operations. Tensors are torch's, numpy's, any that speak DLPack, or flashqla.Tensor; shapes are the header's, and rows of equal
    # length may have a dimension of their own. Nothing is copied. On CUDA the caller keeps tensors alive until the work is done, and gives
    # the workspace; on the CPU one is made when none is given. A workspace may also be a function from bytes to a tensor of so many.

    def forward(
        self,
        problem: Problem,
        sequences: Sequences,
        *,
        q: Any,
        k: Any,
        v: Any,
        gate: Any,
        beta: Any,
        out: Any,
        A_log: Any = None,
        dt_bias: Any = None,
        state: Optional[State] = None,
        saved: Any = None,
        workspace: Any = None,
        stream: int = 0,
    ) -> None:
        """Writes `out` and the states. `stream` is a CUstream as an integer."""
        reader = self._reader(sequences, stream)
        inputs = _inputs(reader, problem, q, k, v, gate, beta, A_log, dt_bias)
        target = reader.per_token("args.out", out, problem.value_heads, problem.value_dim, True)
        args = _abi.ForwardArgs(ctypes.sizeof(_abi.ForwardArgs), 0, *inputs, target, *reader.bytes("args.saved", saved, True))
        self._run(library().flashqla_forward, Op.FORWARD, reader, problem, sequences, state, args, workspace, stream)

    def backward(
        self,
        problem: Problem,
        sequences: Sequences,
        *,
        q: Any,
        k: Any,
        v: Any,
        gate: Any,
        beta: Any,
        d_out: Any,
        A_log: Any = None,
        dt_bias: Any = None,
        d_final: Any = None,
        dq: Any = None,
        dk: Any = None,
        dv: Any = None,
        d_gate: Any = None,
        d_beta: Any = None,
        dA_log: Any = None,
        ddt_bias: Any = None,
        d_initial: Any = None,
        state: Optional[State] = None,
        saved: Any = None,
        workspace: Any = None,
        stream: int = 0,
    ) -> None:
        """Writes the gradients that are given a place."""
        p, reader = problem, self._reader(sequences, stream)
        inputs = _inputs(reader, p, q, k, v, gate, beta, A_log, dt_bias)
        args = _abi.BackwardArgs(
            ctypes.sizeof(_abi.BackwardArgs),
            0,
            *inputs,
            reader.per_token("args.d_out", d_out, p.value_heads, p.value_dim),
            reader.per_row("args.d_final", d_final, p.state_shape),
            reader.per_token("args.dq", dq, p.key_heads, p.key_dim, True),
            reader.per_token("args.dk", dk, p.key_heads, p.key_dim, True),
            reader.per_token("args.dv", dv, p.value_heads, p.value_dim, True),
            reader.per_token("args.d_gate", d_gate, p.value_heads, None, True),
            reader.per_token("args.d_beta", d_beta, p.value_heads, None, True),
            reader.per_head("args.dA_log", dA_log, p.value_heads, True),
            reader.per_head("args.ddt_bias", ddt_bias, p.value_heads, True),
            reader.per_row("args.d_initial", d_initial, p.state_shape, True),
            *reader.bytes("args.saved", saved, False),
        )
        self._run(library().flashqla_backward, Op.BACKWARD, reader, problem, sequences, state, args, workspace, stream)

    def _reader(self, sequences: Sequences, stream: int) -> Reader:
        return Reader(self.info.device, sequences.rows, sequences.tokens, sequences.offsets is not None, stream)

    def _run(
        self,
        function: Any,
        op: Op,
        reader: Reader,
        problem: Problem,
        sequences: Sequences,
        state: Optional[State],
        args: Any,
        workspace: Any,
        stream: int,
    ) -> None:
        rows, states = _sequences(reader, sequences), _state(reader, problem, state)
        if workspace is None and self.info.device == _abi.DEVICE_CPU:
            workspace = _host_bytes
        if callable(workspace):
            size = self._query(problem, rows, states, op).workspace_bytes
            workspace = workspace(size) if size else None
        address, size = reader.bytes("workspace", workspace, True)
        self._call(function, _ref(problem), _ref(rows), _ref(states), _ref(args), address, size, stream or None)


def _ordinal(device: Union[str, int, None]) -> int:
    if device is None:
        return _abi.DEVICE_BEST
    if isinstance(device, int):
        return device
    kind, _, ordinal = str(device).partition(":")
    if kind == "cpu" and not ordinal:
        return _abi.DEVICE_CPU
    if kind == "cuda" and (not ordinal or ordinal.isdigit()):
        return int(ordinal or 0)
    raise InvalidArgument(f"device {device!r}: must be 'cpu', 'cuda', 'cuda:N', an ordinal or None")


def _host_bytes(size: int) -> Tensor:
    memory = (ctypes.c_char * (size + ALIGNMENT))()
    return Tensor(-(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT, DType.DEFAULT, (size,), (1,), owner=memory)


def _ref(struct: Optional[ctypes.Structure]) -> Any:
    return None if struct is None else ctypes.byref(struct)


def _inputs(reader: Reader, p: Problem, q: Any, k: Any, v: Any, gate: Any, beta: Any, A_log: Any, dt_bias: Any) -> tuple:
    return (
        reader.per_token("args.q", q, p.key_heads, p.key_dim),
        reader.per_token("args.k", k, p.key_heads, p.key_dim),
        reader.per_token("args.v", v, p.value_heads, p.value_dim),
        reader.per_token("args.gate", gate, p.value_heads),
        reader.per_token("args.beta", beta, p.value_heads),
        reader.per_head("args.A_log", A_log, p.value_heads),
        reader.per_head("args.dt_bias", dt_bias, p.value_heads),
    )


def _sequences(reader: Reader, sequences: Sequences) -> _abi.SequencesStruct:
    offsets, dtype = reader.offsets(sequences.offsets)
    for name, value, bits in (("rows", sequences.rows, 31), ("tokens", sequences.tokens, 63), ("max_tokens", sequences.max_tokens, 63)):
        if not -(1 << bits) <= value < 1 << bits:
            raise InvalidArgument(f"sequences.{name} = {value}: does not fit its field")
    return _abi.SequencesStruct(ctypes.sizeof(_abi.SequencesStruct), sequences.rows, sequences.tokens, sequences.max_tokens, offsets, dtype)


def _state(reader: Reader, problem: Problem, state: Optional[State]) -> Optional[_abi.StateStruct]:
    if state is None:
        return None
    read_slots, _ = reader.table("state.read_slots", state.read_slots)
    write_slots, _ = reader.table("state.write_slots", state.write_slots)
    checkpoints = reader.table("state.checkpoint_slots", state.checkpoint_slots, True)
    token_slots = reader.table("state.token_slots", state.token_slots, True)
    accepted, _ = reader.table("state.accepted", state.accepted)
    return _abi.StateStruct(
        ctypes.sizeof(_abi.StateStruct),
        0,
        0 if state.store_final else _abi.STATE_NO_FINAL,
        *reader.pool("state.read", state.read, problem, False),
        read_slots,
        *reader.pool("state.write", state.write, problem, True),
        write_slots,
        state.checkpoint_interval,
        *checkpoints,
        *token_slots,
        accepted,
    )
