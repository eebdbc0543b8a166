"""CUDA as the engines need it: one GPU, its memory, streams, events and graphs, by NVIDIA's own bindings.

A copy is asynchronous only where the host's memory is page-locked: a caller's that was given to
`PageLocked`, or `HostMemory`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from engines.backends.common import one_line
from engines.base import EngineError, MissingEngineError
from engines.cancellation import Patience

try:
    from cuda.bindings import runtime
except Exception as error:  # a broken library can raise anything
    raise MissingEngineError(
        f"CUDA's bindings cannot be loaded ({one_line(error)}): pip install 'deeplab-stream[tensorrt]'"
    ) from error

_POLL_S = 100e-6
"""Between two looks at an event: cudaEventSynchronize knows no time limit, and a tight loop would burn a core."""

_LOOK_S = 0.1
"""Between two looks at whether it is still worth to wait."""

Array = NDArray[Any]

_log = logging.getLogger(__name__)


class CudaError(EngineError):
    """A call of CUDA's that failed."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Attributes:
        name: as it calls itself.
        compute_capability: (major, minor).
        memory: of its own, in bytes.
        driver: CUDA version that the driver offers, e.g. ``"13.0"``.
    """

    name: str
    compute_capability: tuple[int, int]
    memory: int
    driver: str


def check(what: str, answer: tuple[Any, ...]) -> Any:
    """The value of a call's answer, None where there is none.

    Raises:
        CudaError: the call failed.
    """
    status, *values = answer
    if int(status):  # success is 0, of the runtime as of the driver
        raise CudaError(f"CUDA failed to {what}: {_told(status)}")
    return values[0] if values else None


def _told(status: Any) -> str:
    """What a status means."""
    if isinstance(status, runtime.cudaError_t):
        _, text = runtime.cudaGetErrorString(status)
        _, name = runtime.cudaGetErrorName(status)
        if isinstance(text, bytes) and isinstance(name, bytes):
            return f"{text.decode()} ({name.decode()})"
    return str(status)


def _tried(what: str, answer: tuple[Any, ...]) -> None:
    """As `check` where something is given back: after a failure of the GPU all of that fails, and it was told."""
    try:
        check(what, answer)
    except CudaError as error:
        _log.debug("%s", error)


def use_device() -> None:
    """Make the first GPU current for this thread.

    Raises:
        CudaError: it cannot be used.
    """
    check("take the GPU", runtime.cudaSetDevice(0))


def open_device() -> Device:
    """The first GPU (of those in ``CUDA_VISIBLE_DEVICES``), made current for this thread.

    Raises:
        MissingEngineError: there is none, or no driver for it.
    """
    try:
        count = check("count the GPUs", runtime.cudaGetDeviceCount())
        if not count:
            raise CudaError("no NVIDIA GPU is visible")
        use_device()
        found: runtime.cudaDeviceProp = check("ask the GPU", runtime.cudaGetDeviceProperties(0))
        version = check("ask the driver", runtime.cudaDriverGetVersion())
    except Exception as error:  # the bindings raise errors of several kinds where the driver's library is missing
        raise MissingEngineError(
            f"no NVIDIA GPU can be used here ({one_line(error)}): {_way_out()}, or use --engine auto"
        ) from error
    name = bytes(found.name).split(b"\0")[0].decode()
    capability = (int(found.major), int(found.minor))
    return Device(name, capability, int(found.totalGlobalMem), f"{version // 1000}.{version % 1000 // 10}")


def _way_out() -> str:
    """What helps where no GPU can be used."""
    with contextlib.suppress(Exception):  # as above
        known = int(check("ask the driver", runtime.cudaDriverGetVersion()))
        ours = int(check("ask CUDA", runtime.cudaRuntimeGetVersion()))
        if known and known // 1000 < ours // 1000:
            return (
                f"NVIDIA's driver knows CUDA {known // 1000}, and these libraries are of CUDA {ours // 1000}: install "
                "a newer driver, or 'deeplab-stream[tensorrt-cu12]' in an environment of its own"
            )
        if known:
            return "see what nvidia-smi says"
    return "install NVIDIA's driver"


def free_memory() -> int:
    """Bytes that are left on the GPU.

    Raises:
        CudaError: it does not say.
    """
    return int(check("ask for the GPU's memory", runtime.cudaMemGetInfo()))


class DeviceMemory:
    """Bytes on the GPU, freed by `close`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(check(f"reserve {size / 2**20:.0f} MiB on the GPU", runtime.cudaMalloc(max(1, size))))

    def close(self) -> None:
        """Free them, when all is done on the GPU; harmless when repeated."""
        if self.address:
            _tried("free memory on the GPU", runtime.cudaFree(self.address))
            self.address = 0


class HostMemory:
    """Page-locked bytes of this process, as an array of uint8, freed by `close`."""

    def __init__(self, size: int) -> None:
        what = f"reserve {size / 2**20:.0f} MiB of page-locked memory"
        self._address = int(check(what, runtime.cudaHostAlloc(max(1, size), runtime.cudaHostAllocPortable)))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(
            (ctypes.c_uint8 * max(1, size)).from_address(self._address)
        )

    def close(self) -> None:
        """Free them; harmless when repeated.  Nobody may hold ``array`` any more."""
        if self._address:
            self.array = np.empty(0, np.uint8)
            _tried("free page-locked memory", runtime.cudaFreeHost(self._address))
            self._address = 0


class PageLocked:
    """Memory of others that is page-locked for copies while it is here; every method from any thread.

    Args:
        patience: with the GPU, before memory is given back.
    """

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._ranges: dict[int, int] = {}
        self._lock = threading.Lock()

    def add(self, memory: Array) -> None:
        """Page-lock an array's memory.

        Raises:
            CudaError: the system does not allow as much (``ulimit -l``), or it is locked already.
        """
        start = memory.ctypes.data
        what = f"page-lock {memory.nbytes / 2**20:.0f} MiB (ulimit -l)"
        check(what, runtime.cudaHostRegister(start, memory.nbytes, runtime.cudaHostRegisterPortable))
        with self._lock:
            self._ranges[start] = start + memory.nbytes

    def remove(self, memory: Array) -> None:
        """Give it back, when what is under way on the GPU is done; where that hangs it stays as it is."""
        with self._lock:
            known = self._ranges.pop(memory.ctypes.data, None)
        if known is not None:
            self._unlock([memory.ctypes.data])

    def covers(self, array: Array) -> bool:
        """The array lies in memory that is page-locked."""
        start = array.ctypes.data
        with self._lock:
            return any(low <= start and start + array.nbytes <= high for low, high in self._ranges.items())

    def close(self) -> None:
        """Give all of it back, as `remove`."""
        with self._lock:
            ranges, self._ranges = self._ranges, {}
        self._unlock(list(ranges))

    def _unlock(self, starts: list[int]) -> None:
        if starts and all_done(self._patience):  # after a failure a copy may be left
            for start in starts:
                _tried("give page-locked memory back", runtime.cudaHostUnregister(start))


class Stream:
    """An order of work on the GPU, independent of others and of the default stream."""

    def __init__(self) -> None:
        flags = runtime.cudaStreamNonBlocking
        # While it is recorded: whoever asked a stream then would spoil the recording. One may wait inside one's own
        # wait, since the garbage collector frees lanes wherever it comes.
        self._lock = threading.RLock()
        self._reached = Event()
        try:
            self._handle = check("make a stream", runtime.cudaStreamCreateWithFlags(flags))
        except CudaError:
            self._reached.close()
            raise
        with _streams_lock:
            _streams.add(self)

    @property
    def address(self) -> int:
        """As a number, for other libraries."""
        return int(self._handle)

    def copy_in(self, target: int, source: Array) -> None:
        """Copy a contiguous array to an address on the GPU; it must not change before the stream is there."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        answer = runtime.cudaMemcpyAsync(target, source.ctypes.data, source.nbytes, kind, self._handle)
        check("copy to the GPU", answer)

    def copy_out(self, target: Array, source: int) -> None:
        """Fill a contiguous array from an address on the GPU."""
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        answer = runtime.cudaMemcpyAsync(target.ctypes.data, source, target.nbytes, kind, self._handle)
        check("copy from the GPU", answer)

    def finish(self, patience: Patience, asked: float) -> bool:
        """Block until all is done that was given to it before; False where the GPU hangs.

        What failed was told by whoever waited for it, and is done. From any thread.

        Args:
            patience: with the GPU.
            asked: since when it is waited for, by the monotonic clock.
        """
        while not self._lock.acquire(timeout=_LOOK_S):
            if patience.is_over(asked):
                return False
        try:
            if self._handle is None:
                return True
            self.record(self._reached)
            while not self._reached.wait(_LOOK_S):
                if patience.is_over(asked):
                    return False
        except CudaError:
            pass
        finally:
            self._lock.release()
        return True

    @contextlib.contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record what is given to the stream inside the block, without running it.

        Raises:
            CudaError: something was given to it that cannot be recorded.
        """
        graph = Graph()
        # Thread-local: other threads go on to reserve memory, which a global capture forbids them.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with self._lock:
            _recording.here = True
            try:
                check("begin to record", runtime.cudaStreamBeginCapture(self._handle, mode))
                try:
                    yield graph
                except BaseException:
                    _, recorded = runtime.cudaStreamEndCapture(self._handle)
                    if recorded is not None and int(recorded):
                        runtime.cudaGraphDestroy(recorded)
                    raise
                recorded = check("end the recording", runtime.cudaStreamEndCapture(self._handle))
            finally:
                _recording.here = False
        graph.take(recorded)

    def launch(self, graph: Graph) -> None:
        """Run what was recorded."""
        check("run a graph", runtime.cudaGraphLaunch(graph.handle, self._handle))

    def record(self, event: Event) -> None:
        """Let an event happen when the stream is there."""
        check("record an event", runtime.cudaEventRecord(event.handle, self._handle))

    def close(self) -> None:
        """Destroy it; harmless when repeated."""
        with self._lock:
            if self._handle is not None:
                handle, self._handle = self._handle, None
                _tried("destroy a stream", runtime.cudaStreamDestroy(handle))
                self._reached.close()


class Graph:
    """Recorded work, by `Stream.capture`."""

    def __init__(self) -> None:
        self.handle: Any = None

    def take(self, recorded: Any) -> None:
        """Make what was recorded runnable."""
        try:
            self.handle = check("make a graph runnable", runtime.cudaGraphInstantiate(recorded, 0))
        finally:
            _tried("destroy a graph", runtime.cudaGraphDestroy(recorded))

    def close(self) -> None:
        """Destroy it; harmless when repeated."""
        if self.handle is not None:
            handle, self.handle = self.handle, None
            _tried("destroy a graph", runtime.cudaGraphExecDestroy(handle))


class Event:
    """A moment in a stream."""

    def __init__(self) -> None:
        self.handle = check("make an event", runtime.cudaEventCreateWithFlags(runtime.cudaEventDisableTiming))

    def wait(self, timeout: float) -> bool:
        """Block until it has happened; False where ``timeout`` seconds have passed.

        Raises:
            CudaError: the work before it failed.
        """
        deadline = time.monotonic() + timeout
        while True:
            (status,) = cast("tuple[Any]", runtime.cudaEventQuery(self.handle))
            if int(status) != int(runtime.cudaError_t.cudaErrorNotReady):
                check("finish its work", (status,))
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Destroy it; harmless when repeated."""
        if self.handle is not None:
            handle, self.handle = self.handle, None
            _tried("destroy an event", runtime.cudaEventDestroy(handle))


_streams: WeakSet[Stream] = WeakSet()
_streams_lock = threading.RLock()  # the garbage collector may come while it is held
_hangs = threading.Event()
_recording = threading.local()
"""Whether this thread records: it may free nothing then."""


def give_up() -> None:
    """Say that the GPU hangs: what frees anything on it would wait for ever, so from now on all is left as it is."""
    _hangs.set()


def all_done(patience: Patience) -> bool:
    """Wait for all that was given to the GPU, before something is freed that it may use; False where it must not be.

    So it is where the GPU hangs, and in the middle of a recording of this thread's, where the garbage collector may
    come. The whole GPU is not waited for: that would spoil what another thread records.
    """
    if getattr(_recording, "here", False):
        return False
    with _streams_lock:
        streams = list(_streams)
    asked = time.monotonic()
    if not _hangs.is_set() and not all(stream.finish(patience, asked) for stream in streams):
        _log.error("the GPU has not answered for %.1f s: what it works on is left behind", time.monotonic() - asked)
        give_up()
    return not _hangs.is_set()
