"""An encoder leaves the machine to others: no thread of ours becomes a real-time one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.scheduling import scheduling_kept
from pipeline.sinks import VideoOptions, open_output
from tests.pipeline.sinks.made import TAKES, write


def policies() -> set[int]:
    names = [entry.name for entry in Path("/proc/self/task").iterdir()]
    return {os.sched_getscheduler(int(task)) for task in names}


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_no_encoder_makes_threads_real_time(codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = policies()
    seen: list[set[int]] = []
    sink = open_output(str(tmp_path / "a.mkv"), VideoOptions(codec=codec))
    written = sink.write
    monkeypatch.setattr(sink, "write", lambda result: (written(result), seen.append(policies()))[0])
    write(sink, TAKES[0])
    assert seen
    assert all(found <= before for found in seen)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask for a real-time priority")
def test_what_a_library_did_is_undone() -> None:
    with scheduling_kept():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
