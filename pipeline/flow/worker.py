"""What a worker process does: map rings, do jobs on their slots, say so.  Never a pixel on the wire."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from pipeline.errors import PipelineError
from pipeline.flow import logs
from pipeline.flow.wire import Attach, Detach, Done, Failed, Job, Ready, Setup, Wire
from pipeline.slots import Ring, Slot

JobFunction = Callable[[Slot, int, float | None], object]
"""Takes a slot, the index of its frame and its deadline (see `Job`), and writes the slot's labels.

What it returns travels, so keep it small.
"""


def run(name: str, jobs: Wire, log_wire: Wire) -> None:
    """Work until the parent closes the wire."""
    multiprocessing.current_process().name = name  # what log records show
    _Worker(jobs, log_wire).serve()


class _Worker:
    def __init__(self, jobs: Wire, log_wire: Wire) -> None:
        self._jobs = jobs
        self._log_wire = log_wire
        self._rings: dict[int, Ring] = {}
        self._perform: JobFunction = _not_set_up

    def serve(self) -> None:
        """Take messages until there is nobody who would send any."""
        try:
            while True:
                for raw, fds in self._jobs.receive():
                    self._handle(pickle.loads(raw), fds)
        except (EOFError, ConnectionError):
            return

    def _handle(self, message: object, fds: list[int]) -> None:
        answer: Ready | Done | Failed | None
        try:
            answer = self._obey(message, fds)
        except BaseException as error:  # nothing may leave here unreported, SystemExit neither
            answer = _failure(error, message)
        if answer is not None:
            self._answer(answer, message)

    def _obey(self, message: object, fds: list[int]) -> Ready | Done | None:
        match message:
            case Job(lane, slot, index, deadline):
                began = time.perf_counter()
                value = self._perform(self._rings[lane][slot], index, deadline)
                return Done(time.perf_counter() - began, value)
            case Attach(lane, layout, count):
                self._rings[lane] = Ring.attach(fds[0], layout, count)
            case Detach(lane):
                self._rings.pop(lane).close()
            case Setup(target, spec, levels):
                logs.install_in_worker(self._log_wire, levels)
                self._perform = resolve(target)(pickle.loads(spec))
                _limit_opencv()
                return Ready()
        return None

    def _answer(self, answer: Ready | Done | Failed, message: object) -> None:
        try:
            self._jobs.send(answer)
        except (pickle.PicklingError, TypeError, AttributeError) as error:  # what the job function returned
            self._jobs.send(_failure(error, message))


def resolve(target: str) -> Callable[[Any], JobFunction]:
    """The callable that ``"module:name"`` names.

    Raises:
        PipelineError: there is none.
    """
    module, _, name = target.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not callable(found):
        raise PipelineError(f"{target} does not name a callable")
    return found  # type: ignore[no-any-return]


def _failure(error: BaseException, during: object) -> Failed:
    message = str(error) if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return Failed(isinstance(during, Job), type(error).__name__, message, trace)


def _limit_opencv() -> None:
    """OpenCV asks no environment variable in older versions; it starts its threads at first use."""
    cv2 = sys.modules.get("cv2")
    if cv2 is not None:
        cv2.setNumThreads(1)


def _not_set_up(slot: Slot, index: int, _: float | None) -> object:
    raise PipelineError(f"frame {index} came to slot {slot.index} before the worker was set up")
