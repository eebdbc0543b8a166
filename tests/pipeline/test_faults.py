"""Whatever fails reaches the user once and says where; nothing hangs, nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.runner.epoch
import pipeline.runner.labelling
from engines.backends.common import LaneRequest
from engines.backends.openvino import OpenVINOSession
from engines.base import EngineError
from pipeline.errors import PipelineError, SinkError, SourceError, StageError
from pipeline.flow import Closed, Crew, WorkerPool
from pipeline.options import InputOptions
from pipeline.reports import Report
from pipeline.runner import Runner
from pipeline.sources.demux import Demuxer
from pipeline.sources.playing import Playback
from pipeline.stages.render import Renderer
from tests.pipeline.clips import Clip
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.refine_jobs import Fault
from tests.pipeline.running import Recorder, masks_of, options_of, plainly, run, told, tree

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]
AT = 7


@contextlib.contextmanager
def soon(seconds: float = 10) -> Iterator[None]:
    """See that the block takes no longer: no deadline had to pass."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def at_frame(function: Callable[..., Any], frame: int = AT) -> Callable[..., Any]:
    """The function, but for its call number ``frame``, which raises."""
    calls = iter(range(10**6))

    def faulty(*args: Any, **more: Any) -> Any:
        if next(calls) == frame:
            raise RuntimeError("on purpose")
        return function(*args, **more)

    return faulty


STAGES: dict[str, tuple[object, str, str]] = {
    "decode": (Playback, "_frame", "decode"),
    "prepare": (pipeline.runner.epoch, "prepare", "prepare"),
    "start": (OpenVINOSession, "start", "infer"),
    "wait": (LaneRequest, "wait", "infer"),
    "upsample": (pipeline.runner.labelling, "upsample_argmax", "upsample"),
    "render": (Renderer, "render", "render"),
}


@pytest.mark.parametrize("which", STAGES)
def test_a_stage_that_fails(
    which: str, clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, stage = STAGES[which]
    monkeypatch.setattr(owner, name, at_frame(getattr(owner, name)))
    recorder = Recorder()
    outputs = (str(tmp_path / "deep/out.mp4"), f"{tmp_path}/pictures/")
    given = InputOptions(str(clip("long").path), outputs=outputs, masks=(str(tmp_path / "masks.mkv"),))
    with nothing_left(), soon(), Runner(options_of([given], tiny), extra=[recorder]) as runner:
        with told(StageError, "on purpose") as error:
            runner.run()
        assert (error.stage, error.index) == (stage, AT)
        assert error.message == f"long, frame {AT}: {stage} failed: RuntimeError: on purpose"
        runner.finish()  # told once
    assert recorder.indices == list(range(len(recorder.indices)))
    assert len(recorder.indices) <= AT
    assert recorder.steps[-1] == "abort"
    assert tree(tmp_path) == []


@pytest.fixture
def known_late(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What a sink sets that is finished: until then, and for half a second, others do not know of a failure."""
    finished, fail = threading.Event(), Crew._fail

    def late(crew: Crew, error: BaseException) -> None:
        finished.wait(0.5)
        fail(crew, error)

    monkeypatch.setattr(Crew, "_fail", late)
    return finished


def test_a_reader_that_fails_is_no_end_of_its_stream(
    known_late: threading.Event, clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, name, _ = STAGES["decode"]
    monkeypatch.setattr(owner, name, at_frame(getattr(owner, name)))
    recorder = Recorder(lambda step, _: known_late.set() if step == "close" else None)
    given = InputOptions(str(clip("h264").path), outputs=(str(tmp_path / "out.mp4"),))
    with nothing_left(), soon(), told(StageError, "on purpose"):
        run([given], tiny, extra=[recorder])
    assert recorder.steps[-1] == "abort"
    assert tree(tmp_path) == []


def test_a_session_that_cannot_be_made(
    clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a second size, when frames of the first are in flight."""
    opened = pipeline.runner.epoch.Epoch.open
    monkeypatch.setattr(pipeline.runner.epoch.Epoch, "open", at_frame(opened, 1))
    given = InputOptions(str(clip("size change").path), outputs=(str(tmp_path / "out.mp4"),))
    with nothing_left(), soon(), told(StageError, "on purpose") as error:
        run([given], tiny)
    assert (error.stage, error.index) == ("prepare", 24)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("step", ["open", "write", "write_audio", "reconfigure", "close"])
@pytest.mark.parametrize("kind", [RuntimeError, SinkError])
def test_a_sink_that_fails(step: str, kind: type[Exception], clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    def fail(now: str, index: int) -> None:
        if now == step and (step != "write" or index == AT):
            raise kind("on purpose")

    name = {"write_audio": "aac", "reconfigure": "size change"}.get(step, "h264")
    recorder = Recorder(fail)
    other = tmp_path / "other.mp4"
    other.write_bytes(b"as before")
    given = InputOptions(str(clip(name).path), outputs=(str(other),))
    with nothing_left(), soon(), told(SinkError if kind is SinkError else StageError, "on purpose") as error:
        run([given], tiny, extra=[recorder])
    if kind is RuntimeError:
        assert error.stage == "recorder"
        assert error.index == {"open": 0, "write": AT, "reconfigure": 24}.get(step, error.index)
    assert recorder.steps.count("abort") == 1
    assert recorder.steps[-1] == "abort"
    if step != "close":  # by then the other one may be finished, and is kept
        assert other.read_bytes() == b"as before"
    assert tree(tmp_path) == ["other.mp4"]


def test_the_first_failure_is_the_one_that_is_told(clip: MakeClip, tiny: str) -> None:
    """All sinks fail, one after the other and in closing too."""

    def fail(step: str, index: int) -> None:
        if step in ("close", "abort") or (step == "write" and index == AT):
            raise RuntimeError(f"in {step}")

    with soon(), told(StageError, f"h264, frame {AT}: recorder failed: RuntimeError: in write"):
        run([InputOptions(str(clip("h264").path))], tiny, extra=[Recorder(fail), Recorder(fail), Recorder(fail)])


def test_a_failure_ends_every_input(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    def fail(step: str, index: int) -> None:
        if step == "write" and index == AT:
            raise RuntimeError("on purpose")

    inputs = [
        InputOptions(str(clip("h264").path), "first"),
        InputOptions("lavfi:testsrc2=size=96x80:rate=25", "endless", outputs=(str(tmp_path / "endless.mkv"),)),
    ]
    with nothing_left(), soon(), told(StageError, "first, frame 7: recorder failed"):
        run(inputs, tiny, extra=[Recorder(fail)])
    assert tree(tmp_path) == []


@pytest.mark.slow
def test_a_failure_is_told_although_another_sink_is_stuck(clip: MakeClip, tiny: str) -> None:
    """A thread that waits outside cannot be ended, but must not keep the message back."""
    stuck, release = threading.Event(), threading.Event()

    def stick(step: str, _: int) -> None:
        if step == "write":
            stuck.set()
            release.wait(50)

    def fail(step: str, _: int) -> None:
        if step == "write":
            assert stuck.wait(20)
            raise RuntimeError("on purpose")

    with nothing_left():
        try:
            with soon(), told(StageError, "on purpose") as error:
                run([InputOptions(str(clip("h264").path))], tiny, extra=[Recorder(stick, "stuck"), Recorder(fail)])
            assert "h264 → stuck" in error.notes[0]
        finally:
            release.set()


# ---- refining workers


@pytest.fixture
def faulty_pool(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], None]:
    """Makes runs refine by `refine_jobs`."""

    def use(fault: Fault) -> None:
        monkeypatch.setattr("pipeline.runner.run.worker_pool", lambda *_: WorkerPool(2, fault))

    return use


def refined_run(clip: MakeClip, tiny: str, tmp_path: Path) -> tuple[Report, Recorder]:
    recorder = Recorder()
    given = InputOptions(str(clip("h264").path), masks=(str(tmp_path / "masks.mkv"),))
    return run([given], tiny, extra=[recorder], refine="guided", crf_workers=2), recorder


def test_a_refining_worker_that_raises(
    clip: MakeClip, tiny: str, tmp_path: Path, faulty_pool: Callable[[Fault], None]
) -> None:
    faulty_pool(Fault("raise", AT))
    with nothing_left(), soon(20), told(StageError, "on purpose") as error:
        refined_run(clip, tiny, tmp_path)
    assert (error.stage, error.index) == ("refine", AT)
    assert error.message == f"h264: refine failed on frame {AT}: ValueError: on purpose"
    assert "refine_jobs.py" in error.cause
    assert tree(tmp_path) == []


def test_refining_workers_that_cannot_be_set_up(
    clip: MakeClip, tiny: str, tmp_path: Path, faulty_pool: Callable[[Fault], None]
) -> None:
    faulty_pool(Fault("setup"))
    with nothing_left(), soon(20), told(StageError, "no such parameters"):
        refined_run(clip, tiny, tmp_path)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(("kind", "unrefined"), [("die once", 0), ("die", 1)])
def test_a_refining_worker_that_dies(
    *,
    kind: str,
    unrefined: int,
    clip: MakeClip,
    tiny: str,
    tmp_path: Path,
    faulty_pool: Callable[[Fault], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    faulty_pool(Fault(kind, AT, str(tmp_path_factory.mktemp("marks"))))
    with nothing_left(), soon(20):
        report, recorder = refined_run(clip, tiny, tmp_path)
    assert recorder.indices == list(range(30))
    assert report.inputs[0].unrefined == unrefined
    assert report.worker_deaths == (2 if kind == "die" else 1)
    assert report.error is None
    assert [result.index for result in recorder.results if not result.refined] == [AT] * unrefined
    for expected, mask in zip(plainly(clip("h264").path), masks_of(tmp_path / "masks.mkv"), strict=True):
        expected.check(mask)


@pytest.mark.parametrize("whom", ["worker", "every worker"])
def test_sigkill_from_outside_loses_no_frame(whom: str, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given, masks = clip("long"), tmp_path / "masks.mkv"
    killed: list[int] = []

    def kill(step: str, index: int) -> None:
        if step == "write" and index in (20, 60, 61, 120):
            pids = runner._pool.pids[1:]  # type: ignore[union-attr]
            for pid in pids if whom == "every worker" else pids[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    inputs = [InputOptions(str(given.path), masks=(str(masks),))]
    options = options_of(inputs, tiny, refine="guided", crf_workers=2)
    recorder = Recorder(kill)
    with nothing_left(), soon(45), Runner(options, extra=[recorder]) as runner:
        report = runner.run()
    assert len(set(killed)) >= 2
    assert recorder.indices == list(range(250))
    reference = tmp_path / "reference.mkv"
    run([InputOptions(str(given.path), masks=(str(reference),))], tiny, refine="guided", crf_workers=1)
    differing = [
        index
        for index, (one, other) in enumerate(zip(masks_of(masks), masks_of(reference), strict=True))
        if not (one == other).all()
    ]
    assert differing == [result.index for result in recorder.results if not result.refined]
    assert report.inputs[0].unrefined == len(differing)


def test_sigkill_to_the_host_is_told(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    def kill(step: str, index: int) -> None:
        if step == "write" and index == 5:
            os.kill(runner._pool.pids[0], signal.SIGKILL)  # type: ignore[union-attr]

    given = InputOptions(str(clip("long").path), masks=(str(tmp_path / "masks.mkv"),))
    options = options_of([given], tiny, refine="guided", crf_workers=2)
    dead = told(PipelineError, "host of the worker processes died")
    with nothing_left(), soon(20), Runner(options, extra=[Recorder(kill)]) as runner, dead:
        runner.run()
    assert tree(tmp_path) == []


def test_who_is_sent_home_ends_no_stream(
    known_late: threading.Event, clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's death is told to one thread alone, and here that is never the one that labels."""
    raise_failure = WorkerPool.raise_failure

    def to_another(pool: WorkerPool) -> None:
        if pool.failed and threading.current_thread().name.endswith(" label"):
            runner._crew.start("another", raise_failure, pool)
            raise Closed
        raise_failure(pool)

    def on(step: str, index: int) -> None:
        if step == "write" and index == 5:
            os.kill(runner._pool.pids[0], signal.SIGKILL)  # type: ignore[union-attr]
        elif step == "close":
            known_late.set()

    monkeypatch.setattr(WorkerPool, "raise_failure", to_another)
    recorder = Recorder(on)
    given = InputOptions(str(clip("long").path), masks=(str(tmp_path / "masks.mkv"),))
    options = options_of([given], tiny, refine="guided", crf_workers=2)
    dead = told(PipelineError, "host of the worker processes died")
    with nothing_left(), soon(20), Runner(options, extra=[recorder]) as runner, dead:
        runner.run()
    assert recorder.steps[-1] == "abort"
    assert tree(tmp_path) == []


# ---- opening


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("pipeline.runner.run.zoo.load_model", EngineError),
        ("pipeline.runner.run.open_engine", EngineError),
        ("pipeline.runner.run.worker_pool", PipelineError),
        ("pipeline.runner.run.Inference", MemoryError),
        ("pipeline.runner.run.open_sources", PipelineError),
    ],
)
def test_an_opening_that_fails_gives_everything_back(
    broken: str, error: type[Exception], clip: MakeClip, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error("on purpose")

    monkeypatch.setattr(broken, fail)
    with nothing_left(), told(error, "on purpose"):
        Runner(options_of([InputOptions(str(clip("h264").path))], tiny, refine="guided"))


def test_an_input_that_is_lost_is_told_after_what_came_was_written(
    clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packets = Demuxer.packets

    def lost(self: Demuxer) -> Iterator[Any]:
        for number, packet in enumerate(packets(self)):
            if number == 20:
                raise SourceError("cam: lost")
            yield packet

    monkeypatch.setattr(Demuxer, "packets", lost)
    masks = tmp_path / "masks.mkv"
    options = options_of([InputOptions(str(clip("h264").path), masks=(str(masks),))], tiny)
    with nothing_left(), Runner(options) as runner:
        report = runner.run()
        assert [str(loss) for loss in runner.losses] == ["cam: lost"]
    assert report.error == "cam: lost"
    assert 10 < report.frames < 20
    assert len(masks_of(masks)) == report.frames
