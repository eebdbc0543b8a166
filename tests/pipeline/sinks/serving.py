"""Sinks that serve: somebody must look on while they are written to."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeVar

import av
import numpy as np

from engines.labels import CAMVID
from pipeline.frame import Result
from pipeline.sinks.base import Live, Sink
from tests.conftest import need_program
from tests.pipeline.running import until
from tests.pipeline.sinks.made import TAKES, Take

T = TypeVar("T")
Piece = tuple[dict[str, Any], bytes, bytes]
SHOWN = replace(TAKES[0], width=128, height=96, live=True)


class Noise(Take):
    """Pictures and labels that no encoder makes small."""

    def result(self, index: int) -> Result:
        result = super().result(index)
        noise = np.random.default_rng(index)
        y, u, v = (noise.integers(16, 235, plane.shape, np.uint8) for plane in result.frame.planes)
        labels = noise.integers(0, len(CAMVID), result.labels.shape, np.uint8)
        return replace(result, frame=replace(result.frame, planes=(y, u, v)), labels=labels)


NOISE = Noise("noise", 360, 640, ticks=(0, 512), live=True)


def without_own_cache() -> dict[str, str]:
    """The environment of GStreamer's programs, which else would look through all plugins anew for ten seconds."""
    return {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}


class Task:
    """A function in a thread; its result or its error is kept."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._value: Any = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error

    def result(self, timeout: float = 20) -> Any:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "it has not ended"
        if self._error is not None:
            raise self._error
        return self._value


def watched(sink: Sink, take: Take, look: Callable[[], T], frames: int | None = None) -> T:
    """What somebody sees who looks on from the first frame to the last."""
    assert isinstance(sink, Live)
    sink.open(take.info())
    task = Task(look)
    try:
        until(lambda: sink.clients, 10, "a client")
        for index in range(len(take.ticks) if frames is None else frames):
            sink.write(take.result(index))
    finally:
        sink.close()
    seen: T = task.result()
    return seen


@contextmanager
def on_air(sink: Sink, take: Take = SHOWN, rate: float = 25) -> Iterator[None]:
    """The sink is given the take's pictures over and over, at a pace, until the block ends."""
    over = threading.Event()
    sink.open(take.info())
    step = Fraction(1) / Fraction(rate)

    def feed() -> None:
        began = time.monotonic()
        number = 0
        while not over.wait(max(0.0, began + number / rate - time.monotonic())):
            result = take.result(number % len(take.ticks))
            frame = replace(result.frame, index=number, pts=number * step, wall_ns=time.time_ns())
            sink.write(replace(result, frame=replace(frame, captured_ns=time.monotonic_ns())))
            number += 1

    task = Task(feed)
    try:
        yield
    finally:
        over.set()
        try:
            task.result()
        finally:
            sink.close()


def play(url: str, frames: int | None = None, **options: str) -> list[av.VideoFrame]:
    """Pictures as PyAV shows them, to the end of the stream or to a number of them."""
    seen = []
    quick = {"analyzeduration": "0", "probesize": "32"}
    given = {"rtsp_transport": "tcp", **quick, **options} if url.startswith("rtsp") else options
    with av.open(url, options=given, timeout=15) as container:
        for frame in container.decode(video=0):
            seen.append(frame)
            if len(seen) == frames:
                break
    return seen


def page_pieces(
    url: str | urllib.request.Request, count: int | None = None, context: ssl.SSLContext | None = None
) -> list[Piece]:
    """Pieces of a page's pictures, to the end of the stream or to a number of them: what is told, JPEG, PNG."""
    pieces: list[Piece] = []
    with urllib.request.urlopen(url, timeout=15, context=context) as answer:
        while len(pieces) != count and (head := answer.read(4)):
            said = json.loads(answer.read(int.from_bytes(head)))
            pieces.append((said, answer.read(said["jpeg"]), answer.read(said["png"])))
    return pieces


def run_peer(*command: str) -> str:
    """What a program prints, which must have nothing to complain of."""
    program, *arguments = command
    environment = without_own_cache()
    done = subprocess.run(
        [need_program(program), *arguments], capture_output=True, text=True, timeout=40, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout
