"""Standard output as an output: in a process of its own, because it takes descriptor 1 away."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import need_program
from tests.pipeline.sinks.made import TAKES, decode, ffprobe

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """
import os, sys
from dataclasses import replace
from pipeline.errors import PipelineError
from pipeline.sinks import open_masks, open_output
from tests.pipeline.sinks.made import TAKES
print("before", file=sys.stderr)
take = replace(TAKES[0], live=True)
opener, frames = {"masks": open_masks, "output": open_output}[sys.argv[1]], int(sys.argv[2])
try:
    sink = opener("-")
    sink.open(take.info())
    if len(sys.argv) > 3:
        other = open_output("-")
        other.open(take.info())
    for number in range(frames):
        result = take.result(number % 12)
        sink.write(replace(result, frame=replace(result.frame, pts=number * take.pts[1])))
        print("a stray line", flush=True)
        os.system("echo a stray child")
    sink.close()
    print("after")
except PipelineError as error:
    sink.abort()
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    sys.exit(1)
"""


def run(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, cwd=ROOT)


@pytest.mark.parametrize("what", ["output", "masks"])
def test_the_pipe_carries_matroska_and_nothing_else_until_it_is_closed(what: str, tmp_path: Path) -> None:
    process = run(what, "12")
    data, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert said.count(b"a stray line") == said.count(b"a stray child") == 12
    assert data.endswith(b"after\n"), "given back after close"
    file = tmp_path / "a.mkv"
    file.write_bytes(data.removesuffix(b"after\n"))
    assert [p.pts for p in decode(file)] == [40 * n for n in range(12)]
    if what == "masks":
        for picture, result in zip(decode(file), TAKES[0].results(), strict=True):
            np.testing.assert_array_equal(picture.to_ndarray(), result.labels)
    found = ffprobe("-", "stream=codec_name,nb_read_frames", "-count_frames", "-f", "matroska", data=file.read_bytes())
    assert found["streams"][0] == {"codec_name": "h264" if what == "output" else "ffv1", "nb_read_frames": "12"}


def test_pictures_arrive_as_they_are_made(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    program = PROGRAM.replace(
        "    sink.close()", "    open(sys.argv[3] if 0 else os.environ['FIFO']).read()\n    sink.close()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "output", "12"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT,
        env={**os.environ, "FIFO": str(fifo)},
    )  # fmt: skip
    assert process.stdout is not None
    early = b""
    with open(fifo, "wb"):  # noqa: PTH123 - opens when the program has written all but the end
        os.set_blocking(process.stdout.fileno(), False)
        while part := process.stdout.read(1 << 16):
            early += part
    process.communicate(timeout=30)
    (tmp_path / "early.mkv").write_bytes(early)
    assert len(decode(tmp_path / "early.mkv")) >= 11, "a live stream is not held back by the encoder"


def test_a_reader_that_stops_is_one_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    process = run("output", "400", stdout=writer)
    os.close(writer)
    os.read(reader, 100)
    os.close(reader)
    _, said = process.communicate(timeout=50)
    assert process.returncode == 1
    assert said.splitlines()[-1] == (
        b"SinkError: standard output cannot be written: whoever read it has stopped reading"
    )
    assert b"Traceback" not in said


def test_a_terminal_is_refused() -> None:
    leader, follower = pty.openpty()
    process = run("output", "1", stdout=follower)
    _, said = process.communicate(timeout=30)
    os.close(follower)
    os.close(leader)
    assert process.returncode == 1
    assert b"standard output is a terminal" in said


def test_only_one_output_can_take_it() -> None:
    process = run("masks", "1", "two")
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"taken by another output" in said


def test_the_ffmpeg_program_reads_it() -> None:
    first = run("output", "12")
    command = [need_program("ffmpeg"), "-v", "error", "-i", "-", "-f", "framemd5", "-"]
    second = subprocess.run(command, stdin=first.stdout, capture_output=True, timeout=30, check=True)
    first.communicate(timeout=30)
    assert len([line for line in second.stdout.splitlines() if not line.startswith(b"#")]) == 12
