"""The few calls of NVIDIA's CUDA run time that an engine needs, through `cuda-python`, every error checked."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ros2_tracker.engines.base import EngineError

_KERNEL_MODULE = Path("/sys/module/nvidia/version")


class CudaError(EngineError):
    """A call of the CUDA run time failed; the text names it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU that CUDA can use."""

    device: int
    """CUDA's number of it."""
    name: str
    compute_capability: str
    """Such as `8.7`."""
    driver: str
    """Its driver, and the CUDA version that this supports."""


def find_gpu(device: int = 0) -> Gpu:
    """A GPU by CUDA's number; EngineError when there is none, or no driver, or no cuda-python."""
    try:
        count = _call("cudaGetDeviceCount")
    except CudaError as error:
        raise EngineError(f"no GPU can be used: {_why_none()} ({error})") from error
    if not 0 <= device < count:
        raise EngineError(f"device is {device}, but CUDA sees {count} GPUs, counted from 0")
    properties = _call("cudaGetDeviceProperties", device)
    driver = f"CUDA {_version(_call('cudaDriverGetVersion'))}"
    with suppress(OSError):
        driver = f"{_KERNEL_MODULE.read_text().strip()}, {driver}"
    name = properties.name.decode(errors="replace").rstrip("\0")
    return Gpu(device, name, f"{properties.major}.{properties.minor}", driver)


def use_device(device: int) -> None:
    """Make a GPU the one of the calling thread: CUDA remembers it for each thread apart."""
    _call("cudaSetDevice", device)


class Stream:
    """GPU work done in order, apart from that of other streams."""

    def __init__(self) -> None:
        """On the calling thread's device; CudaError."""
        self.handle = _call("cudaStreamCreateWithFlags", _runtime().cudaStreamNonBlocking)
        weakref.finalize(self, _release, "cudaStreamDestroy", self.handle)

    def synchronize(self) -> None:
        """Wait until all of it is done; CudaError when any of it failed."""
        _call("cudaStreamSynchronize", self.handle)

    def record(self, work: Callable[[], None]) -> Recording:
        """What `work` gives to this stream, not done but recorded; CudaError when some of it cannot be recorded."""
        # Other threads of this process may go on calling CUDA meanwhile: only this one's calls are recorded.
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self.handle, mode)
        try:
            work()
            graph = _call("cudaStreamEndCapture", self.handle)
        except BaseException:
            # Whatever went wrong, the stream works again once the recording is ended and the error was fetched.
            _release("cudaStreamEndCapture", self.handle)
            _release("cudaGetLastError")
            raise
        return Recording(graph)


class Recording:
    """A CUDA graph: recorded work, started with one call."""

    def __init__(self, graph: Any) -> None:
        """Takes over the graph; CudaError."""
        try:
            # With this name the arguments are the same in CUDA 11.4 to 13; cudaGraphInstantiate's have changed.
            self._handle = _call("cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            _release("cudaGraphDestroy", graph)
        weakref.finalize(self, _release, "cudaGraphExecDestroy", self._handle)

    def launch(self, stream: Stream) -> None:
        """Start the work."""
        _call("cudaGraphLaunch", self._handle, stream.handle)


class DeviceArray:
    """One array on both sides: in GPU memory, and in host memory that the GPU copies from and to by itself."""

    host: NDArray
    """Written before `upload`, read after `download` and `Stream.synchronize`. Not to be kept longer than this."""
    address: int
    """In GPU memory."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        """On the calling thread's device, host side zero; CudaError, also when there is not enough memory."""
        self._bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.address = _call("cudaMalloc", self._bytes)
        weakref.finalize(self, _release, "cudaFree", self.address)
        pinned = _call("cudaMallocHost", self._bytes)
        weakref.finalize(self, _release, "cudaFreeHost", pinned)
        self._pinned = pinned
        self.host = np.frombuffer((ctypes.c_uint8 * self._bytes).from_address(pinned), dtype).reshape(shape)
        self.host[...] = 0

    def upload(self, stream: Stream, first: int, end: int) -> None:
        """Rows `first` to before `end`, host to GPU, some time after this call."""
        row = self._bytes // len(self.host)
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        at, count = first * row, (end - first) * row
        _call("cudaMemcpyAsync", self.address + at, self._pinned + at, count, kind, stream.handle)

    def download(self, stream: Stream) -> None:
        """All of it, GPU to host, some time after this call."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call("cudaMemcpyAsync", self._pinned, self.address, self._bytes, kind, stream.handle)


@cache
def _runtime() -> ModuleType:
    try:
        from cuda.bindings import runtime
    except ImportError:
        try:
            from cuda import cudart as runtime  # until cuda-python 12.6
        except ImportError as error:
            raise EngineError(
                "a GPU is used through cuda-python: `pip install cuda-python`, or where `nvidia-smi` shows CUDA 12 "
                '`pip install "cuda-python<13"`'
            ) from error
    return runtime


def _call(name: str, *arguments: Any) -> Any:
    """What a function of the CUDA run time returns; CudaError."""
    function = getattr(_runtime(), name)
    try:
        error, *values = function(*arguments)
    except RuntimeError as failure:  # how cuda-python before 12.8 says that there is no driver
        raise CudaError(f"{name}: {failure}") from failure
    if error.value:
        raise CudaError(f"{name}: {error.name}")
    return values[0] if values else None


def _release(name: str, *arguments: Any) -> None:
    """Give something back; there is nobody to tell that it failed."""
    with suppress(EngineError):
        _call(name, *arguments)


def _why_none() -> str:
    """Of a machine on which CUDA does not start."""
    runtime = _call("cudaRuntimeGetVersion")
    try:
        driver = _call("cudaDriverGetVersion")
    except CudaError:
        driver = 0
    if not driver:
        return "no NVIDIA driver is loaded; `nvidia-smi` shows one that works (in Docker: --gpus all)"
    if driver < runtime:
        return (
            f"the driver supports CUDA {_version(driver)} and cuda-python wants {_version(runtime)}; install a newer "
            f'driver, or `pip install "cuda-python<{driver // 1000 + 1}"`'
        )
    return "the driver is loaded, but CUDA does not start"


def _version(number: int) -> str:
    """CUDA writes 12.6 as 12060."""
    return f"{number // 1000}.{number % 1000 // 10}"
