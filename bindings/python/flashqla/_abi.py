"""The C header in ctypes: codes, structs, functions, and where the library is found. tests/test_layout.py compares it with C."""

from __future__ import annotations

import ctypes
import glob
import os
import re
import threading
from ctypes import c_char, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum, IntFlag
from typing import Any, Optional

# ---- codes


class Status(IntEnum):
    OK = 0
    INVALID_ARGUMENT = 1
    UNSUPPORTED = 2
    WORKSPACE_TOO_SMALL = 3
    NO_DRIVER = 4
    DRIVER_TOO_OLD = 5
    NO_IMAGE = 6
    NO_CONTEXT = 7
    WRONG_DEVICE = 8
    NOT_WARM = 9
    OUT_OF_MEMORY = 10
    CUDA_ERROR = 11
    INTERNAL = 12


class DType(IntEnum):
    DEFAULT = 0
    F32 = 1
    BF16 = 2
    F16 = 3
    F64 = 4
    I32 = 5
    I64 = 6


class Heads(IntEnum):
    GROUPED = 0
    TILED = 1


class Gate(IntEnum):
    LOG = 0
    LINEAR = 1
    RAW = 2
    LOG_PER_KEY = 3


class Beta(IntEnum):
    VALUE = 0
    LOGIT = 1


class Norm(IntEnum):
    NONE = 0
    L2 = 1


class StateLayout(IntEnum):
    KV = 0
    VK = 1


class Engine(IntEnum):
    AUTO = 0
    RECURRENT = 1
    CHUNKED = 2
    FUSED = 3
    CONTEXT_PARALLEL = 4


class Op(IntEnum):
    FORWARD = 0
    BACKWARD = 1


class Form(IntEnum):
    PLAIN = 0
    QWEN = 1


class ProblemFlags(IntFlag):
    KEYS_BOUNDED = 1
    APPROXIMATE_WARMUP = 2
    BATCH_INVARIANT = 4
    ALLOW_16BIT_OPERANDS = 8


DEVICE_CPU, DEVICE_BEST = -1, -2
SLOT_PAD, SLOT_NONE = -1, -2
LOG_ERROR, LOG_INFO = 0, 1
STATE_NO_FINAL = 1

# ---- errors


class FlashqlaError(RuntimeError):
    """A call that did not return OK. `status` is its code, `message` the library's text: field, value and rule."""

    status: Status = Status.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(f"{self.status.name}: {message}")
        self.message = message


class InvalidArgument(FlashqlaError, ValueError):
    status = Status.INVALID_ARGUMENT


class Unsupported(FlashqlaError):
    status = Status.UNSUPPORTED


class WorkspaceTooSmall(FlashqlaError):
    status = Status.WORKSPACE_TOO_SMALL


class NoDriver(FlashqlaError):
    status = Status.NO_DRIVER


class DriverTooOld(FlashqlaError):
    status = Status.DRIVER_TOO_OLD


class NoImage(FlashqlaError):
    status = Status.NO_IMAGE


class NoContext(FlashqlaError):
    status = Status.NO_CONTEXT


class WrongDevice(FlashqlaError):
    status = Status.WRONG_DEVICE


class NotWarm(FlashqlaError):
    status = Status.NOT_WARM


class OutOfMemory(FlashqlaError, MemoryError):
    status = Status.OUT_OF_MEMORY


class CudaError(FlashqlaError):
    status = Status.CUDA_ERROR


class InternalError(FlashqlaError):
    status = Status.INTERNAL


ERRORS: dict[int, type[FlashqlaError]] = {
    kind.status: kind
    for kind in (
        InvalidArgument,
        Unsupported,
        WorkspaceTooSmall,
        NoDriver,
        DriverTooOld,
        NoImage,
        NoContext,
        WrongDevice,
        NotWarm,
        OutOfMemory,
        CudaError,
        InternalError,
    )
}

# ---- structs, in the header's order. Those that users fill have checked fields; the others are filled from tensors that exist.

LogFunction = ctypes.CFUNCTYPE(None, c_void_p, c_int32, c_char_p)


class CheckedStruct(ctypes.Structure):
    """Sets struct_size, and refuses what ctypes would let pass: names that are no field, integers cut to the field's width."""

    __slots__ = ()

    def __init__(self, **fields: Any) -> None:
        super().__init__()
        self.struct_size = ctypes.sizeof(self)
        for name, value in fields.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, int) and (getattr(self, name) or 0) != value:
            raise OverflowError(f"{name} = {value}: does not fit its field")


class Config(CheckedStruct):
    __slots__ = ()
    _fields_ = [
        ("struct_size", c_uint32),
        ("device", c_int32),
        ("threads", c_int32),
        ("reserved", c_int32),
        ("flags", c_uint64),
        ("log", LogFunction),
        ("log_user", c_void_p),
    ]


class TensorStruct(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("dtype", c_int32),
        ("reserved0", c_int32),
        ("stride_row", c_int64),
        ("stride_token", c_int64),
        ("stride_head", c_int64),
        ("reserved", c_int64 * 2),
    ]


class Problem(CheckedStruct):
    """What is computed: the header's flashqla_problem. Zero in a field is its documented default.

    Problem(key_heads=16, value_heads=32, key_dim=128, value_dim=128, gate=Gate.LOG, ...), or Problem.qwen(...) for raw gates, beta as
    a logit, the L2 norm and [V, K] states."""

    __slots__ = ()
    _fields_ = [
        ("struct_size", c_uint32),
        ("key_heads", c_int32),
        ("value_heads", c_int32),
        ("key_dim", c_int32),
        ("value_dim", c_int32),
        ("dtype", c_int32),
        ("state_dtype", c_int32),
        ("head_map", c_int32),
        ("gate", c_int32),
        ("beta", c_int32),
        ("qk_norm", c_int32),
        ("state_layout", c_int32),
        ("engine", c_int32),
        ("reserved", c_int32),
        ("beta_scale", c_double),
        ("scale", c_double),
        ("eps", c_double),
        ("flags", c_uint64),
    ]

    @classmethod
    def qwen(cls, **fields: Any) -> Problem:
        problem = cls()
        check(library().flashqla_problem_init(ctypes.byref(problem), ctypes.sizeof(problem), Form.QWEN))
        for name, value in fields.items():
            setattr(problem, name, value)
        return problem

    @property
    def state_type(self) -> DType:
        """state_dtype, or the default that 0 stands for."""
        return DType(self.state_dtype) if self.state_dtype else DType.F64 if self.dtype == DType.F64 else DType.F32

    @property
    def state_shape(self) -> tuple[int, int, int]:
        """[HV, K, V] or [HV, V, K]."""
        inner = (self.value_dim, self.key_dim) if self.state_layout == StateLayout.VK else (self.key_dim, self.value_dim)
        return (self.value_heads, *inner)


class SequencesStruct(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("rows", c_int32),
        ("tokens", c_int64),
        ("max_tokens", c_int64),
        ("offsets", c_void_p),
        ("offsets_dtype", c_int32),
        ("reserved", c_int32),
    ]


class StateStruct(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("reserved", c_int32),
        ("flags", c_uint64),
        ("read_data", c_void_p),
        ("read_slots_count", c_int64),
        ("read_slot_stride", c_int64),
        ("read_slots", c_void_p),
        ("write_data", c_void_p),
        ("write_slots_count", c_int64),
        ("write_slot_stride", c_int64),
        ("write_slots", c_void_p),
        ("checkpoint_interval", c_int64),
        ("checkpoint_slots", c_void_p),
        ("checkpoint_width", c_int64),
        ("token_slots", c_void_p),
        ("token_width", c_int64),
        ("accepted", c_void_p),
    ]


INPUTS = ("q", "k", "v", "gate", "beta", "A_log", "dt_bias")
GRADIENTS = ("dq", "dk", "dv", "d_gate", "d_beta", "dA_log", "ddt_bias", "d_initial")


def _args_fields(*names: str) -> list:
    return (
        [("struct_size", c_uint32), ("reserved", c_int32)]
        + [(name, TensorStruct) for name in names]
        + [("saved", c_void_p), ("saved_bytes", c_uint64)]
    )


class ForwardArgs(ctypes.Structure):
    _fields_ = _args_fields(*INPUTS, "out")


class BackwardArgs(ctypes.Structure):
    _fields_ = _args_fields(*INPUTS, "d_out", "d_final", *GRADIENTS)


class QueryInfoStruct(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("status", c_int32),
        ("engine", c_int32),
        ("launches", c_int32),
        ("workspace_bytes", c_uint64),
        ("saved_bytes", c_uint64),
        ("engine_name", c_char_p),
        ("reason", c_char_p),
    ]


class DeviceStruct(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32),
        ("device", c_int32),
        ("compute_major", c_int32),
        ("compute_minor", c_int32),
        ("multiprocessors", c_int32),
        ("threads", c_int32),
        ("shared_memory_bytes", c_uint64),
        ("l2_bytes", c_uint64),
        ("name", c_char * 64),
        ("image", c_char * 32),
    ]


# ---- the library

FUNCTIONS = {  # name: result, parameters
    "version": (c_int32, []),
    "build_info": (c_char_p, []),
    "status_name": (c_char_p, [c_int32]),
    "last_error": (c_char_p, []),
    "problem_init": (c_int32, [c_void_p, c_size_t, c_int32]),
    "create": (c_int32, [c_void_p, c_void_p]),
    "destroy": (None, [c_void_p]),
    "device_info": (c_int32, [c_void_p, c_void_p]),
    "query": (c_int32, [c_void_p] * 4 + [c_int32, c_void_p]),
    "explain": (c_int32, [c_void_p] * 4 + [c_int32, c_void_p, c_size_t, c_void_p]),
    "warmup": (c_int32, [c_void_p, c_void_p, c_int32]),
    "forward": (c_int32, [c_void_p] * 6 + [c_uint64, c_void_p]),
    "backward": (c_int32, [c_void_p] * 6 + [c_uint64, c_void_p]),
}

HERE = os.path.dirname(os.path.abspath(__file__))
_library: Optional[ctypes.CDLL] = None
_loading = threading.Lock()


def newest_build() -> Optional[str]:
    """The newest build/*/libflashqla.so of the source tree that this file lies in, if it does; one with kernels before one without, and
    none with sanitizers, which a Python that has none cannot load."""
    found = []
    for path in glob.glob(os.path.join(HERE, "..", "..", "..", "build", "*", "libflashqla.so")):
        try:
            with open(os.path.join(os.path.dirname(path), "CMakeCache.txt")) as cache:
                options = dict(re.findall(r"^FLASHQLA_(CUDA|SANITIZE):\w+=(.*)$", cache.read(), re.M))
        except OSError:
            options = {}
        if not options.get("SANITIZE"):
            found.append((options.get("CUDA") != "OFF", os.path.getmtime(path), os.path.abspath(path)))
    return max(found)[2] if found else None


def library_path() -> str:
    """$FLASHQLA_LIBRARY; the wheel's own; in a source tree the newest build; else the system's."""
    own = os.path.join(HERE, "libflashqla.so")
    return os.environ.get("FLASHQLA_LIBRARY") or (own if os.path.exists(own) else newest_build() or "libflashqla.so.0")


def library() -> ctypes.CDLL:
    """The library, opened at its first use; ImportError when it is not there."""
    global _library
    if _library is not None:
        return _library
    with _loading:
        if _library is None:
            path = library_path()
            try:
                opened = ctypes.CDLL(path)
                for name, (result, parameters) in FUNCTIONS.items():
                    function = getattr(opened, f"flashqla_{name}")
                    function.restype, function.argtypes = result, parameters
            except (OSError, AttributeError) as error:
                raise ImportError(
                    f"the flashqla library ({path}) cannot be used: {error}. Install the wheel, or set FLASHQLA_LIBRARY"
                ) from error
            _library = opened
    return _library


def check(status: int) -> None:
    """Raises what the thread's last call reported."""
    if status:
        raise ERRORS.get(status, InternalError)(library().flashqla_last_error().decode())


def version() -> str:
    """The library's version, "0.1.0"."""
    number = library().flashqla_version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def build_info() -> str:
    """One line: version, images inside, toolkit, compiler."""
    return library().flashqla_build_info().decode()
