"""What a run that was killed has left, and what is removed where nothing is written."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import av
import pytest

import pipeline.runner.outlet
from pipeline.options import InputOptions
from pipeline.runner import Runner
from pipeline.sinks import open_masks, open_output
from pipeline.sinks.recordings import Recordings
from pipeline.sinks.unfinished import final_name, hidden
from tests.pipeline.running import arguments, options_of, started, times, tree, until
from tests.pipeline.sinks.made import TAKES
from tests.pipeline.sinks.test_segments import results

pytestmark = pytest.mark.timeout(60)

LIVE = "lavfi:testsrc2=size=96x80:rate=25,realtime"
AWAY = "rtsp://127.0.0.1:9/cam"


@pytest.mark.parametrize("opener", [open_output, open_masks])
def test_a_crash_costs_seconds(opener: object, tmp_path: Path) -> None:
    sink = opener(f"{tmp_path}/a-%H%M%S.mkv")  # type: ignore[operator]
    sink.open(replace(TAKES[0].info(), stream=replace(TAKES[0].info().stream, live=True)))
    for result in results(110):
        sink.write(result)
    (part,) = (path for path in tmp_path.iterdir() if ".mkv." in path.name and "jsonl" not in path.name)
    # x264 keeps some fifty pictures to look ahead; what it has handed over is on the disk but for a second.
    assert len(times(part)) >= 25
    sink.abort()


@pytest.mark.parametrize("name", ["a.mkv", "a.mkv.jsonl", f"{'camera-' * 20}20260101-120000.mkv", f"{'ä' * 118}.mkv"])
def test_a_hidden_name_tells_the_final_one(name: str, tmp_path: Path) -> None:
    assert final_name(hidden(tmp_path / name).name) == name
    assert final_name(name) is None
    hidden(tmp_path / name).touch()


@pytest.mark.parametrize("sign", ["a", "ä", "🎥"])
def test_the_longest_names_have_a_hidden_one_too(sign: str, tmp_path: Path) -> None:
    longest = tmp_path / f"{sign * (251 // len(sign.encode()))}.mkv"
    for path in (longest, hidden(longest)):
        path.touch()
    assert hidden(longest) != hidden(longest)


@pytest.mark.slow
def test_a_killed_run_loses_no_recording(tiny: str, tmp_path: Path) -> None:
    pattern = f"{tmp_path}/%Y%m%d/a-%H%M%S.mkv"

    def parts() -> list[Path]:
        return [path for path in tmp_path.rglob(".*.part") if ".jsonl." not in path.name]

    with started(*arguments(LIVE, tiny, "--output", pattern, "--masks", f"{tmp_path}/m-%H%M%S.mkv")) as process:
        until(lambda: len(parts()) == 2 and all(_pictures(path) > 25 for path in parts()), 40, "recordings")
        Recordings(pattern).adopt()
        assert len(parts()) == 2, "they belong to a living process"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    (broken := next(iter(tmp_path.glob("2*"))) / ".a-000000.mkv.01234567.part").write_bytes(b"nothing that plays")
    with Runner(options_of([InputOptions(LIVE, "cam", (pattern,), (f"{tmp_path}/m-%H%M%S.mkv",))], tiny)) as runner:
        runner.start()
        until(lambda: all(outlet.meter.frames for outlet in runner.lanes[0].outlets), 20)
        runner.stop()
        runner.finish()
    assert not broken.exists()
    assert not [name for name in tree(tmp_path) if name.endswith(".part")]
    found = list(tmp_path.rglob("*.mkv"))
    assert len(found) == 4
    assert all(times(path) for path in found)
    assert sum(_pictures(path) > 25 for path in found) >= 2
    for lines in tmp_path.glob("*.jsonl"):
        assert lines.read_bytes().endswith(b"}\n")


def _pictures(path: Path) -> int:
    try:
        return len(times(path))
    except av.FFmpegError:
        return 0


def test_old_recordings_go_while_the_camera_is_away(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.runner.outlet, "TEND_S", 0.05)
    old = tmp_path / "2020/01/a-000000.mkv"
    old.parent.mkdir(parents=True)
    for name in ("2021/02/a-000000.mkv", "2020/01/a-000000.mkv", "2021/02/a-holiday.mkv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.utime(old, (1_000_000_000, 1_000_000_000))
    given = InputOptions(AWAY, "cam", (f"{tmp_path}/%Y/%m/a-%H%M%S.mkv",))
    with Runner(options_of([given], tiny, keep_time=3600)) as runner:
        runner.start()
        until(lambda: not old.exists(), 20, "the removal")
        again = tmp_path / "2019/01/a-000000.mkv"
        again.parent.mkdir(parents=True)
        again.touch()
        os.utime(again, (1_000_000_000, 1_000_000_000))
        until(lambda: not (tmp_path / "2019").exists(), 20, "the next removal")
        assert not (tmp_path / "2020").exists(), "nothing is left of the day"
        assert tree(tmp_path / "2021/02") == ["a-000000.mkv", "a-holiday.mkv"]
        runner.stop()


def test_what_is_being_written_counts(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"a-00000{number}.mkv"
        path.write_bytes(bytes(100))
        path.with_name(f"{path.name}.jsonl").write_bytes(bytes(50))
        os.utime(path, (number, number))
    (part := tmp_path / ".a-000003.mkv.01234567.part").write_bytes(bytes(100))
    Recordings(f"{tmp_path}/a-%H%M%S.mkv").tidy(None, 400)
    assert tree(tmp_path) == sorted(
        [part.name, "a-000001.mkv", "a-000001.mkv.jsonl", "a-000002.mkv", "a-000002.mkv.jsonl"]
    )
