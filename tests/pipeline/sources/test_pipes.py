"""Pipes and standard input: what stalls in them, and what cannot be played from one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import SourceError
from pipeline.sources import SourceOptions, open_source
from tests.pipeline.clips import RECIPES
from tests.pipeline.encoding import make
from tests.pipeline.sources.conftest import MakeClip
from tests.pipeline.sources.served import standard_input

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged", "no_descriptor_leaked")]


def test_a_pipe_that_stalls(clip: MakeClip) -> None:
    path = clip("vfr").path
    began = time.monotonic()
    stalling = standard_input(["sh", "-c", 'head -c 3000 "$0"; exec sleep 20', str(path)])
    with stalling, pytest.raises(SourceError, match=r"standard input: nothing came for 0\.5 s"):
        source = open_source("-", SourceOptions(read_timeout=0.5))
        with closing(source):
            for _ in source.read():
                pass
    assert time.monotonic() - began < 5


def test_a_named_pipe_without_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceError, match=r"pipe: nothing came for 0\.3 s"):
        open_source(str(tmp_path / "pipe"), SourceOptions(read_timeout=0.3))


def test_rubbish_on_standard_input() -> None:
    with (
        standard_input(["head", "-c", "10000", "/dev/zero"]),
        pytest.raises(SourceError, match="standard input: not a"),
    ):
        open_source("-")


@pytest.fixture
def index_last(tmp_path: Path) -> Path:
    """An MP4 with its index last, too large for libav to hold it whole while it looks for that."""
    lossless = replace(RECIPES["h264 lossless"], width=320, height=240)
    path = make("index last", replace(lossless, ticks=tuple(range(0, 60 * 512, 512))), tmp_path).path
    assert path.stat().st_size > 150_000
    return path


def test_an_index_at_the_end_of_a_pipe(index_last: Path) -> None:
    with (
        standard_input(["cat", str(index_last)]),
        pytest.raises(SourceError, match="its index is at the end: give the file, or remux it with -movflags"),
    ):
        open_source("-")


@pytest.mark.parametrize(("redirection", "said"), [('<"$2"', "60 stdin"), ("<&-", "standard input is closed")])
def test_standard_input_from_a_file_or_closed(redirection: str, said: str, index_last: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -W error -c "$1" {redirection}', sys.executable, _READER, str(index_last)],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.stdout + done.stderr).splitlines()[-1].endswith(said)


_READER = """
import sys
from pipeline.sources import Decoded, open_source
source = open_source("-")
print(sum(isinstance(item, Decoded) for item in source.read()), source.info.name)
source.close()
"""


def test_a_real_shell_pipe(clip: MakeClip) -> None:
    """Nothing but the answer is written: libav stays mute on both outputs."""
    path = clip("spoilt ts").path
    done = subprocess.run(
        ["sh", "-c", 'cat "$0" | "$1" -W error -c "$2"', str(path), sys.executable, _READER],
        capture_output=True,
        text=True,
        timeout=25,
        check=True,
    )
    count, name = done.stdout.split()
    assert 20 <= int(count) <= 30
    assert name == "stdin"
    assert "damaged" in done.stderr  # the one warning, by logging's last resort
    assert len(done.stderr.splitlines()) == 1
