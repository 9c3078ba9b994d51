"""Tensors of any kind as pointer, dtype, shape and strides: torch, numpy, whatever speaks DLPack, or a Tensor written by hand.

The library sees pointers and strides and trusts them; this file makes sure that they describe memory that is there."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple, Optional

from ._abi import DEVICE_CPU, DType, InvalidArgument, TensorStruct

# uint16 stands for bfloat16, which numpy lacks.
DTYPES = {
    "float32": DType.F32,
    "bfloat16": DType.BF16,
    "uint16": DType.BF16,
    "float16": DType.F16,
    "float64": DType.F64,
    "int32": DType.I32,
    "int64": DType.I64,
}
BYTES = {DType.F32: 4, DType.BF16: 2, DType.F16: 2, DType.F64: 8, DType.I32: 4, DType.I64: 8, DType.DEFAULT: 1}


class Tensor(NamedTuple):
    """Memory and how to walk it. Strides are in elements. `owner` is whatever keeps the memory alive."""

    data: int
    dtype: DType  # DEFAULT: bytes, or of a type that no operation takes
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    device: int = DEVICE_CPU  # or a CUDA ordinal
    writable: bool = True
    owner: Any = None
    dtype_name: str = ""


@functools.lru_cache(maxsize=1024)
def packed_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides = [1] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * shape[i]
    return tuple(strides)


def describe(name: str, x: Any, stream: int = 0) -> Tensor:
    """x as a Tensor, without a copy. `stream` is where it will be used: a DLPack producer makes it wait for its own work."""
    if isinstance(x, Tensor):
        return x
    if hasattr(x, "data_ptr") and hasattr(x, "requires_grad"):
        return _from_torch(name, x)
    if hasattr(x, "__array_interface__"):
        return _from_numpy(name, x)
    if hasattr(x, "__dlpack__"):
        return _from_dlpack(name, x, stream)
    raise InvalidArgument(f"{name}: {type(x).__name__} is no tensor: torch, numpy and DLPack tensors and flashqla.Tensor are")


def _is_packed(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    packed = packed_strides(shape)
    return strides == packed or all(size <= 1 or have == want for size, have, want in zip(shape, strides, packed))


_torch_dtypes: dict = {}  # torch.float32: (F32, "float32"), as they are met


def _from_torch(name: str, x: Any) -> Tensor:
    device = x.device
    kind = device.type
    if kind != "cpu" and kind != "cuda":
        raise InvalidArgument(f"{name}: on device {device}: must be on the CPU or on CUDA")
    known = _torch_dtypes.get(x.dtype)
    if known is None:
        text = str(x.dtype)[6:]
        known = _torch_dtypes[x.dtype] = DTYPES.get(text, DType.DEFAULT), text
    return Tensor(x.data_ptr(), known[0], x.shape, x.stride(), device.index if kind == "cuda" else DEVICE_CPU, True, x, known[1])


def _from_numpy(name: str, x: Any) -> Tensor:
    interface = x.__array_interface__
    data, read_only = interface["data"]
    shape, byte_strides, itemsize = interface["shape"], interface["strides"], x.dtype.itemsize
    if byte_strides is None:
        strides = packed_strides(shape)
    elif any(size > 1 and stride % itemsize for size, stride in zip(shape, byte_strides)):
        raise InvalidArgument(f"{name}: strides {byte_strides} (bytes): must be multiples of the element's {itemsize}")
    else:
        strides = tuple(stride // itemsize for stride in byte_strides)
    dtype = x.dtype.name if x.dtype.isnative else f"byte-swapped {x.dtype.name}"
    return Tensor(data, DTYPES.get(dtype, DType.DEFAULT), shape, strides, DEVICE_CPU, not read_only, x, dtype)


# ---- DLPack


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _DLVersioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    ]


_DL_CPU, _DL_CUDA, _DL_CUDA_HOST, _DL_CUDA_MANAGED = 1, 2, 3, 13
_DL_READ_ONLY = 1
_DL_TYPES = {
    (2, 32): "float32",
    (2, 16): "float16",
    (2, 64): "float64",
    (4, 16): "bfloat16",
    (1, 16): "uint16",
    (0, 32): "int32",
    (0, 64): "int64",
    (0, 8): "int8",
    (1, 8): "uint8",
}

_get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_get_pointer.restype, _get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.restype, _is_valid.argtypes = ctypes.c_int, [ctypes.py_object, ctypes.c_char_p]


def _from_dlpack(name: str, x: Any, stream: int) -> Tensor:
    kind = int(x.__dlpack_device__()[0])
    # The protocol calls CUDA's default stream 1, and gives hosts no stream.
    options = {"stream": stream or 1} if kind in (_DL_CUDA, _DL_CUDA_MANAGED) else {}
    try:
        capsule = x.__dlpack__(max_version=(1, 0), **options)
    except TypeError:  # older than version 1, which knows no max_version
        capsule = x.__dlpack__(**options)
    writable = True
    if _is_valid(capsule, b"dltensor_versioned"):
        versioned = _DLVersioned.from_address(_get_pointer(capsule, b"dltensor_versioned"))
        tensor, writable = versioned.tensor, not versioned.flags & _DL_READ_ONLY
    else:
        tensor = _DLTensor.from_address(_get_pointer(capsule, b"dltensor"))
    if tensor.device_type not in (_DL_CPU, _DL_CUDA, _DL_CUDA_HOST, _DL_CUDA_MANAGED):
        raise InvalidArgument(f"{name}: DLPack device type {tensor.device_type}: must be the CPU or CUDA")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else packed_strides(shape)
    dtype = _DL_TYPES.get((tensor.code, tensor.bits), "") if tensor.lanes == 1 else ""
    on_device = tensor.device_type in (_DL_CUDA, _DL_CUDA_MANAGED)
    return Tensor(
        (tensor.data or 0) + tensor.byte_offset,
        DTYPES.get(dtype, DType.DEFAULT),
        shape,
        strides,
        tensor.device_id if on_device else DEVICE_CPU,
        writable,
        (x, capsule),
        dtype or f"code {tensor.code}, {tensor.bits} bits, {tensor.lanes} lanes",
    )


# ---- from tensors to the header's views


class Reader:
    """Turns the tensors of one call into what the library reads, refusing what does not have the extents that the call says."""

    def __init__(self, device: int, rows: int, tokens: int, has_offsets: bool, stream: int) -> None:
        self.device, self.rows, self.tokens, self.stream = device, rows, tokens, stream
        self.leading = (1, tokens) if has_offsets else (rows, tokens // max(rows, 1))
        self.kept: list[Tensor] = []

    def read(self, name: str, x: Any, output: bool = False) -> Tensor:
        t = describe(name, x, self.stream)
        self.kept.append(t)
        if t.device != self.device:
            where = [f"cuda:{d}" if d >= 0 else "the CPU" for d in (t.device, self.device)]
            raise InvalidArgument(f"{name}: in memory of {where[0]}: must be in memory of the handle's device, {where[1]}")
        if output and not t.writable:
            raise InvalidArgument(f"{name}: read-only, and an output")
        return t

    def number(self, name: str, x: Any, output: bool = False) -> Tensor:
        t = self.read(name, x, output)
        if t.dtype == DType.DEFAULT:
            raise InvalidArgument(
                f"{name}: dtype {t.dtype_name}: must be one of float32, bfloat16 (or uint16), float16, float64, int32, int64"
            )
        return t

    def per_token(self, name: str, x: Any, heads: int, dim: Optional[int] = None, output: bool = False) -> TensorStruct:
        """[tokens, heads(, dim)], or [rows, tokens of a row, heads(, dim)]."""
        if x is None:
            return TensorStruct()
        inner = (heads,) if dim is None else (heads, dim)
        rows, tokens = self.leading
        known = _torch_dtypes.get(getattr(x, "dtype", None))
        if known and known[0] and x.is_contiguous() and x.shape == (rows, tokens) + inner and x.get_device() == self.device:
            return TensorStruct(x.data_ptr(), known[0])  # torch's packed tensors, the commonest, in a third of the time
        t = self.number(name, x, output)
        if self.rows == 0 and t.shape[:1] == (0,):  # [0, any, heads(, dim)] too: a batch of nothing
            return TensorStruct(t.data, t.dtype)
        if t.shape == (rows, tokens) + inner:
            row, token = t.strides[0], t.strides[1]
        elif t.shape == (self.tokens,) + inner:
            row, token = tokens * t.strides[0], t.strides[0]
        else:
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must be {[self.tokens, *inner]} or {[rows, tokens, *inner]}")
        if 0 in t.shape:
            return TensorStruct(t.data, t.dtype)
        head = t.strides[-len(inner)]
        if dim is not None and dim > 1 and t.strides[-1] != 1:
            raise InvalidArgument(f"{name}: stride {t.strides[-1]} of the last dimension: must be 1 (contiguous)")
        # Strides of extents of one mean nothing, and three zeros mean packed: so the former get their packed values.
        head = head if heads > 1 else dim or 1
        token = token if tokens > 1 else heads * (dim or 1)
        row = row if rows > 1 else tokens * heads * (dim or 1)
        if not (row or token or head):
            raise InvalidArgument(f"{name}: strides of 0 throughout: one element stands for all; make it contiguous")
        return TensorStruct(t.data, t.dtype, 0, row, token, head)

    def per_head(self, name: str, x: Any, heads: int, output: bool = False) -> TensorStruct:
        if x is None:
            return TensorStruct()
        t = self.number(name, x, output)
        if t.shape != (heads,):
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must be {[heads]}")
        if heads > 1 and t.strides[0] == 0:
            raise InvalidArgument(f"{name}: stride of 0: one element stands for all; make it contiguous")
        return TensorStruct(t.data, t.dtype, 0, 0, 0, t.strides[0] if heads > 1 else 1)

    def _states(self, name: str, x: Any, inner: tuple[int, ...], output: bool) -> Tensor:
        t = self.number(name, x, output)
        if len(t.shape) != 4 or t.shape[1:] != inner:
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must be [slots, {', '.join(map(str, inner))}]")
        return t

    def pool(self, name: str, x: Any, problem: Any, output: bool) -> tuple[Optional[int], int, int]:
        """Pointer, slots and stride of a pool of states."""
        if x is None:
            return None, 0, 0
        inner = problem.state_shape
        t = self._states(name, x, inner, output)
        if t.dtype != problem.state_type:
            raise InvalidArgument(f"{name}: dtype {t.dtype_name}: must be problem.state_dtype, {problem.state_type.name}")
        if not _is_packed(inner, t.strides[1:]):
            raise InvalidArgument(f"{name}: strides {list(t.strides)}: the heads of a slot must be packed")
        slots = t.shape[0]
        if not slots and self.rows:
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must have a slot")
        if slots > 1 and t.strides[0] == 0:
            raise InvalidArgument(f"{name}: stride of 0 from slot to slot: one state stands for all; make it contiguous")
        return t.data, slots, t.strides[0] if slots > 1 else 0

    def per_row(self, name: str, x: Any, inner: tuple[int, ...], output: bool = False) -> TensorStruct:
        """Gradients of states: [rows, HV, K, V] or [rows, HV, V, K]."""
        if x is None:
            return TensorStruct()
        t = self._states(name, x, inner, output)
        if t.shape[0] != self.rows:
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must be {[self.rows, *inner]}, by row")
        if 0 in t.shape:
            return TensorStruct(t.data, t.dtype)
        heads, *matrix = inner
        if not _is_packed(tuple(matrix), t.strides[2:]):
            raise InvalidArgument(f"{name}: strides {list(t.strides)}: each head's state must be packed")
        size = matrix[0] * matrix[1]
        row = t.strides[0] if self.rows > 1 else heads * size
        head = t.strides[1] if heads > 1 else size
        if not (row or head):
            raise InvalidArgument(f"{name}: strides of 0 throughout: one state stands for all; make it contiguous")
        return TensorStruct(t.data, t.dtype, 0, row, 0, head)

    def table(self, name: str, x: Any, width: bool = False) -> tuple[Optional[int], int]:
        """Pointer and width of an int32 table [rows] or [rows, width]."""
        if x is None:
            return None, 0
        t = self.number(name, x)
        if len(t.shape) != 1 + width or t.shape[0] != self.rows:
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must be [{self.rows}{', width' if width else ''}]")
        if t.dtype != DType.I32:
            raise InvalidArgument(f"{name}: dtype {t.dtype_name}: must be int32")
        self._require_packed(name, t)
        return t.data, t.shape[-1]

    def offsets(self, x: Any) -> tuple[Optional[int], int]:
        """Pointer and dtype of sequences.offsets."""
        if x is None:
            return None, 0
        name = "sequences.offsets"
        t = self.number(name, x)
        if t.shape != (self.rows + 1,):
            raise InvalidArgument(f"{name}: shape {list(t.shape)}: must be {[self.rows + 1]}, rows + 1")
        if t.dtype not in (DType.I32, DType.I64):
            raise InvalidArgument(f"{name}: dtype {t.dtype_name}: must be int32 or int64")
        self._require_packed(name, t)
        return t.data, t.dtype

    def bytes(self, name: str, x: Any, output: bool) -> tuple[Optional[int], int]:
        """Pointer and size of a buffer of any dtype."""
        if x is None:
            return None, 0
        t = self.read(name, x, output)
        self._require_packed(name, t)
        element = BYTES[t.dtype]
        if t.dtype == DType.DEFAULT and t.dtype_name not in ("", "uint8", "int8"):
            raise InvalidArgument(f"{name}: dtype {t.dtype_name}: must be bytes (uint8)")
        count = element
        for size in t.shape:
            count *= size
        return t.data if count else None, count

    @staticmethod
    def _require_packed(name: str, t: Tensor) -> None:
        if not _is_packed(t.shape, t.strides):
            raise InvalidArgument(f"{name}: strides {list(t.strides)}: must be contiguous")
