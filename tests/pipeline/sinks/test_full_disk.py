"""Real limits: a tiny file system, a largest file size, a device that is always full."""

from __future__ import annotations

import io
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SinkError
from pipeline.sinks import files, open_masks, open_output
from pipeline.sinks.base import Sink
from pipeline.sinks.files import PartFile
from tests.pipeline.sinks.made import TAKES, tree, write

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]
NAMES = ("a.mp4", "a.mkv", "a.webm", "masks/m.mkv", "masks/m.jsonl", "frames/", "masks/")


def opened(folder: Path, name: str) -> Sink:
    return (open_masks if "masks" in name else open_output)(f"{folder}/{name}")


def flood(sink: Sink) -> None:
    """Write pictures and labels that do not compress, until something gives way; long before the end."""
    # A second a frame: Matroska writes five seconds at once.
    take = replace(TAKES[0], height=240, width=320)
    sink.open(take.info())
    noise = np.random.default_rng(1)
    result = take.result(0)
    for number in range(40):
        luma = noise.integers(0, 255, (240, 320), np.uint8)
        frame = replace(result.frame, planes=(luma, *result.frame.planes[1:]), pts=Fraction(number), index=number)
        sink.write(replace(result, frame=frame, labels=noise.integers(0, 11, (240, 320), np.uint8)))
    pytest.fail("nothing was said before close")


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("may not mount a file system; the limit of the file size is tested below")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_fills_up(name: str, tiny: Path) -> None:
    sink = opened(tiny, name)
    with pytest.raises(SinkError, match=r"cannot be written: the disk is full$"):
        flood(sink)
    sink.abort()
    assert tree(tiny) == []


@pytest.mark.parametrize("name", NAMES[:-2])
def test_a_file_that_grows_too_large(name: str, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        sink = opened(tmp_path, name)
        with pytest.raises(SinkError, match=r"larger than the system allows here$"):
            flood(sink)
        sink.abort()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tree(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_system_that_takes_a_little_at_a_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is what was handed over to be written; nothing says that encoders make the same bytes twice."""
    real, take = os.write, PartFile.write
    wanted: dict[PartFile, io.BytesIO] = {}

    def watched(file: PartFile, data: bytes) -> int:
        whole = wanted.setdefault(file, io.BytesIO())
        whole.seek(file.tell())
        whole.write(data)
        return take(file, data)

    monkeypatch.setattr(PartFile, "write", watched)
    monkeypatch.setattr(files.os, "write", lambda descriptor, data: real(descriptor, data[:100]))
    write(opened(tmp_path, name), TAKES[0])
    found = sorted(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert found == sorted(whole.getvalue() for whole in wanted.values()) != []
    assert all(len(each) > 100 for each in found)
