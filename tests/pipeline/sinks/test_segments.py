"""Recordings in segments: nothing lost between them, and the oldest removed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import Result
from pipeline.sinks import RecordOptions, open_masks, open_output
from pipeline.sinks.recordings import has_clock
from tests.pipeline.sinks.made import TAKES, decode, tree

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged")]

PATTERN = "rec/cam-%Y%m%d-%H%M%S.mkv"
STEP = Fraction(1, 25)
NOON = 1_700_000_000


def results(count: int) -> list[Result]:
    made = []
    for number in range(count):
        result = TAKES[0].result(number % 12)
        wall = NOON * 10**9 + int(number * STEP * 10**9)
        made.append(replace(result, frame=replace(result.frame, index=number, pts=100 + number * STEP, wall_ns=wall)))
    return made


def named(seconds: float) -> str:
    return time.strftime(PATTERN, time.localtime(NOON + seconds))


@pytest.mark.parametrize("opener", [open_output, open_masks], ids=["pictures", "masks"])
def test_every_frame_is_in_one_segment(opener: object, tmp_path: Path) -> None:
    record = RecordOptions(segment_time=1)
    sink = opener(f"{tmp_path}/{PATTERN}", record=record)  # type: ignore[operator]
    sink.open(TAKES[0].info())
    for result in results(60):
        sink.write(result)
        assert not [name for name in tree(tmp_path / "rec") if name == named(2)[4:]], "not before it is whole"
    sink.close()
    lines = [".jsonl"] if opener is open_masks else []
    assert tree(tmp_path / "rec") == sorted(named(s)[4:] + end for s in (0, 1, 2) for end in ("", *lines))
    counts = []
    for second in (0, 1, 2):
        frames = decode(tmp_path / named(second))
        counts.append(len(frames))
        if opener is open_output:
            assert [frame.pts for frame in frames] == [40 * n for n in range(len(frames))], "each begins at 0"
        else:
            np.testing.assert_array_equal(frames[0].to_ndarray(), results(60)[25 * second].labels)
        assert frames[0].key_frame
    assert counts == [25, 25, 10]


def test_a_segment_ends_at_its_size(tmp_path: Path) -> None:
    sink = open_masks(f"{tmp_path}/{PATTERN}", record=RecordOptions(segment_size="4k"))
    sink.open(TAKES[0].info())
    for result in results(60):
        sink.write(result)
    sink.close()
    videos = sorted((tmp_path / "rec").glob("*.mkv"))
    assert len(videos) > 3
    assert sum(len(decode(path)) for path in videos) == 60
    assert {named(0)[4:], named(0)[4:].replace(".mkv", "-2.mkv")} <= {path.name for path in videos}


def test_old_files_of_the_pattern_alone_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "rec"
    folder.mkdir()
    for name in ("cam-20200101-000000.mkv", "cam-20200101-000000-2.mkv", "cam-20990101-000000.mkv"):
        (folder / name).write_bytes(bytes(100))
        (folder / f"{name}.jsonl").touch()
    for name in (
        "cam-holiday.mkv",
        "cam-20200101-000000.mp4",
        "xcam-20200101-000000.mkv",
        "cam-20200101-000000.mkv.bak",
    ):
        (folder / name).write_bytes(bytes(100))
    for path in folder.iterdir():
        if "2099" not in path.name:
            os.utime(path, (1_000_000_000, 1_000_000_000))
    sink = open_output(f"{tmp_path}/{PATTERN}", record=RecordOptions(segment_time=1, keep_time=3600))
    sink.open(TAKES[0].info())
    for result in results(30):
        sink.write(result)
    sink.close()
    assert tree(folder) == sorted((
        "cam-20990101-000000.mkv", "cam-20990101-000000.mkv.jsonl", "cam-holiday.mkv", "cam-20200101-000000.mp4",
        "xcam-20200101-000000.mkv", "cam-20200101-000000.mkv.bak", named(0)[4:], named(1)[4:],
    ))  # fmt: skip


def test_all_files_together_keep_to_their_size(tmp_path: Path) -> None:
    limit = 9_000
    sink = open_output(f"{tmp_path}/rec/%Y/%m/%H%M%S.mkv", record=RecordOptions(segment_time=1, keep_size=limit))
    sink.open(TAKES[0].info())
    for number, result in enumerate(results(250)):
        sink.write(result)
        if number % 25 == 0:
            time.sleep(0.01)  # files are told apart by when they were finished
    sink.close()
    left = sorted((tmp_path / "rec").rglob("*.mkv"))
    assert 1 < len(left) < 10
    assert sum(path.stat().st_size for path in left) <= limit
    assert left[-1].name == time.strftime("%H%M%S.mkv", time.localtime(NOON + 9))


def test_another_size_begins_another_file(tmp_path: Path) -> None:
    sink = open_output(f"{tmp_path}/{PATTERN}")
    sink.open(TAKES[0].info())
    sink.write(results(1)[0])
    small = TAKES[0].smaller()
    sink.reconfigure(small.info())
    sink.write(small.result(1))
    sink.close()
    sizes = sorted(decode(path)[0].width for path in (tmp_path / "rec").glob("*.mkv"))
    assert sizes == [34, 64]


def test_a_failed_run_keeps_what_is_whole(tmp_path: Path) -> None:
    sink = open_output(f"{tmp_path}/{PATTERN}", record=RecordOptions(segment_time=1))
    sink.open(TAKES[0].info())
    for result in results(30):
        sink.write(result)
    sink.abort()
    sink.abort()
    assert tree(tmp_path / "rec") == [named(0)[4:]]


def test_without_a_frame_nothing_is_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = open_output(f"{tmp_path}/{PATTERN}")
    sink.abort()
    sink.open(TAKES[0].info())
    sink.close()
    sink.close()
    assert tree(tmp_path) == []
    assert "nothing is written" in caplog.text


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        RecordOptions(segment_time=0)
    with pytest.raises(ConfigError, match="'lots' is no size"):
        RecordOptions(keep_size="lots")
    assert RecordOptions(keep_size="1.5G").keep_bytes == 1_500_000_000
    sink = open_output("/proc/nothing/%H.mkv")
    with pytest.raises(SinkError, match="cannot be written"):
        sink.open(TAKES[0].info())
    assert [has_clock(name) for name in ("%H.mkv", "100%%Y.mkv", "f%06d.mkv", "a.mkv")] == [True, False, False, False]
