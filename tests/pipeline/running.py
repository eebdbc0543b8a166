"""Whole runs: started here or as a program, and compared with plain arithmetic."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.config import FLAGS, load_options
from pipeline.frame import Frame, Geometry
from pipeline.options import InputOptions, RunOptions
from pipeline.reports import Report
from pipeline.runner import Runner
from pipeline.sinks.base import OutputInfo, Sink
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.base import AudioPacket, Decoded
from pipeline.stages.prepare import prepare
from tests.conftest import need_program
from tests.pipeline import tiny
from tests.pipeline.painting import Array

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = (sys.executable, str(ROOT / "run_pipeline.py"))

# ---- the same by plain arithmetic


@dataclass(frozen=True)
class Expected:
    """What one frame must become: labels where they are certain."""

    frame: Frame
    labels: Array
    certain: Array

    def check(self, labels: Array) -> None:
        assert labels.shape == self.labels.shape
        wrong = (labels != self.labels) & self.certain
        assert not wrong.any(), f"frame {self.frame.index}: {wrong.sum()} of {wrong.size} labels are wrong"


@dataclass(frozen=True)
class PlainNetwork:
    """A network as plain arithmetic.

    Attributes:
        scores: of H×W×3 bytes, C×h×w.
        stride: H and W must be multiples of this.
        lead: labels are certain where the best score leads by more than this.
    """

    scores: Callable[[Array], Array]
    stride: int
    lead: float


def plainly(
    uri: str | Path, size: int = tiny.SIZE, network: PlainNetwork | None = None, **source: Any
) -> Iterator[Expected]:
    """Every frame of an input as a network must label it: one after the other, without the stream.

    By default that is the tiny one, in numpy; its scores are multiples of 1/128 and exact in any arithmetic.
    """
    network = network or PlainNetwork(tiny_scores, tiny.STRIDE, 1e-3)
    opened = open_source(str(uri), SourceOptions(**source))
    try:
        for item in opened.read():
            if isinstance(item, Decoded):
                yield _plainly(item, size, network)
    finally:
        opened.close()


def _plainly(decoded: Decoded, size: int, network: PlainNetwork) -> Expected:
    frame = decoded.frame
    shown = (Fraction(frame.height), frame.width * frame.sample_aspect_ratio)
    picture = [round(side * size / min(shown)) for side in shown]  # square pixels, nothing stretched
    given = [-(-side // network.stride) * network.stride for side in picture]
    geometry = Geometry(frame.height, frame.width, picture[0], picture[1], given[0], given[1])
    image = np.empty((*given, 3), np.uint8)
    prepare(decoded.picture, geometry, image, frame.colour)
    height, width = picture
    assert (image[:height, width:] == image[:height, width - 1 : width]).all(), "the edge must go on"
    assert (image[height:] == image[height - 1]).all()
    coarse = network.scores(image)
    # Pixel centres of the frame, in the input, in cells: centres lie at halves.
    rows, columns = (
        (np.arange(side) + 0.5) * shown_as / side * cells / all_of_it - 0.5
        for side, shown_as, cells, all_of_it in zip(
            (frame.height, frame.width), picture, coarse.shape[1:], given, strict=True
        )
    )
    full = between(between(coarse, 1, rows), 2, columns)
    ranked = np.sort(full, axis=0)
    return Expected(frame, full.argmax(axis=0).astype(np.uint8), ranked[-1] - ranked[-2] > network.lead)


def tiny_scores(image: Array) -> Array:
    """What the tiny network gives for H×W×3 bytes: 3×h×w."""
    height, width = image.shape[0] // tiny.STRIDE, image.shape[1] // tiny.STRIDE
    blocks = image.reshape(height, tiny.STRIDE, width, tiny.STRIDE, 3).astype(np.float64).mean(axis=(1, 3))
    weights = 1.5 * np.eye(3) - 0.5
    return (blocks @ weights).transpose(2, 0, 1)


def between(array: Array, axis: int, at: Array) -> Array:
    """The array at fractional positions of one of its three axes: linear, clamped at the ends."""
    at = np.clip(at, 0, array.shape[axis] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, array.shape[axis] - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    part = (at - low).reshape(shape)
    return array.take(low, axis) * (1 - part) + array.take(high, axis) * part


# ---- runs in this process


def options_of(inputs: Sequence[InputOptions], model: str, **flags: Any) -> RunOptions:
    """Options of a run; flags by the names of the command line's."""
    given = {"model": model, "precision": "fp32", "engine": "openvino", **flags}
    overrides: dict[tuple[str, ...], Any] = {FLAGS[name]: value for name, value in given.items()}
    overrides[("inputs",)] = tuple(inputs)
    return load_options(None, overrides)


def run(inputs: Sequence[InputOptions], model: str, *, extra: Sequence[Sink] = (), **flags: Any) -> Report:
    """Run to the end."""
    with Runner(options_of(inputs, model, **flags), extra=extra) as runner:
        return runner.run()


class Recorder:
    """A sink that keeps what it is told; ``on`` is called before each step and may raise or wait.

    Steps are "open", "write", "write_audio", "reconfigure", "close" and "abort".
    """

    def __init__(self, on: Callable[[str, int], None] | None = None, name: str = "recorder") -> None:
        self.name = name
        self.steps: list[str] = []
        self.results: list[Any] = []
        self.infos: list[OutputInfo] = []
        self.audio: list[AudioPacket] = []
        self._on = on

    def _step(self, step: str, index: int = -1) -> None:
        self.steps.append(step)
        if self._on is not None:
            self._on(step, index)

    def open(self, info: OutputInfo) -> None:
        self.infos.append(info)
        self._step("open")

    def write(self, result: Any) -> None:
        self._step("write", result.index)
        self.results.append(result)

    def write_audio(self, audio: AudioPacket) -> None:
        self.audio.append(audio)
        self._step("write_audio")

    def reconfigure(self, info: OutputInfo) -> None:
        self.infos.append(info)
        self._step("reconfigure")

    def close(self) -> None:
        self._step("close")

    def abort(self) -> None:
        self._step("abort")

    @property
    def indices(self) -> list[int]:
        return [result.index for result in self.results]


# ---- what is told


@dataclass
class Told:
    """What is left of an exception; it itself would keep alive all that its traceback mentions."""

    message: str = ""
    stage: str | None = None
    index: int | None = None
    cause: str = ""
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def told(kind: type[Exception], message: str) -> Iterator[Told]:
    """As `pytest.raises`, but the exception is forgotten in the end."""
    what = Told()
    try:
        yield what
    except kind as error:
        assert type(error) is kind, repr(error)
        assert message in str(error), repr(error)
        what.message, what.cause = str(error), str(error.__cause__)
        what.stage, what.index = getattr(error, "stage", None), getattr(error, "index", None)
        what.notes = tuple(getattr(error, "__notes__", ()))
    else:
        pytest.fail(f"no {kind.__name__}")


# ---- runs of the program


def arguments(source: str | Path, model: str | None, *more: str | Path) -> list[str]:
    """Flags of a run as the program takes them."""
    model_flags = [] if model is None else ["--model", model, "--engine", "openvino", "--precision", "fp32"]
    return ["--input", str(source), *model_flags, *map(str, more)]


def program(*flags: str | Path, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the program to its end; its output is text."""
    return subprocess.run(
        [*PROGRAM, *map(str, flags)],
        capture_output=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
        cwd=more.pop("cwd", ROOT),
        **more,
    )


@contextlib.contextmanager
def started(*flags: str | Path, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The program while it runs; killed with its children if the test leaves it running."""
    process = subprocess.Popen(
        [*PROGRAM, *map(str, flags)],
        stdout=more.pop("stdout", subprocess.PIPE),
        stderr=more.pop("stderr", subprocess.PIPE),
        cwd=ROOT,
        start_new_session=True,
        **more,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def until(condition: Callable[[], Any], timeout: float = 30, what: str = "it") -> Any:
    """Wait for a condition and return what it gave."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        got = condition()
        if got:
            return got
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {timeout} s")


def one_line_error(done: subprocess.CompletedProcess[str], *said: str, status: int = 1) -> str:
    """The program's only complaint: one line, no traceback, naming all of ``said``."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("INFO:", "WARNING:"))]
    assert len(errors) == 1, done.stderr
    assert "error: " in errors[0]
    for each in said:
        assert each in errors[0], (each, errors[0])
    return errors[0]


# ---- what came out


def times(path: Path | str) -> list[Fraction]:
    """Presentation times of a video's pictures, in order."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]  # type: ignore[operator]


def masks_of(path: Path | str) -> list[Array]:
    """Gray levels of every picture of a mask video."""
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "ffv1"
        return [frame.to_ndarray() for frame in container.decode(video=0)]


def sidecar_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and frame lines beside a mask video."""
    header, *lines = [json.loads(line) for line in path.with_name(path.name + ".jsonl").read_text().splitlines()]
    return header, lines


def probe(path: Path | str, entries: str, *more: str) -> dict[str, Any]:
    """What ffprobe says."""
    command = [need_program("ffprobe"), "-v", "error", "-of", "json", "-show_entries", entries, *more, str(path)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def tree(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
