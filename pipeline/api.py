"""The stream from Python: the same machine as the command line's, without the files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Generator
from typing import Any, Literal, TypedDict, Unpack

from pipeline.cli.places import parse_time
from pipeline.config import FLAGS, load_options
from pipeline.flow import Buffer
from pipeline.frame import Result
from pipeline.options import InputOptions, RunOptions
from pipeline.runner import Runner
from pipeline.sinks.base import OutputInfo
from pipeline.sources.base import AudioPacket


class StreamOptions(TypedDict, total=False):
    """Keywords of `stream`; each is the command line's flag of that name, with its default.

    ``config`` is a preset's name or a YAML file; the other keywords win over it.
    ``start`` and ``duration`` are seconds, or text as the flags take it: ``"1:30"``.
    """

    config: str
    model: str
    size: int
    engine: str
    precision: str
    refine: Literal["none", "guided", "crf"]
    crf_workers: int
    crf_iterations: int
    temporal: bool
    infer_every: int | Literal["auto"]
    target_fps: float
    hwaccel: Literal["auto", "none", "cuda"]
    mode: Literal["auto", "live", "lossless"]
    render: Literal["overlay", "mask", "side-by-side"]
    alpha: float
    classes: list[str]
    legend: bool
    start: float | str
    duration: float | str
    max_frames: int
    loop: int
    realtime: bool
    video_size: str
    framerate: float
    pixel_format: str
    rtsp_transport: Literal["auto", "tcp", "udp"]
    reconnect: int
    max_latency: float


def stream(uri: str | os.PathLike[str], **options: Unpack[StreamOptions]) -> Generator[Result]:
    """Segment a video frame by frame.

    Frames flow ahead of the reader, a few at most; in live mode the oldest are dropped
    where the reader is slower.  Leaving the loop early closes everything.

    Args:
        uri: what ``--input`` takes: a file, a camera, an address, ``"sample"`` …
        **options: see `StreamOptions`.

    Yields:
        The `Result` of each frame in order: ``frame`` (the rendered planes), ``labels`` (H×W uint8),
        ``shares`` (C floats) and ``pts`` (exact seconds).

    Raises:
        TypeError: an unknown keyword.
        PipelineError: an input that cannot be read, a wrong option, a stage that failed.
        EngineError: a model or engine that cannot be used.
    """
    given: dict[str, Any] = dict(options)
    preset = given.pop("config", None)
    for name in given:
        if name not in FLAGS:
            close = difflib.get_close_matches(name, FLAGS, n=1)
            raise TypeError(f"stream() has no keyword {name!r}" + (f": did you mean {close[0]!r}?" if close else ""))
    overrides: dict[tuple[str, ...], Any] = {FLAGS[name]: value for name, value in given.items()}
    for name in {"start", "duration"} & given.keys():
        if isinstance(given[name], str):
            overrides[FLAGS[name]] = parse_time(given[name], name)
    overrides[("inputs",)] = (InputOptions(os.fspath(uri)),)
    return _results(load_options(preset, overrides, "stream()"))


def _results(options: RunOptions) -> Generator[Result]:
    results: Buffer[Result] = Buffer(2)
    with Runner(options, extra=(_Handover(results),)) as runner:
        runner.start()
        try:
            yield from results
            runner.finish()
        finally:
            results.abort()
    for loss in runner.losses:
        raise loss


class _Handover:
    """A sink that hands results to the thread that iterates."""

    name = "reader"

    def __init__(self, results: Buffer[Result]) -> None:
        self._results = results

    def open(self, info: OutputInfo) -> None:
        """Nothing to make ready."""

    def write(self, result: Result) -> None:
        """Wait until the reader has room."""
        self._results.put(result)

    def write_audio(self, audio: AudioPacket) -> None:
        """Ignored: a reader of pictures gets no sound."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Nothing to change: every result tells its own size."""

    def close(self) -> None:
        """No more results will come."""
        self._results.close()

    def abort(self) -> None:
        """As `close`: the reader then learns the reason from the runner."""
        self._results.close()
