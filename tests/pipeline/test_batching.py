"""Many inputs, one engine, whole runs: each input gets its own labels in order, whatever happens to the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends import open_engine
from engines.backends.checks import check_arrays
from engines.backends.common import EngineBase, FinishedRequest, Quota, SessionBase
from engines.base import Engine, EngineError, EngineInfo, EngineOptions, Model, Session
from pipeline.errors import SourceError, StageError
from pipeline.options import InputOptions
from pipeline.runner import Runner, batching
from pipeline.sources.demux import Demuxer
from tests.engines.gpu_on_cpu import OnnxRuntimeOnCpu
from tests.engines.tensorrt.conftest import faked, real_tensorrt
from tests.pipeline.clips import Clip
from tests.pipeline.painting import Array
from tests.pipeline.running import Expected, Recorder, masks_of, options_of, plainly, run, tiny_scores, told, until

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

MakeClip = Callable[[str], Clip]


class PlainEngine(EngineBase):
    """The tiny network in numpy, which takes batches."""

    def __init__(self, model: Model, options: EngineOptions) -> None:
        super().__init__(model, EngineInfo("plain", "0", "CPU", "fp32", 1, 2, max_batch=options.batch))

    def _compile(self, height: int, width: int) -> Session:
        return PlainSession((height, width), self._quota)

    def _free(self) -> None:
        pass


class PlainSession(SessionBase):
    def __init__(self, size: tuple[int, int], quota: Quota) -> None:
        super().__init__(size, (1, 3, size[0] // 8, size[1] // 8))
        self._quota = quota

    def start(self, image: Array, out: Array) -> FinishedRequest:
        return self.start_batch((image,), (out,))

    def start_batch(self, images: Sequence[Array], outs: Sequence[Array]) -> FinishedRequest:
        self._quota.take()
        for image, out in zip(images, outs, strict=True):
            check_arrays(image, out, self._size, self._scores)
            np.copyto(out, tiny_scores(image))
        return FinishedRequest(self._quota)


@dataclass
class Shared:
    """The one engine of a run.

    Attributes:
        name: what to ask the run for.
        made: what it gets where that is "auto".
        options: what the run asked it for.
        sizes: of the batches that it was given.
        ways: by which it was given them.
        request_s: how long a request takes at the least, whatever is in it.
        fails: that it shall fail with batches of several.
    """

    name: str
    made: Callable[[Model, EngineOptions], Engine]
    options: list[EngineOptions] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ways: set[str] = field(default_factory=set)
    request_s: float = 0.002
    fails: bool = False

    def open(self, model: Model, choice: str, options: EngineOptions) -> Engine:
        engine = self.made(model, options) if choice == "auto" else open_engine(model, choice, options)
        self.options.append(options)
        compiled = engine._compile  # type: ignore[attr-defined]

        def compile_watched(height: int, width: int) -> Session:
            session = compiled(height, width)
            for way in ("start_batch", "start_frames"):
                if hasattr(session, way):
                    setattr(session, way, self._watched(way, getattr(session, way)))
            return session  # type: ignore[no-any-return]

        engine._compile = compile_watched  # type: ignore[attr-defined]
        return engine

    def _watched(self, way: str, start: Callable[..., Any]) -> Callable[..., Any]:
        def started(frames: Sequence[Any], *more: Any) -> Any:
            time.sleep(self.request_s)  # it is busy, and frames come together
            self.sizes.append(len(frames))
            self.ways.add(way)
            if self.fails and len(frames) > 1:
                raise EngineError("too hot")
            return start(frames, *more)

        return started

    def check(self, expected: Expected, labels: Array) -> None:
        """A GPU scales by arithmetic of its own, which moves an outline here and there."""
        if self.ways == {"start_batch"}:
            expected.check(labels)
        else:
            assert labels.shape == expected.labels.shape
            assert ((labels != expected.labels) & expected.certain).mean() < 0.01


@pytest.fixture(
    params=[
        "plain",
        "onnxruntime",
        pytest.param("fake 10", marks=pytest.mark.slow),
        "fake 11",
        pytest.param("gpu", marks=[pytest.mark.gpu, pytest.mark.timeout(600)]),
    ]
)
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    """Recording engines that take batches: arithmetic, ONNX Runtime as on a GPU, TensorRT on fakes and on a GPU."""
    name = "auto" if request.param in ("plain", "onnxruntime") else "tensorrt"
    engine = Shared(name, OnnxRuntimeOnCpu if request.param == "onnxruntime" else PlainEngine)
    monkeypatch.setattr("pipeline.runner.run.open_engine", engine.open)
    if request.param == "gpu":
        real_tensorrt()
    if request.param.startswith("fake"):
        with faked(int(request.param.split()[1])):
            yield engine
    else:
        yield engine


def test_each_input_gets_its_own_labels_in_its_own_order(
    shared: Shared, clip: MakeClip, tiny: str, tmp_path: Path
) -> None:
    """Inputs of two sizes and three lengths, one of which changes its size in the middle."""
    given = [clip(name) for name in ("h264", "vfr", "odd", "10 bit", "size change")]
    inputs = [InputOptions(str(one.path), f"input-{n}", masks=(f"{tmp_path}/{n}/",)) for n, one in enumerate(given)]
    recorder = Recorder()
    report = run(inputs, tiny, extra=[recorder], engine=shared.name)
    assert [options.batch for options in shared.options] == [8]
    assert report.engine is not None
    assert report.engine.max_batch == 8
    for expected, result in zip(plainly(given[0].path), recorder.results, strict=True):
        shared.check(expected, result.labels)
    assert [one.written for one in report.inputs] == [len(one.numbers) for one in given]
    assert sum(shared.sizes) == report.frames
    assert report.batches is not None
    assert report.batches.streams == 5
    assert report.batches.frames.max == max(shared.sizes) > 1
    assert report.batches.frames.mean == pytest.approx(np.mean(shared.sizes), abs=0.01)
    assert "5 streams on one engine, " in report.as_text()


def test_all_labels_are_those_of_single_frames(shared: Shared, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = [clip(name) for name in ("h264", "vfr", "late")]
    inputs = [InputOptions(str(one.path), masks=(str(tmp_path / f"{n}.mkv"),)) for n, one in enumerate(given)]
    run(inputs, tiny, engine=shared.name)
    assert max(shared.sizes) > 1
    for n, one in enumerate(given):
        for expected, mask in zip(plainly(one.path), masks_of(tmp_path / f"{n}.mkv"), strict=True):
            shared.check(expected, mask)


@pytest.mark.parametrize("flags", [{"temporal": True}, {"refine": "guided", "crf_workers": 1}], ids=["mean", "guided"])
def test_scores_come_here_where_something_works_on_them(
    flags: dict[str, Any], shared: Shared, clip: MakeClip, tiny: str
) -> None:
    inputs = [InputOptions(str(clip("h264").path), name, outputs=("null",)) for name in "ab"]
    report = run(inputs, tiny, engine=shared.name, **flags)
    assert report.frames == 60
    assert shared.ways == {"start_batch"}
    assert max(shared.sizes) > 1


def test_labels_alone_come_here_where_nothing_does(shared: Shared, clip: MakeClip, tiny: str) -> None:
    """From an engine that scales and labels by itself: nothing of that is left to the processor."""
    recorder = Recorder()
    report = run([InputOptions(str(clip("10 bit").path))], tiny, engine=shared.name, extra=[recorder])
    by_itself = shared.name != "auto"
    assert shared.ways == {"start_frames" if by_itself else "start_batch"}
    assert ("upsample" in report.inputs[0].stages) != by_itself
    for expected, result in zip(plainly(clip("10 bit").path), recorder.results, strict=True):
        shared.check(expected, result.labels)
        assert result.shares == pytest.approx(np.bincount(result.labels.ravel(), minlength=3) / result.labels.size)


def test_a_single_input_never_waits(shared: Shared, clip: MakeClip, tiny: str) -> None:
    report = run([InputOptions(str(clip("h264").path), outputs=("null",))], tiny, engine=shared.name)
    assert [options.batch for options in shared.options] == [1]
    assert set(shared.sizes) == {1}
    assert report.batches is not None
    assert report.batches.waited_ms < 0.2
    assert "streams" not in report.as_text()


@pytest.mark.parametrize("mode", ["lossless", "live"])
def test_a_stuck_input_holds_up_no_other(mode: str, shared: Shared, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    stuck, release = threading.Event(), threading.Event()

    def block(step: str, index: int) -> None:
        if step == "write" and index >= 2:
            stuck.set()
            assert release.wait(50)

    given = [clip(name) for name in ("h264", "h264", "late ts")]
    free = [tmp_path / f"{n}.mkv" for n in (1, 2)]
    inputs = [InputOptions(str(given[0].path), "stuck")]
    inputs += [
        InputOptions(str(one.path), path.stem, masks=(str(path),)) for one, path in zip(given[1:], free, strict=True)
    ]
    recorder = Recorder(block)
    pace = {"realtime": True} if mode == "live" else {}
    options = options_of(inputs, tiny, engine=shared.name, mode=mode, **pace)
    with Runner(options, extra=[recorder]) as runner:
        runner.start()
        assert stuck.wait(20)
        until(lambda: all(path.exists() for path in free), 20, "the end of the other inputs")
        release.set()
        report = runner.finish()
    assert [result.index for result in recorder.results] == sorted(result.index for result in recorder.results)
    for one, said, path in zip(given[1:], report.inputs[1:], free, strict=True):
        assert len(masks_of(path)) == len(one.numbers) - said.dropped
        assert said.dropped == 0 or mode == "live"
    assert report.batches is not None
    assert report.batches.waited_ms <= 1.2 * batching.LONGEST_WAIT_S * 1e3


def test_an_input_that_is_lost_ends_alone(
    shared: Shared, clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets, lost = Demuxer.packets, clip("late ts")

    def losing(self: Demuxer) -> Iterator[Any]:
        for number, packet in enumerate(packets(self)):
            if number == 12 and self.target.shown == str(lost.path):
                raise SourceError("cam: lost")
            yield packet

    monkeypatch.setattr(Demuxer, "packets", losing)
    whole = [clip("h264"), clip("h264 lossy")]
    inputs = [InputOptions(str(one.path), f"{n}", outputs=("null",)) for n, one in enumerate([*whole, lost])]
    report = run(inputs, tiny, engine=shared.name)
    assert report.error == "cam: lost"
    assert [one.written for one in report.inputs[:2]] == [len(one.numbers) for one in whole]
    assert 0 < report.inputs[2].written < 12
    assert sum(shared.sizes) == report.frames


def test_an_engine_serves_more_cameras_than_it_could_one_by_one(shared: Shared, clip: MakeClip, tiny: str) -> None:
    """Four of 25 frames a second, where 1 / 0.016 s is 62.5: that takes 1.6 frames a request at the least."""
    inputs = [InputOptions(str(clip("h264").path), name, outputs=("null",)) for name in "abcd"]
    run(inputs, tiny, engine=shared.name)  # what a process compiles once is compiled where nothing hurries
    shared.request_s = 0.016
    report = run(inputs, tiny, engine=shared.name, mode="live", realtime=True)
    # How many are dropped in the end depends on who else is at work on this machine.
    assert report.batches is not None
    assert report.batches.frames.mean > 1.6
    assert report.batches.waited_ms <= 1.2 * batching.LONGEST_WAIT_S * 1e3


def test_a_batch_that_fails_is_told_with_its_inputs(shared: Shared, clip: MakeClip, tiny: str) -> None:
    shared.fails = True
    inputs = [InputOptions(str(clip("h264").path), name, outputs=("null",)) for name in ("door", "yard")]
    with told(StageError, "too hot") as what:
        run(inputs, tiny, engine=shared.name)
    assert what.stage == "infer"
    assert "door + yard" in what.message or "yard + door" in what.message


def test_a_network_for_one_picture_is_not_asked_for_more(shared: Shared, clip: MakeClip, tmp_path: Path) -> None:
    import onnx

    from tests.pipeline.tiny import tiny_model

    path = tiny_model(tmp_path / "single.onnx")
    graph = onnx.load(path)
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, path)
    inputs = [InputOptions(str(clip("single").path), name, outputs=("null",)) for name in "ab"]
    report = run(inputs, str(path), engine=shared.name)
    assert [options.batch for options in shared.options] == [1]
    assert report.frames == 2
