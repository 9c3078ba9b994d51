"""flashqla for compare.py: `compare.py ... --ours bench/compare_adapter.py`.

forward(case), backward(case), decode(case) make callables over libflashqla.so by ctypes; forward_saving(case) is a forward that keeps what
backward_saved(case) reads, backward(case) recomputes it. Structs and device memory are made once; a call only enqueues, on torch's current
stream, so that it can be captured in a graph. In the mode `memory` outputs and workspace are made inside the call, to be counted. The
library: $FLASHQLA_LIBRARY, else the newest build/*/libflashqla.so.
"""
import ctypes as c
import glob
import os
import sys
import torch

I32, I64, U32, U64, F64, PTR = c.c_int32, c.c_int64, c.c_uint32, c.c_uint64, c.c_double, c.c_void_p
DTYPES = {torch.float32: 1, torch.bfloat16: 2, torch.float16: 3, torch.float64: 4}
FORWARD, BACKWARD = 0, 1
CPU = -1
ENGINE = 0  # FLASHQLA_ENGINE_*: AUTO; regret.py asks for each in turn
NORM_L2, STATE_VK, KEYS_BOUNDED = 1, 1, 1


class Tensor(c.Structure):
    _fields_ = [("data", PTR), ("dtype", I32), ("reserved0", I32), ("stride_row", I64), ("stride_token", I64), ("stride_head", I64),
                ("reserved", I64 * 2)]


class Config(c.Structure):
    _fields_ = [("struct_size", U32), ("device", I32), ("threads", I32), ("reserved", I32), ("flags", U64), ("log", PTR), ("log_user", PTR)]


class Problem(c.Structure):
    _fields_ = [("struct_size", U32)] + [(n, I32) for n in (
        "key_heads", "value_heads", "key_dim", "value_dim", "dtype", "state_dtype", "head_map", "gate", "beta", "qk_norm", "state_layout",
        "engine", "reserved")] + [("beta_scale", F64), ("scale", F64), ("eps", F64), ("flags", U64)]


class Sequences(c.Structure):
    _fields_ = [("struct_size", U32), ("rows", I32), ("tokens", I64), ("max_tokens", I64), ("offsets", PTR), ("offsets_dtype", I32),
                ("reserved", I32)]


class State(c.Structure):
    _fields_ = [("struct_size", U32), ("reserved", I32), ("flags", U64),
                ("read_data", PTR), ("read_slots_count", I64), ("read_slot_stride", I64), ("read_slots", PTR),
                ("write_data", PTR), ("write_slots_count", I64), ("write_slot_stride", I64), ("write_slots", PTR),
                ("checkpoint_interval", I64), ("checkpoint_slots", PTR), ("checkpoint_width", I64),
                ("token_slots", PTR), ("token_width", I64), ("accepted", PTR)]


class ForwardArgs(c.Structure):
    _fields_ = [("struct_size", U32), ("reserved", I32)] + [(n, Tensor) for n in (
        "q", "k", "v", "gate", "beta", "A_log", "dt_bias", "out")] + [("saved", PTR), ("saved_bytes", U64)]


class BackwardArgs(c.Structure):
    _fields_ = [("struct_size", U32), ("reserved", I32)] + [(n, Tensor) for n in (
        "q", "k", "v", "gate", "beta", "A_log", "dt_bias", "d_out", "d_final", "dq", "dk", "dv", "d_gate", "d_beta", "dA_log", "ddt_bias",
        "d_initial")] + [("saved", PTR), ("saved_bytes", U64)]


class QueryInfo(c.Structure):
    _fields_ = [("struct_size", U32), ("status", I32), ("engine", I32), ("launches", I32), ("workspace_bytes", U64), ("saved_bytes", U64),
                ("engine_name", c.c_char_p), ("reason", c.c_char_p)]


def load():
    path = os.environ.get("FLASHQLA_LIBRARY")
    if not path:
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
        found = glob.glob(os.path.join(root, "build", "*", "libflashqla.so")) + glob.glob(os.path.join(root, "build-*", "libflashqla.so"))
        if not found:
            raise RuntimeError("no build/*/libflashqla.so: build one, or set FLASHQLA_LIBRARY")
        path = max(found, key=os.path.getmtime)
    library = c.CDLL(path)
    library.flashqla_last_error.restype = c.c_char_p
    library.flashqla_status_name.restype = c.c_char_p
    for name in ("flashqla_forward", "flashqla_backward"):
        getattr(library, name).argtypes = [PTR] * 6 + [U64, PTR]
    return library


def check(status):
    if status:
        raise RuntimeError(f"{lib().flashqla_status_name(status).decode()}: {lib().flashqla_last_error().decode()}")


_library = None
_handles = {}


def lib():
    global _library
    _library = _library or load()
    return _library


def handle(tensor):
    device = torch.cuda.current_device() if tensor.is_cuda else CPU
    if device not in _handles:
        made = PTR()
        check(lib().flashqla_create(c.byref(made), c.byref(sized(Config, device=device))))
        _handles[device] = made
    return _handles[device]


def sized(struct, **fields):
    return struct(struct_size=c.sizeof(struct), **fields)


def view(tensor):
    assert tensor.is_contiguous()
    return Tensor(data=tensor.data_ptr(), dtype=DTYPES[tensor.dtype])


def current_stream(tensor):
    return torch.cuda.current_stream().cuda_stream if tensor.is_cuda else None


class Call:
    """One operation with all that it points to. make_args(call) builds the args struct; call.empty(...) makes memory for it."""

    def __init__(self, case, op, problem, sequences, state, make_args):
        self.like, self.op = case.q, op
        self.problem, self.sequences, self.state, self.make_args = problem, sequences, state, make_args
        self.handle, self.keep = handle(case.q), []
        self.info = self.query(op)
        check(lib().flashqla_warmup(self.handle, c.byref(problem), op))
        self.count_memory = "memory" in sys.argv
        if not self.count_memory:
            self.build()

    def query(self, op):
        info = sized(QueryInfo)
        check(lib().flashqla_query(self.handle, c.byref(self.problem), c.byref(self.sequences), c.byref(self.state), op, c.byref(info)))
        if info.status:
            raise RuntimeError(info.reason.decode())
        return info

    def empty(self, like):
        made = torch.empty_like(like)
        self.keep.append(made)
        return made

    def buffer(self, count):
        made = torch.empty(max(count, 1), dtype=torch.uint8, device=self.like.device)  # torch aligns to 512 bytes
        self.keep.append(made)
        return made.data_ptr() if count else None

    def build(self):
        self.keep = []
        self.args, self.result = self.make_args(self)
        self.workspace = self.buffer(self.info.workspace_bytes)
        self.function = lib().flashqla_forward if self.op == FORWARD else lib().flashqla_backward
        self.pointers = [self.handle] + [c.addressof(x) for x in (self.problem, self.sequences, self.state, self.args)]

    def __call__(self):
        if self.count_memory:
            self.build()
        check(self.function(*self.pointers, self.workspace, self.info.workspace_bytes, current_stream(self.like)))
        if self.count_memory:
            self.keep = []
        return self.result


def plain_problem(case):
    problem = sized(Problem, key_heads=case.hk, value_heads=case.hv, key_dim=case.d, value_dim=case.d, dtype=DTYPES[case.q.dtype],
                    scale=case.scale, engine=ENGINE)
    # What a caller who normalises its keys knows beforehand, this one looks up: beta |k|^2 <= 2 everywhere.
    squares = (case.k.float() ** 2).sum(-1).amax()
    if float(squares * case.beta.amax()) <= 2:
        problem.flags = KEYS_BOUNDED
    return problem


def ragged(case):
    return sized(Sequences, rows=case.n, tokens=case.t, max_tokens=max(case.seqlens), offsets=case.cu.data_ptr())


def set_inputs(args, case):
    args.q, args.k, args.v, args.gate, args.beta = (view(getattr(case, n)) for n in ("q", "k", "v", "g", "beta"))


def save_in(args, call):
    args.saved, args.saved_bytes = call.buffer(call.info.saved_bytes), call.info.saved_bytes


def forward(case, saves=False):
    # write_data is set with the outputs below; the query before it only wants to know that states are stored.
    state = sized(State, read_data=case.h0.data_ptr(), write_data=case.h0.data_ptr())

    def make_args(call):
        args = sized(ForwardArgs)
        set_inputs(args, case)
        out, final = call.empty(case.v), call.empty(case.h0)
        args.out, state.write_data = view(out), final.data_ptr()
        if saves:
            save_in(args, call)
        return args, (out, final)

    return Call(case, FORWARD, plain_problem(case), ragged(case), state, make_args)


def forward_saving(case):
    return forward(case, saves=True)


def saved_by_forward(case):
    """A forward that has run, with what it keeps for the backward; its output is not needed."""

    def forward_args(call):
        args = sized(ForwardArgs)
        set_inputs(args, case)
        args.out = view(call.empty(case.v))
        save_in(args, call)
        return args, None

    before = Call(case, FORWARD, plain_problem(case), ragged(case), sized(State, read_data=case.h0.data_ptr()), forward_args)
    if before.count_memory:
        before.count_memory = False
        before.build()
    before()
    return before


def backward(case, before=None):
    state = sized(State, read_data=case.h0.data_ptr())
    problem, sequences = plain_problem(case), ragged(case)

    def make_args(call):
        args = sized(BackwardArgs)
        if before:
            args.saved, args.saved_bytes = before.args.saved, before.args.saved_bytes
        set_inputs(args, case)
        args.d_out, args.d_final = view(case.do), view(case.dht)
        result = {}
        for field, name, like in (("dq", "dq", case.q), ("dk", "dk", case.k), ("dv", "dv", case.v), ("d_gate", "dg", case.g),
                                  ("d_beta", "dbeta", case.beta), ("d_initial", "dh0", case.h0)):
            result[name] = call.empty(like)
            setattr(args, field, view(result[name]))
        return args, result

    call = Call(case, BACKWARD, problem, sequences, state, make_args)
    call.before = before  # `saved` lives as long as the call
    return call


def backward_saved(case):
    return backward(case, saved_by_forward(case))


def decode(case):
    pool = case.h0.transpose(-1, -2).contiguous()
    state = sized(State, read_data=pool.data_ptr(), write_data=pool.data_ptr())
    problem = sized(Problem, key_heads=case.hk, value_heads=case.hv, key_dim=case.d, value_dim=case.d, dtype=DTYPES[case.q.dtype],
                    scale=case.scale, qk_norm=NORM_L2, state_layout=STATE_VK)
    sequences = sized(Sequences, rows=case.n, tokens=case.n)
    first = {n: getattr(case, n)[0][:case.n].contiguous() for n in ("q", "k", "v", "g", "beta")}

    def make_args(call):
        out = call.empty(first["v"])
        args = sized(ForwardArgs, out=view(out))
        args.q, args.k, args.v, args.gate, args.beta = (view(first[n]) for n in ("q", "k", "v", "g", "beta"))
        return args, (out, pool)

    return Call(case, FORWARD, problem, sequences, state, make_args)
