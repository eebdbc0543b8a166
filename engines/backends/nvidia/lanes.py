"""One request at a time on the GPU: its memory, its stream, and a recorded graph for each size of batch."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import tensorrt as trt

from engines.backends.nvidia.building import MESSAGES
from engines.backends.nvidia.cuda import (
    Array,
    DeviceMemory,
    Event,
    Graph,
    HostMemory,
    PageLocked,
    Stream,
    all_done,
    give_up,
)
from engines.backends.nvidia.kernels import PixelKernels
from engines.backends.nvidia.pixels import Frame
from engines.base import EngineError, Model, RawFrame, Scores
from engines.cancellation import Patience, unanswered
from engines.stragglers import forsake

ALIGNMENT = 256
"""Bytes, as of memory that CUDA reserves."""

_LOOK_S = 0.1
"""Between two looks at whether the engine was told to give up."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Border:
    """What a plan takes and gives.

    Attributes:
        input_name: of the pictures' tensor.
        input_size: (height, width) of one picture.
        input_shape: of one, without the batch.
        input_dtype: of the pictures.
        output_name: of the scores' tensor.
        score_shape: (classes, height, width) of one picture's scores.
        score_dtype: of the scores.
        max_batch: pictures of the largest batch.
    """

    input_name: str
    input_size: tuple[int, int]
    input_shape: tuple[int, int, int]
    input_dtype: np.dtype[np.generic]
    output_name: str
    score_shape: tuple[int, int, int]
    score_dtype: np.dtype[np.generic]
    max_batch: int

    @property
    def picture_bytes(self) -> int:
        """Of one picture."""
        return int(np.prod(self.input_shape)) * self.input_dtype.itemsize

    @property
    def score_bytes(self) -> int:
        """Of one picture's scores."""
        return int(np.prod(self.score_shape)) * self.score_dtype.itemsize


def _aligned(array: Array) -> int:
    """Bytes that an array takes in a room: what follows it may be read in words of any width."""
    return -(-array.nbytes // ALIGNMENT) * ALIGNMENT


class Room:
    """Memory on the GPU, and as much page-locked memory here for what goes there from memory that is not.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.device = DeviceMemory(size)
        try:
            self.host = HostMemory(size)
        except BaseException:
            self.device.close()
            raise

    def close(self) -> None:
        """Free both; harmless when repeated."""
        self.device.close()
        self.host.close()


def new_context(engine: trt.ICudaEngine) -> trt.IExecutionContext:
    """What runs a plan, in memory that it is given later.

    Raises:
        EngineError: TensorRT makes none, most often for want of memory.
    """
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is None:
        raise EngineError(
            f"TensorRT cannot run the plan ({MESSAGES.why()}): the GPU's memory is used up, most often; free some, or "
            "choose a smaller --size"
        )
    return context


Owned = TypeVar("Owned", Stream, Event, DeviceMemory, Room, Graph)


class Lane:
    """Pictures in, scores out, one batch at a time.

    Copies go straight from and to the caller's arrays where they are page-locked, else by memory of the
    lane's own. A recorded graph must not outlive a change of the context that it was recorded from, so each size of
    batch has a context of its own; they share the lane's working memory.

    Args:
        engine: the plan.
        border: what it takes and gives.
        page_locked: what of the callers' memory needs no staging.
        patience: with the GPU.
    """

    def __init__(self, engine: trt.ICudaEngine, border: Border, page_locked: PageLocked, patience: Patience) -> None:
        self._engine = engine
        self._border = border
        self._page_locked = page_locked
        self._patience = patience
        self._began = 0.0
        self._contexts: dict[int, trt.IExecutionContext] = {}
        self._graphs: dict[int, Graph | None] = {}
        self._closed = True
        self._resources = ExitStack()
        try:
            self._stream = self._own(Stream())
            self._done = self._own(Event())
            self._pictures = self._own(Room(border.max_batch * border.picture_bytes))
            self._scores = self._own(Room(border.max_batch * border.score_bytes))
            self._work = self._own(DeviceMemory(engine.device_memory_size_v2))
            self._frames = self._own(Room(0))
            self._labels = self._own(Room(0))
        except EngineError:
            self._resources.close()
            raise
        self._closed = False
        self._waiting: list[tuple[Array, Array]] = []
        self._held: object = None

    def start(self, pictures: Sequence[Array], outs: Sequence[Scores]) -> None:
        """Begin with a batch; nothing here waits for the GPU.

        Args:
            pictures: each as the plan takes it; they must not change before `wait` has returned True.
            outs: an array of scores for each.

        Raises:
            EngineError: TensorRT or CUDA failed.
        """
        with self._beginning((pictures, outs)):
            for index, picture in enumerate(pictures):
                self._send(picture, self._pictures, index * self._border.picture_bytes)
            self._compute(len(pictures))
            for index, out in enumerate(outs):
                self._receive(out, self._scores, index * self._border.score_bytes)
            self._stream.record(self._done)

    def start_frames(self, frames: Sequence[RawFrame], model: Model, kernels: PixelKernels) -> None:
        """Begin with frames as they were decoded; their bytes go in and their labels come out, nothing else.

        Args:
            frames: see `engines.base.RawFrame`.
            model: the network.
            kernels: the GPU's.

        Raises:
            EngineError: as `start`.
        """
        with self._beginning((frames, kernels)):
            self._frames = self._at_least(
                self._frames, sum(_aligned(plane) for each in frames for plane in each.planes)
            )
            self._labels = self._at_least(self._labels, sum(_aligned(each.labels) for each in frames))
            maps = [Frame(each.where, model, self._border.input_size) for each in frames]
            at = 0
            for index, (each, frame) in enumerate(zip(frames, maps, strict=True)):
                addresses = []
                for plane in each.planes:
                    addresses.append(self._frames.device.address + at)
                    self._send(plane, self._frames, at)
                    at += _aligned(plane)
                target = self._pictures.device.address + index * self._border.picture_bytes
                kernels.prepare(self._stream, frame, addresses, target)
            self._compute(len(frames))
            at = 0
            for index, (each, frame) in enumerate(zip(frames, maps, strict=True)):
                scores = self._scores.device.address + index * self._border.score_bytes
                kernels.label(self._stream, frame, scores, self._border.score_shape, self._labels.device.address + at)
                self._receive(each.labels, self._labels, at)
                at += _aligned(each.labels)
            self._stream.record(self._done)

    @contextmanager
    def _beginning(self, held: object) -> Iterator[None]:
        """Nobody frees what copies need; where a step fails, nothing is under way when the lane is used again."""
        self._held, self._waiting = held, []
        try:
            yield
        except BaseException:
            if self._stream.finish(self._patience, time.monotonic()):
                self._waiting, self._held = [], None
            else:
                give_up()
            raise
        self._began = time.monotonic()

    def _send(self, source: Array, room: Room, offset: int) -> None:
        if not self._page_locked.covers(source):
            staged = room.host.array[offset : offset + source.nbytes]
            staged[:] = source.reshape(-1).view(np.uint8)
            source = staged
        self._stream.copy_in(room.device.address + offset, source)

    def _receive(self, out: Array, room: Room, offset: int) -> None:
        target = out
        if not self._page_locked.covers(out):
            target = room.host.array[offset : offset + out.nbytes].view(out.dtype).reshape(out.shape)
            self._waiting.append((out, target))
        self._stream.copy_out(target, room.device.address + offset)

    def _at_least(self, room: Room, size: int) -> Room:
        """The room, or a larger one in its place; the lane has nothing under way."""
        if room.size >= size:
            return room
        larger = self._own(Room(size))  # first: where there is no memory the lane keeps what it has
        room.close()
        return larger

    def wait(self, timeout: float) -> bool:
        """Block until the scores are in their arrays; False where ``timeout`` seconds have passed.

        Raises:
            EngineError: CUDA failed, or does not answer while the engine was told to give up.
        """
        began = time.monotonic()
        while not self._done.wait(min(_LOOK_S, max(0.0, began + timeout - time.monotonic()))):
            if self._patience.is_over(began):
                give_up()
                raise unanswered(began)
            if time.monotonic() - began >= timeout:
                return False
        self._patience.took(time.monotonic() - self._began)
        for out, staged in self._waiting:
            np.copyto(out, staged)
        self._waiting, self._held = [], None
        return True

    def _compute(self, batch: int) -> None:
        """Give the network's work to the stream: plainly the first time, by a recorded graph from then on."""
        if batch not in self._graphs:
            context = self._context(batch)
            self._enqueue(context)
            self._graphs[batch] = self._record(context)
            return
        graph = self._graphs[batch]
        if graph is None:
            self._enqueue(self._contexts[batch])
        else:
            self._stream.launch(graph)

    def _context(self, batch: int) -> trt.IExecutionContext:
        border = self._border
        context = new_context(self._engine)
        context.set_device_memory(self._work.address, self._work.size)
        ready = context.set_input_shape(border.input_name, trt.Dims((batch, *border.input_shape)))
        ready = ready and context.set_tensor_address(border.input_name, self._pictures.device.address)
        ready = ready and context.set_tensor_address(border.output_name, self._scores.device.address)
        if not ready:
            raise EngineError(f"TensorRT cannot run a batch of {batch}: {MESSAGES.why()}")
        self._contexts[batch] = context
        return context

    def _enqueue(self, context: trt.IExecutionContext) -> None:
        if not context.execute_async_v3(self._stream.address):
            raise EngineError(f"TensorRT failed: {MESSAGES.why()}")

    def _record(self, context: trt.IExecutionContext) -> Graph | None:
        """The network's work as a graph, or None where it cannot be recorded."""
        try:
            with self._stream.capture() as graph:
                self._enqueue(context)
        except EngineError as error:
            _log.warning("the network runs without a CUDA graph, somewhat slower: %s", error)
            return None
        return self._own(graph)

    def _own(self, resource: Owned) -> Owned:
        """Free it with the lane, the last one first."""
        self._resources.callback(resource.close)
        return resource

    def close(self) -> None:
        """Wait for what is under way and free everything, where the GPU does not hang; harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        if not all_done(self._patience):
            forsake([self._engine, self._contexts, self._graphs, self._held, self._waiting, self._resources])
            return
        self._contexts.clear()
        self._graphs.clear()
        self._resources.close()

    def __del__(self) -> None:
        # With the last request or session that held it: memory must outlive the work under way.
        if not sys.is_finalizing():
            self.close()
