"""An output that fails beside a live input: everything else goes on, and what was recorded stays."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.runner.outlet
from pipeline.errors import SinkError
from pipeline.options import InputOptions
from pipeline.runner import Runner
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import options_of, times, tree, until

pytestmark = pytest.mark.timeout(60)

NOISE = "lavfi:testsrc2=size=320x240:rate=25,noise=alls=90:allf=t,realtime"
CALM = "lavfi:testsrc2=size=96x80:rate=25,realtime"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.runner.outlet, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(pipeline.runner.outlet, "STEADY_S", 0.3)


def videos(folder: Path) -> list[Path]:
    return sorted(folder.glob("[!.]*.mkv"))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", ["outputs", pytest.param("masks", marks=pytest.mark.slow)])
def test_a_disk_that_is_full_for_a_while(kind: str, tiny: str, small: Path, caplog: pytest.LogCaptureFixture) -> None:
    pattern = str(small / "a-%H%M%S.mkv")
    recorded = InputOptions(NOISE, "noisy", **{kind: (pattern,)})
    other = InputOptions(CALM, "calm", ("null",))
    (small / "ballast").write_bytes(bytes(120_000))
    with nothing_left(), Runner(options_of([recorded, other], tiny)) as runner:
        runner.start()
        recording, calm = (lane.outlets[0] for lane in runner.lanes)
        until(lambda: recording.failure, 20, "the failure")
        assert "the disk is full" in str(recording.failure)
        seen = calm.meter.frames
        until(lambda: recording.failures > 1, 20, "another try")
        until(lambda: calm.meter.frames > seen, 20, "the other input")
        assert not runner.failed
        kept = videos(small)
        assert kept
        assert all(times(path) for path in kept)
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        until(lambda: recording.failure is None, 20, "the recording")
        runner.stop()
        report = runner.finish()
        assert runner.losses == ()
    sink = report.inputs[0].sinks[0]
    assert (sink.failures, sink.missed) == (recording.failures, recording.missed)
    assert sink.missed > 0
    assert set(kept) < set(videos(small))
    assert all(times(path) for path in videos(small))
    assert not [name for name in tree(small) if name.endswith(".part")]
    if kind == "masks":
        assert all(path.with_name(f"{path.name}.jsonl").read_bytes().endswith(b"}\n") for path in videos(small))
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1, "loud once"
    assert "the disk is full (it is tried again, everything else goes on)" in errors[0]


@pytest.mark.usefixtures("quick")
def test_a_disk_that_is_full_at_the_end_fails_the_run(tiny: str, small: Path) -> None:
    (small / "ballast").write_bytes(bytes(120_000))
    with Runner(options_of([InputOptions(NOISE, "noisy", (str(small / "a-%H%M%S.mkv"), "null"))], tiny)) as runner:
        runner.start()
        until(lambda: runner.lanes[0].outlets[0].failure, 20, "the failure")
        runner.stop()
        report = runner.finish()
        (loss,) = runner.losses
    assert isinstance(loss, SinkError)
    assert "the disk is full" in (report.error or "")
    assert times(videos(small)[0])


def test_an_output_that_cannot_be_tried_again_is_lost_alone(tiny: str, small: Path) -> None:
    (small / "ballast").write_bytes(bytes(120_000))
    outputs = (str(small / "whole.mkv"), str(small / "whole.mp4"), "null")
    with Runner(options_of([InputOptions(NOISE, "noisy", outputs)], tiny)) as runner:
        runner.start()
        matroska, mp4, null = runner.lanes[0].outlets
        until(lambda: matroska.gone and mp4.gone, 20, "the failure")
        seen = null.meter.frames
        until(lambda: null.meter.frames > seen, 20, "the other output")
        runner.stop()
        runner.finish()
        assert len(runner.losses) == 2
    assert times(small / "whole.mkv")
    assert not (small / "whole.mp4").exists(), "without its end it does not play"
