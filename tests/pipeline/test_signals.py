"""Interrupted in the middle: what is in flight is finished, files are playable, nothing is left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from tests.pipeline.clips import Clip
from tests.pipeline.running import arguments, masks_of, sidecar_of, started, times, tree, until

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]
ENDLESS = "lavfi:testsrc2=size=160x120:rate=25"


def lines_written(folder: Path) -> int:
    """Lines that have come beside the masks so far, whatever the file is called now."""
    found = 0
    for path in folder.glob(".*jsonl*.part"):
        with contextlib.suppress(FileNotFoundError):
            found = max(found, len(path.read_bytes().splitlines()))
    return found


def family(pid: int) -> set[int]:
    """The process's children and theirs."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found |= {child} | family(child)
    return found


def ended(process: subprocess.Popen[bytes], relatives: set[int], within: float = 15) -> tuple[int, str]:
    """Status and standard error of a process that ends in time, and all its children with it."""
    status = process.wait(within)
    assert process.stderr is not None
    said = process.stderr.read().decode()
    until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in relatives), 5, "the end of the children")
    assert "Traceback" not in said, said
    return status, said


def read_until(stream: IO[bytes], text: str) -> str:
    """Standard error up to the line with ``text``."""
    said = ""
    while text not in said:
        line = stream.readline().decode()
        assert line, said
        said += line
    return said


@pytest.mark.parametrize(
    ("number", "status", "refine"),
    [
        (signal.SIGHUP, 0, "none"),
        (signal.SIGINT, 130, "guided"),
        (signal.SIGTERM, 0, "crf"),
    ],
)
def test_what_is_in_flight_is_finished(number: int, status: int, refine: str, tiny: str, tmp_path: Path) -> None:
    out, masks, report = tmp_path / "out.mp4", tmp_path / "masks.mkv", tmp_path / "report.json"
    flags = ["--output", out, "--masks", masks, "--report", report, "--refine", refine, "--crf-workers", "2"]
    with started(*arguments(ENDLESS, tiny, *flags)) as process:
        until(lambda: lines_written(tmp_path) > 8, 40, "the first frames")
        relatives = family(process.pid)
        assert (len(relatives) == 3) == (refine != "none")
        os.killpg(process.pid, number)  # as a terminal does: to all in the foreground
        got, said = ended(process, relatives)
    assert got == status, said
    told = json.loads(report.read_text())
    assert told["interrupted"]
    frames = told["frames"]
    assert told["inputs"][0]["read"] == frames
    assert len(times(out)) == len(masks_of(masks)) == len(sidecar_of(masks)[1]) == frames > 8
    assert tree(tmp_path) == ["masks.mkv", "masks.mkv.jsonl", "out.mp4", "report.json"]


def test_while_waiting_for_standard_input(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    masks = tmp_path / "masks.mkv"
    data = clip("long").path.read_bytes()
    with started(*arguments("-", tiny, "--masks", masks), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(data[: len(data) // 2])
        process.stdin.flush()  # and then the writer says nothing more
        silent = _unchanging(lambda: (lines_written(tmp_path),))
        until(lambda: silent() and _waiting_bytes(process.stdin) == 0, 40, "silence")
        process.send_signal(signal.SIGINT)
        status, said = ended(process, set(), 6)  # the writer may be silent for ten seconds
    assert status == 130, said
    assert "error" not in said.lower()
    assert len(masks_of(masks)) == len(sidecar_of(masks)[1]) > 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_while_opening_standard_input(number: int, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    flags = ["--output", tmp_path / "out.mp4", "--report", tmp_path / "report.json"]
    with started(*arguments("-", tiny, *flags), stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(clip("long").path.read_bytes()[:64])
        process.stdin.flush()
        until(lambda: _waiting_bytes(process.stdin) == 0, 40, "reading")
        process.send_signal(number)
        status, said = ended(process, set(), 8)
    assert status == (0 if number == signal.SIGTERM else 130), said
    assert "error" not in said.lower()
    assert tree(tmp_path) == []


@pytest.mark.slow
def test_a_second_one_leaves_at_once(tiny: str, tmp_path: Path) -> None:
    """Nobody reads standard output, so what is in flight cannot be finished."""
    masks = tmp_path / "masks.mkv"
    flags = arguments(ENDLESS, tiny, "--output", "-", "--masks", masks, "--refine", "guided")
    with started(*flags) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        until(_unchanging(lambda: (_waiting_bytes(process.stdout), lines_written(tmp_path))), 40, "a full pipe")
        relatives = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        read_until(process.stderr, "once more leaves at once")
        os.killpg(process.pid, signal.SIGINT)
        status, said = ended(process, relatives, 10)
    assert status == 130, said
    # What the other output had by then is finished, or not there at all.
    if masks.exists():
        assert masks_of(masks)
    assert not [name for name in tree(tmp_path) if name.endswith(".part")]


def _unchanging(look: Callable[[], tuple[int, ...]], seconds: float = 1.0) -> Callable[[], bool]:
    """Whether what is seen is above zero and has not changed for a while."""
    seen, since = look(), time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        now = look()
        if now != seen:
            seen, since = now, time.monotonic()
        return min(now) > 0 and time.monotonic() - since > seconds

    return still


def _waiting_bytes(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return int(struct.unpack("i", fcntl.ioctl(stream, termios.FIONREAD, b"\0\0\0\0"))[0])


def test_a_reader_that_stops_reading(tiny: str) -> None:
    """As ``… --output - | head -c 1000`` does."""
    with started(*arguments(ENDLESS, tiny, "--output", "-", "--refine", "guided")) as process:
        assert process.stdout is not None
        assert len(process.stdout.read(1000)) == 1000
        relatives = family(process.pid)
        process.stdout.close()
        status, said = ended(process, relatives)
    assert status == 1
    complaints = [line for line in said.splitlines() if not line.startswith("INFO:")]
    assert complaints == []


def test_a_reader_that_leaves_takes_no_other_output_along(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    out = tmp_path / "out.mkv"
    flags = arguments(clip("long").path, tiny, "--output", out, "--output", "-", "--loop", "4")
    with started(*flags) as process:
        assert process.stdout is not None
        process.stdout.read(1000)
        process.stdout.close()
        status, said = ended(process, set(), 40)
    assert status == 0, said
    assert len(times(out)) == 1000


def test_while_modules_are_imported(tmp_path: Path) -> None:
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt\n")
    with started("--help", env={**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
        status, said = ended(process, set())
    assert status == 130
    assert said == ""


def test_sigterm_while_libraries_are_imported(tmp_path: Path) -> None:
    (tmp_path / "av.py").write_text("import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(20)\n")
    with started("--input", "sample", "--output", "null", env={**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
        assert ended(process, set()) == (0, "")
