"""Device memory and streams for programs that have no CUDA of their own; flashqla makes neither. It opens the CUDA driver by ctypes when
a GPU is asked for; with a negative ordinal the same calls serve the CPU.

    with Device(0) as dev:                          the primary context of GPU 0, current on this thread
        x = dev.upload(array("f", numbers), shape)  a flashqla.Tensor, freed with the device
        ...
        dev.sync()
        host = dev.download(x)                      bytes
"""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any, Optional

from ._abi import DType
from ._tensors import BYTES, Tensor, packed_strides

# Exported names are the oldest with these parameters, so that older drivers have them. CUdeviceptr is 64 bits wide, handles are pointers.
_FUNCTIONS = {
    "cuInit": [c_uint],
    "cuGetErrorName": [c_int, c_void_p],
    "cuDeviceGet": [c_void_p, c_int],
    "cuDevicePrimaryCtxRetain": [c_void_p, c_int],
    "cuDevicePrimaryCtxRelease_v2": [c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuCtxSynchronize": [],
    "cuMemAlloc_v2": [c_void_p, c_size_t],
    "cuMemFree_v2": [c_ulonglong],
    "cuMemcpyHtoD_v2": [c_ulonglong, c_char_p, c_size_t],
    "cuMemcpyDtoH_v2": [c_void_p, c_ulonglong, c_size_t],
    "cuStreamCreate": [c_void_p, c_uint],
    "cuStreamDestroy_v2": [c_void_p],
    "cuStreamSynchronize": [c_void_p],
}
_NON_BLOCKING = 1


class DeviceError(RuntimeError):
    """A driver call failed; the text has its name and CUDA's."""


class _Driver:
    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
            for name, parameters in _FUNCTIONS.items():
                getattr(self._library, name).argtypes = parameters
        except (OSError, AttributeError) as error:
            raise DeviceError(f"no CUDA driver, or too old a one: {error}") from error
        self("cuInit", 0)

    def __call__(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result:
            text = c_char_p()
            self._library.cuGetErrorName(result, ctypes.byref(text))
            raise DeviceError(f"{name}: {(text.value or b'unknown CUDA error').decode()} ({result})")


class Device:
    """A GPU's primary context, or the CPU (ordinal < 0), with the memory taken from it."""

    def __init__(self, ordinal: int = 0) -> None:
        self.ordinal = max(ordinal, -1)
        self._memory: list[Any] = []  # addresses on CUDA, buffers on the CPU
        self._driver: Optional[_Driver] = None
        if ordinal >= 0:
            driver, self._device, self._context = _Driver(), c_int(), c_void_p()
            driver("cuDeviceGet", ctypes.byref(self._device), ordinal)
            driver("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
            self._driver = driver
            self.attach()

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def attach(self) -> None:
        """Makes the device's context current on the calling thread: once for each thread that uses it."""
        if self._driver:
            self._driver("cuCtxSetCurrent", self._context)

    def close(self) -> None:
        """Frees what alloc and upload gave."""
        if self._driver:
            for address in self._memory:
                self._driver("cuMemFree_v2", address)
            self._driver("cuCtxSetCurrent", None)
            self._driver("cuDevicePrimaryCtxRelease_v2", self._device)
        self._memory, self._driver = [], None

    def alloc(self, shape: tuple[int, ...], dtype: DType = DType.DEFAULT) -> Tensor:
        """Memory aligned to 256 bytes, of bytes when no dtype is given; its contents are undefined."""
        size = max(_bytes(shape, dtype), 1)
        owner: Any = None
        if self._driver:
            pointer = c_ulonglong()
            self._driver("cuMemAlloc_v2", ctypes.byref(pointer), size)
            address = pointer.value
            self._memory.append(address)
        else:
            owner = (ctypes.c_char * (size + 255))()
            address = -(-ctypes.addressof(owner) // 256) * 256
            self._memory.append(owner)
        return Tensor(address, dtype, shape, packed_strides(shape), self.ordinal, True, owner)

    def upload(self, values: Any, shape: tuple[int, ...], dtype: DType = DType.F32) -> Tensor:
        """Memory with the bytes of `values` (array.array, bytes, a numpy array) in it; there when this returns."""
        tensor, data = self.alloc(shape, dtype), memoryview(values).tobytes()
        if len(data) != _bytes(shape, dtype):
            raise ValueError(f"{len(data)} bytes given for shape {list(shape)}, which has {_bytes(shape, dtype)}")
        if not self._driver:
            ctypes.memmove(tensor.data, data, len(data))
        elif data:
            self._driver("cuMemcpyHtoD_v2", tensor.data, data, len(data))
            self._driver("cuStreamSynchronize", None)  # from pageable memory the copy may return before the bytes have arrived
        return tensor

    def download(self, tensor: Tensor) -> bytes:
        """A packed tensor's bytes. Waits for no other stream: sync() first."""
        data = ctypes.create_string_buffer(max(_bytes(tensor.shape, tensor.dtype), 1))
        size = _bytes(tensor.shape, tensor.dtype)
        if not self._driver:
            ctypes.memmove(data, tensor.data, size)
        elif size:
            self._driver("cuMemcpyDtoH_v2", data, tensor.data, size)
        return data.raw[:size]

    def sync(self) -> None:
        """Waits for everything enqueued on the device."""
        if self._driver:
            self._driver("cuCtxSynchronize")

    def stream(self) -> int:
        """A stream that does not wait for the default one; 0 on the CPU. Lives until destroy_stream."""
        handle = c_void_p()
        if self._driver:
            self._driver("cuStreamCreate", ctypes.byref(handle), _NON_BLOCKING)
        return handle.value or 0

    def destroy_stream(self, stream: int) -> None:
        if self._driver and stream:
            self._driver("cuStreamDestroy_v2", stream)


def _bytes(shape: tuple[int, ...], dtype: DType) -> int:
    size = BYTES[dtype]
    for extent in shape:
        size *= extent
    return size
