"""flashqla for compare.py: `compare.py ... --ours bench/compare_adapter.py`.

Its functions of a case make callables over libflashqla.so by ctypes. Structs and device memory are made once; a call only enqueues, on
torch's current stream, so that it can be captured in a graph. In the mode `memory` outputs and workspace are made inside the call, to be
counted. The library: $FLASHQLA_LIBRARY, else the newest build/*/libflashqla.so.
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
NORM_L2, STATE_VK, KEYS_BOUNDED, NO_FINAL = 1, 1, 1, 1
GATE_RAW, BETA_LOGIT = 2, 1


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
        made = torch.empty(count + 256, dtype=torch.uint8, device=self.like.device)
        self.keep.append(made)
        return -(-made.data_ptr() // 256) * 256 if count else None

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


def forward(case, save=False):
    # write_data is set with the outputs below; the query before it only wants to know that states are stored.
    state = sized(State, read_data=case.h0.data_ptr() if case.h0 is not None else None, write_data=case.q.data_ptr())

    def make_args(call):
        args = sized(ForwardArgs)
        set_inputs(args, case)
        out, final = call.empty(case.v), call.empty(case.states())
        args.out, state.write_data = view(out), final.data_ptr()
        if save:
            args.saved, args.saved_bytes = call.buffer(call.info.saved_bytes), call.info.saved_bytes
        return args, (out, final)

    call = Call(case, FORWARD, plain_problem(case), ragged(case), state, make_args)
    if save and not call.info.saved_bytes:
        raise RuntimeError("nothing to save")
    return call


def forward_saving(case):
    """forward that also writes call.args.saved for backward_saved(case, call)."""
    return forward(case, save=True)


def backward(case, before=None):
    """Recomputes what it needs, or takes it from what `before`, a forward_saving(case) that has run, kept."""
    state = sized(State, read_data=case.h0.data_ptr() if case.h0 is not None else None)

    def make_args(call):
        args = sized(BackwardArgs)
        if before:
            args.saved, args.saved_bytes = before.args.saved, before.args.saved_bytes
        set_inputs(args, case)
        args.d_out, args.d_final = view(case.do), view(case.dht)
        result = {}
        for field, name, like in (("dq", "dq", case.q), ("dk", "dk", case.k), ("dv", "dv", case.v), ("d_gate", "dg", case.g),
                                  ("d_beta", "dbeta", case.beta), ("d_initial", "dh0", case.h0)):
            if like is not None:
                result[name] = call.empty(like)
                setattr(args, field, view(result[name]))
        return args, result

    call = Call(case, BACKWARD, plain_problem(case), ragged(case), state, make_args)
    call.before = before  # `saved` lives as long as the call
    return call


def backward_saved(case, before=None):
    if before is None:
        before = forward_saving(case)
        before()
    return backward(case, before)


def step(case, save=False):
    before = forward(case, save)
    after = backward(case, before if save else None)

    def run():
        before()
        return after()
    return run


def step_saved(case):
    return step(case, save=True)


def workspace_bytes(seqlens, key_heads, value_heads, op, device="cuda", dim=128):
    """What a call of these bounds would take; nothing is allocated. States are read and stored, keys bounded."""
    here = handle(torch.empty(0, device=device))
    some = 256  # any aligned address stands for what is not looked at
    problem = sized(Problem, key_heads=key_heads, value_heads=value_heads, key_dim=dim, value_dim=dim, dtype=DTYPES[torch.bfloat16], flags=KEYS_BOUNDED)
    sequences = sized(Sequences, rows=len(seqlens), tokens=sum(seqlens), max_tokens=max(seqlens), offsets=some)
    state = sized(State, read_data=some, write_data=some if op == FORWARD else None)
    info = sized(QueryInfo)
    check(lib().flashqla_query(here, c.byref(problem), c.byref(sequences), c.byref(state), op, c.byref(info)))
    if info.status:
        raise RuntimeError(info.reason.decode())
    return info.workspace_bytes


def serve(case, first=0, last=None, token_slots=False, interval=0):
    """Rows [first, last) of a case as servers send them: raw gates, logits, L2 norm, VK states in place in the slots of a pool."""
    last = case.n if last is None else last
    lengths, begin = case.seqlens[first:last], sum(case.seqlens[:first])
    count, tokens, width = len(lengths), sum(lengths), max(lengths)
    equal = min(lengths) == width
    i32 = lambda values: torch.tensor(values, dtype=torch.int32, device=case.q.device)
    tables = {"slots": i32(range(count)), "offsets": i32([sum(lengths[:i]) for i in range(count + 1)])}
    extra = []  # slots beside those of the rows, by row
    if token_slots:
        extra = [width] * count
    elif interval:
        width = width // interval
        extra = [n // interval for n in lengths]
    if extra:
        starts = [count + sum(extra[:i]) for i in range(count)]
        tables["extra"] = i32([[s + j if j < n else -1 for j in range(width)] for s, n in zip(starts, extra)])
    pool = torch.zeros(count + sum(extra), case.hv, case.d, case.d, dtype=case.state_dtype, device=case.q.device)
    pool[:count] = case.h0[first:last].transpose(-1, -2)
    state = sized(State, read_data=pool.data_ptr(), write_data=pool.data_ptr(), read_slots_count=len(pool), write_slots_count=len(pool),
                  read_slots=tables["slots"].data_ptr(), write_slots=tables["slots"].data_ptr(), flags=NO_FINAL if token_slots else 0)
    if token_slots:
        state.token_slots, state.token_width = tables["extra"].data_ptr(), width
    elif interval:
        state.checkpoint_interval, state.checkpoint_slots, state.checkpoint_width = interval, tables["extra"].data_ptr(), width
    problem = sized(Problem, key_heads=case.hk, value_heads=case.hv, key_dim=case.d, value_dim=case.d, dtype=DTYPES[case.q.dtype],
                    state_dtype=DTYPES[case.state_dtype], gate=GATE_RAW, beta=BETA_LOGIT, qk_norm=NORM_L2, state_layout=STATE_VK,
                    scale=case.scale, engine=ENGINE)
    sequences = sized(Sequences, rows=count, tokens=tokens, max_tokens=max(lengths), offsets=None if equal else tables["offsets"].data_ptr())
    inputs = {n: getattr(case, n)[0][begin:begin + tokens] for n in ("q", "k", "v", "a", "b")}

    def make_args(call):
        out = call.empty(inputs["v"])
        args = sized(ForwardArgs, out=view(out), A_log=view(case.A_log), dt_bias=view(case.dt_bias))
        args.q, args.k, args.v, args.gate, args.beta = (view(inputs[n]) for n in ("q", "k", "v", "a", "b"))
        states = pool[count:].view(count, -1, *pool.shape[1:]) if token_slots else pool[:count]
        return args, (out, states.transpose(-1, -2))

    call = Call(case, FORWARD, problem, sequences, state, make_args)
    call.tables, call.pool = tables, pool
    return call


def decode(case):
    return serve(case)


def verify(case):
    return serve(case, token_slots=True)


def alike(a, b, what):
    error = ((a.double() - b.double()).norm() / b.double().norm()).item()
    if not error < 1e-2:
        raise RuntimeError(f"{what}: {error:.3g} apart")


def mixed(case):
    """The whole batch in one call; its long rows; its rows of one token."""
    long_rows = sum(n > 1 for n in case.seqlens)
    calls = serve(case), serve(case, 0, long_rows), serve(case, long_rows)
    (out, _), (first, _), (rest, _) = (call() for call in calls)
    alike(out, torch.cat([first, rest]), "one call and two")
    return calls


def checkpoints(case, interval=1024):
    """With checkpoints; without; the bytes that they are."""
    calls = serve(case, interval=interval), serve(case)
    (out, _), (plain, _) = (call() for call in calls)
    alike(out, plain, "with checkpoints and without")
    pool = calls[0].pool
    return *calls, (len(pool) - case.n) * pool[0].numel() * pool.element_size()
