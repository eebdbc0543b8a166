"""A GPU that is none: CUDA's functions, called with their real signatures, on memory of this process.

Work given to a stream is done as late as it may be: when somebody waits for it. Whoever reads a result too
early, reuses memory too soon, or relies on an order that no event or stream gives, is found out.
"""

from __future__ import annotations

import ctypes
import inspect
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from engines.backends.nvidia.pixels import Labels, Planes, Target
from tests.engines.tensorrt.host_kernels import host_kernels

Work = Callable[[], None]

POLLS = 2
"""An event is told as not ready as often, before the work that leads to it is done."""


WAITING = (
    "cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaFree", "cudaFreeHost",
    "cudaHostUnregister", "cudaMalloc", "cudaHostAlloc", "cudaStreamDestroy", "cudaGraphExecDestroy",
    "cudaEventDestroy",
)  # fmt: skip
"""Functions that may wait for all that the device does; not all of them do always."""


@dataclass
class Stream:
    flags: int
    waiting: list[Work] = field(default_factory=list)
    recording: list[Work] | None = None
    destroyed: bool = False
    working: threading.RLock = field(default_factory=threading.RLock)
    """Held by the thread that does the work: another one that waits, too, must not overtake it."""

    def give(self, work: Work) -> None:
        assert not self.destroyed, "work was given to a stream that is gone"
        (self.waiting if self.recording is None else self.recording).append(work)

    def finish(self, until: Work | None = None) -> None:
        with self.working:
            while self.waiting and (until is None or until in self.waiting):
                self.waiting.pop(0)()


@dataclass
class Event:
    stream: Stream | None = None
    marker: Work | None = None
    polls: int = 0


class Handle:
    """What CUDA hands out: a number that stands for something of its own."""

    def __init__(self, number: int, thing: object) -> None:
        self.number = number
        self.thing = thing

    def __int__(self) -> int:
        return self.number


class FakeCuda:
    """In the place of ``cuda.bindings.runtime``; its constants and enums are the real ones.

    Attributes:
        calls: how often each function was called.
        copies: (kind, bytes) of each copy that was given to a stream.
        fail: names of functions that shall fail.
        current: threads that have chosen the device.
        driver: CUDA version that the driver knows.
        capability: compute capability.
        free: bytes that are left.
        hangs: no work is ever done.
        blocked: functions that were called and would then wait for ever.
    """

    def __init__(self, real: Any) -> None:
        self._real = real
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(0x7000, 16)
        self._device: dict[int, np.ndarray] = {}
        self._host: dict[int, np.ndarray] = {}
        self._registered: dict[int, int] = {}
        self.calls: Counter[str] = Counter()
        self.copies: list[tuple[str, int]] = []
        self.fail: dict[str, str] = {}
        self.streams: list[Stream] = []
        self.current: set[int] = set()
        self.driver = 13000
        self.capability = (8, 9)
        self.hangs = False
        self.free = 20 << 30
        self.blocked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)  # an AttributeError where CUDA has no such name
        if isinstance(real, type | int) or not callable(real):
            return real
        signature = inspect.signature(real)
        action = getattr(type(self), f"_{name}", None)
        assert action is not None, f"the fake does not do {name}"

        def call(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
            bound = signature.bind(*args, **kwargs)
            self.calls[name] += 1
            if self.hangs and name in WAITING:
                self.blocked.append(name)
                raise AssertionError(f"{name} never returns")
            if name in self.fail:
                return (getattr(self._real.cudaError_t, self.fail[name]), *[None] * (name == "cudaMalloc"))
            answer = action(self, *bound.args, **bound.kwargs)
            status = self._real.cudaError_t.cudaSuccess
            if isinstance(answer, type(status)):
                return (answer,)
            if answer is None:
                return (status,)
            return (status, *answer) if isinstance(answer, tuple) else (status, answer)

        return call

    @property
    def alive(self) -> dict[str, int]:
        """What was made and is not yet freed."""
        kinds = Counter(type(handle.thing).__name__ for handle in self._handles.values())
        return {
            name: count
            for name, count in (*kinds.items(), ("device", len(self._device)), ("host", len(self._host)),
                                ("registered", len(self._registered)))
            if count
        }  # fmt: skip

    def view(self, address: int, size: int) -> np.ndarray:
        """Bytes of the device, that somebody has reserved."""
        for start, memory in list(self._device.items()):  # other threads may reserve some
            if start <= address and address + size <= start + memory.nbytes:
                return memory[address - start : address - start + size]
        raise AssertionError(f"{size} bytes at {address} are not reserved on the device")

    def stream(self, handle: Any) -> Stream:
        """A stream by its handle or number."""
        return self._thing(handle, Stream)

    def _thing(self, handle: Any, kind: type) -> Any:
        thing = self._handles[int(handle)].thing
        assert isinstance(thing, kind), f"{thing} is no {kind.__name__}"
        return thing

    def _hand_out(self, thing: object) -> Handle:
        handle = Handle(next(self._numbers), thing)
        self._handles[int(handle)] = handle
        return handle

    def _take_back(self, handle: Any, kind: type) -> Any:
        thing = self._thing(handle, kind)
        del self._handles[int(handle)]
        return thing

    def _page_locked(self, address: int, size: int) -> bool:
        blocks = [*((start, memory.nbytes) for start, memory in list(self._host.items())), *self._registered.items()]
        return any(start <= address and address + size <= start + length for start, length in blocks)

    def _cudaGetErrorString(self, error: Any) -> bytes:
        return str(error).encode()

    def _cudaGetErrorName(self, error: Any) -> bytes:
        return str(error.name).encode()

    def _cudaGetDeviceCount(self) -> int:
        return 1

    def _finish(self) -> None:
        """What frees memory waits for the whole device."""
        for stream in self.streams:
            stream.finish()

    def _cudaSetDevice(self, device: int) -> None:
        assert device == 0
        self.current.add(threading.get_ident())

    def _cudaDriverGetVersion(self) -> int:
        return self.driver

    def _cudaRuntimeGetVersion(self) -> int:
        return 13050

    def _cudaGetDeviceProperties(self, device: int) -> Any:
        major, minor = self.capability
        told = {"name": b"Fake GPU\0\0\0", "major": major, "minor": minor, "totalGlobalMem": 24 << 30}
        assert all(hasattr(self._real.cudaDeviceProp, name) for name in told)
        return SimpleNamespace(**told)

    def _cudaMemGetInfo(self) -> tuple[int, int]:
        return self.free, 24 << 30

    def _cudaMalloc(self, size: int) -> int:
        memory = np.full(size, 0xAA, np.uint8)
        self._device[memory.ctypes.data] = memory
        return memory.ctypes.data

    def _cudaFree(self, address: int) -> None:
        self._finish()
        self._device.pop(address).fill(0x55)

    def _cudaHostAlloc(self, size: int, flags: int) -> int:
        assert flags == self._real.cudaHostAllocPortable
        memory = np.full(size, 0xAA, np.uint8)
        self._host[memory.ctypes.data] = memory
        return memory.ctypes.data

    def _cudaFreeHost(self, address: int) -> None:
        self._finish()
        del self._host[address]

    def _cudaHostRegister(self, address: int, size: int, flags: int) -> None:
        assert flags == self._real.cudaHostRegisterPortable
        assert address not in self._registered
        self._registered[address] = size

    def _cudaHostUnregister(self, address: int) -> None:
        del self._registered[address]

    def _cudaStreamCreateWithFlags(self, flags: int) -> Handle:
        stream = Stream(flags)
        self.streams.append(stream)
        return self._hand_out(stream)

    def _cudaStreamDestroy(self, handle: Any) -> None:
        stream = self._take_back(handle, Stream)
        stream.finish()
        stream.destroyed = True

    def _cudaMemcpyAsync(self, target: int, source: int, count: int, kind: Any, handle: Any) -> None:
        inward = kind == self._real.cudaMemcpyKind.cudaMemcpyHostToDevice
        assert inward or kind == self._real.cudaMemcpyKind.cudaMemcpyDeviceToHost
        host, device = (source, target) if inward else (target, source)
        assert self._page_locked(host, count), "a copy of memory that is not page-locked is not asynchronous"
        self.view(device, count)
        self.copies.append(("in" if inward else "out", count))

        def work() -> None:
            here = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(host))
            assert self._page_locked(host, count), "memory was given back under a copy"
            if inward:
                self.view(device, count)[:] = here
            else:
                here[:] = self.view(device, count)

        self.stream(handle).give(work)

    def _cudaStreamBeginCapture(self, handle: Any, mode: Any) -> None:
        assert mode == self._real.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        stream = self.stream(handle)
        assert stream.recording is None
        stream.recording = []

    def _cudaStreamEndCapture(self, handle: Any) -> Handle:
        stream = self.stream(handle)
        assert stream.recording is not None
        recorded, stream.recording = stream.recording, None
        return self._hand_out(tuple(recorded))

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> Handle:
        assert flags == 0
        return self._hand_out(list(self._thing(graph, tuple)))

    def _cudaGraphDestroy(self, graph: Any) -> None:
        self._take_back(graph, tuple)

    def _cudaGraphExecDestroy(self, graph: Any) -> None:
        self._take_back(graph, list)

    def _cudaGraphLaunch(self, graph: Any, handle: Any) -> None:
        for work in self._thing(graph, list):
            self.stream(handle).give(work)

    def _cudaEventCreateWithFlags(self, flags: int) -> Handle:
        assert flags == self._real.cudaEventDisableTiming
        return self._hand_out(Event())

    def _cudaEventDestroy(self, handle: Any) -> None:
        self._take_back(handle, Event)

    def _cudaEventRecord(self, handle: Any, stream: Any) -> None:
        event = self._thing(handle, Event)
        event.stream, event.marker, event.polls = self.stream(stream), lambda: None, 0
        assert event.stream.recording is None, "an event that is recorded in a graph never happens"
        event.stream.give(event.marker)

    def _cudaEventQuery(self, handle: Any) -> Any:
        event = self._thing(handle, Event)
        if event.stream is None:
            return None
        with event.stream.working:
            if event.marker in event.stream.waiting:
                if self.hangs:
                    return self._real.cudaError_t.cudaErrorNotReady
                event.polls += 1
                if event.polls <= POLLS:
                    return self._real.cudaError_t.cudaErrorNotReady
                event.stream.finish(event.marker)
        return None


class FakeDriver:
    """In the place of ``cuda.bindings.driver``: loads the real machine code, and runs the host's build in its place."""

    def __init__(self, real: Any, gpu: FakeCuda) -> None:
        self._real = real
        self._gpu = gpu
        self.launched: list[str] = []

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, Any]:
        inspect.signature(self._real.cuModuleLoadData).bind(image)
        assert threading.get_ident() in self._gpu.current, "a thread without a context loads code"
        assert image.startswith(b"\x7fELF")
        return self._real.CUresult.CUDA_SUCCESS, image

    def cuModuleUnload(self, module: bytes) -> tuple[Any]:
        inspect.signature(self._real.cuModuleUnload).bind(module)
        assert not self._gpu.hangs
        return (self._real.CUresult.CUDA_SUCCESS,)

    def cuModuleGetFunction(self, module: bytes, name: bytes) -> tuple[Any, Any]:
        inspect.signature(self._real.cuModuleGetFunction).bind(module, name)
        assert name in module
        return self._real.CUresult.CUDA_SUCCESS, name.decode()

    def cuLaunchKernel(self, *args: Any) -> tuple[Any]:
        bound = inspect.signature(self._real.cuLaunchKernel).bind(*args).arguments
        name, kinds = bound["f"], {"label": (Labels,)}
        pointers = (ctypes.c_void_p * 2).from_address(bound["kernelParams"])
        structures = [
            kind.from_buffer_copy(ctypes.string_at(at, ctypes.sizeof(kind)))
            for kind, at in zip(kinds.get(name, (Planes, Target)), pointers, strict=False)
        ]
        assert bound["extra"] == 0
        grid = [bound[key] for key in ("gridDimX", "gridDimY", "blockDimX", "blockDimY")]
        self.launched.append(name)

        def work() -> None:
            for structure in structures:
                self._check(structure)
            addresses = (ctypes.c_void_p * len(structures))(*map(ctypes.addressof, structures))
            getattr(host_kernels(), f"launch_{name}")(*grid, addresses)

        self._gpu.stream(bound["hStream"]).give(work)
        return (self._real.CUresult.CUDA_SUCCESS,)

    def _check(self, structure: ctypes.Structure) -> None:
        """What the kernel will touch is reserved on the device."""
        if isinstance(structure, Planes):
            assert not (structure.wide and any(at % 2 for at in (structure.y, structure.u, structure.v))), "not aligned"
            self._gpu.view(structure.y, structure.y_pitch * structure.height * (1 + structure.wide))
        elif isinstance(structure, Target):
            size = (1, 2, 4)[structure.kind]
            self._gpu.view(structure.out, 3 * structure.height * structure.width * size)
        elif isinstance(structure, Labels):
            self._gpu.view(structure.scores, structure.classes * structure.score_height * structure.score_width * 4)
            self._gpu.view(structure.out, structure.pitch * structure.height)
