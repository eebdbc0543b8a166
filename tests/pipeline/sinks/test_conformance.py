"""What every sink must do; a new one joins by a line in `kinds`."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import SinkError
from pipeline.frame import Frame
from pipeline.sinks import files, open_masks
from tests.pipeline.running import until
from tests.pipeline.sinks.kinds import KINDS, SERVED, Kind, by_year
from tests.pipeline.sinks.made import TAKES, Take, tree, write

kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
all_kinds = pytest.mark.parametrize("kind", (*KINDS, *SERVED), ids=lambda kind: kind.name)
takes = pytest.mark.parametrize("take", TAKES, ids=lambda take: take.name)
pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("no_error_logged")]


@all_kinds
@takes
def test_what_comes_in_comes_out(kind: Kind, take: Take, tmp_path: Path) -> None:
    sink = kind.open(tmp_path)
    assert sink.name == f"{tmp_path}/{kind.name}" or kind in SERVED or kind.opener is by_year
    assert tree(tmp_path) == [], "nothing is made before open"
    found = kind.through(sink, take, tmp_path)
    assert len(found.pictures) == len(take.ticks)
    if kind.tick is not None:
        assert found.pts is not None
        assert all(abs(a - b) <= kind.tick / 2 for a, b in zip(found.pts, take.pts, strict=True)), found.pts
    for picture, result in zip(found.pictures, take.results(), strict=True):
        if kind.opener in (open_masks, by_year):
            np.testing.assert_array_equal(picture, result.labels)
        else:
            # Neighbours in time differ by 5 levels.
            assert abs(float(middle(picture).mean()) - expected(kind, result.frame)) < 2


def middle(picture: NDArray[Any]) -> NDArray[Any]:
    """Without a quarter at each side, where padding and scaling would tell."""
    h, w = picture.shape
    return picture[h // 4 : h - h // 4, w // 4 : w - w // 4]


def expected(kind: Kind, frame: Frame) -> float:
    """Mean of the middle: luma as it is in a video, the gray of its RGB in a picture file."""
    levels = [float(middle(p).mean()) / (1 << (frame.format.depth - 8)) for p in frame.planes]
    if not kind.at_once:
        return levels[0]
    full = frame.colour.full_range
    y = levels[0] if full else (levels[0] - 16) * 255 / 219
    u, v = ((level - 128) * (1 if full else 255 / 224) for level in levels[1:])
    kr, kb = frame.colour.luma_weights
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return 0.299 * red + 0.587 * green + 0.114 * blue


@kinds
def test_abort_leaves_nothing(kind: Kind, tmp_path: Path) -> None:
    sink = kind.open(tmp_path)
    sink.open(TAKES[0].info())
    for result in TAKES[0].results():
        sink.write(result)
    sink.abort()
    sink.abort()
    assert tree(tmp_path) == []


@all_kinds
def test_abort_before_open_and_close_before_open_do_nothing(kind: Kind, tmp_path: Path) -> None:
    sink = kind.open(tmp_path)
    sink.abort()
    sink.close()
    assert tree(tmp_path) == []


@kinds
def test_nothing_has_its_final_name_before_it_is_whole(kind: Kind, tmp_path: Path) -> None:
    sink = kind.open(tmp_path)
    sink.open(TAKES[0].info())
    for result in TAKES[0].results():
        sink.write(result)
        visible = [path for path in tmp_path.rglob("[!.]*") if path.is_file()]
        assert len(visible) == (result.index + 1 if kind.at_once else 0)
    sink.close()
    assert (tmp_path / kind.name).exists() or kind.at_once
    assert not [path for path in tree(tmp_path) if Path(path).name.startswith(".")]


@all_kinds
def test_closing_again_or_aborting_after_it_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    sink = kind.open(tmp_path)
    write(sink, TAKES[0])
    before = tree(tmp_path)
    sink.close()
    sink.abort()
    assert tree(tmp_path) == before


@all_kinds
def test_an_interrupted_run_leaves_what_came_so_far(kind: Kind, tmp_path: Path) -> None:
    sink = kind.open(tmp_path)
    assert len(kind.through(sink, TAKES[1], tmp_path, frames=3).pictures) == 3


@all_kinds
def test_nothing_is_taken_before_open(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="is not open"):
        kind.open(tmp_path).write(TAKES[0].result(0))


@kinds
def test_without_a_frame_there_is_no_file_but_a_warning(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = kind.open(tmp_path)
    sink.open(TAKES[0].info())
    with caplog.at_level(logging.WARNING):
        sink.close()
    assert tree(tmp_path) == []
    assert "nothing is written" in caplog.text


@kinds
def test_a_full_disk_is_told_once_in_one_line_and_leaves_nothing(
    kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = 900

    def full(descriptor: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(descriptor, data[:room])
        room -= taken
        return taken

    real = os.write
    monkeypatch.setattr(files.os, "write", full)
    sink = kind.open(tmp_path)
    with pytest.raises(SinkError) as raised:
        write(sink, TAKES[0])
    sink.abort()
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path}/{kind.name} cannot be written: the disk is full")
    assert tree(tmp_path) == []


@kinds
def test_a_directory_that_goes_away_is_an_error_without_remains(kind: Kind, tmp_path: Path) -> None:
    folder = tmp_path / "there"
    folder.mkdir()
    sink = kind.open(folder)
    sink.open(TAKES[0].info())
    sink.write(TAKES[0].result(0))
    folder.rename(tmp_path / "away")
    if kind.at_once:  # the next file makes it again
        sink.close()
        return
    with pytest.raises(SinkError, match="directory does not exist, or no file can be made in it"):
        sink.close()
    sink.abort()
    assert not folder.exists()


@kinds
def test_a_directory_that_cannot_be_made_is_refused(kind: Kind) -> None:
    sink = kind.open(Path("/proc/nothing"))  # nobody can make one there
    said = r"directory does not exist(, or no file can be made in it$|: make it with mkdir -p /proc)"
    with pytest.raises(SinkError, match=said):
        sink.open(TAKES[0].info())


@kinds
def test_one_missing_directory_is_made_and_no_more(kind: Kind, tmp_path: Path) -> None:
    """That which holds the output; one that is the output itself counts as a file does."""
    above = kind.name.count("/", 0, -1)
    if not above:
        write(kind.open(tmp_path / "made"), TAKES[0])
        assert (tmp_path / "made" / kind.name).exists()
    before = tree(tmp_path)
    place = tmp_path / ("a" if above else "a/b")
    with pytest.raises(SinkError, match=f"its directory does not exist: make it with mkdir -p {place}"):
        kind.open(place).open(TAKES[0].info())
    assert tree(tmp_path) == before


@kinds
def test_a_file_in_the_way_of_the_directory_is_refused(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    sink = kind.open(tmp_path / "file")
    with pytest.raises(SinkError, match="is a file, not a directory"):
        sink.open(TAKES[0].info())
    assert tree(tmp_path) == ["file"]


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A directory in which the process may create nothing, and may not look either."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        inner = folder / "locked"
        inner.mkdir(mode=0)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        yield inner
        if root:
            os.seteuid(0)
        inner.chmod(0o755)
        assert tree(inner) == []


@kinds
def test_no_permission_is_refused_at_open(kind: Kind, locked: Path) -> None:
    sink = kind.open(locked)
    with pytest.raises(SinkError, match="permission denied"):
        sink.open(TAKES[0].info())


@kinds
def test_what_was_there_is_replaced(kind: Kind, tmp_path: Path) -> None:
    if kind.opener is by_year:
        pytest.skip("a recording never takes another's name")
    write(kind.open(tmp_path), TAKES[1])
    write(kind.open(tmp_path), TAKES[0])
    found = kind.read(tmp_path / kind.name)
    assert found.pictures[0].shape == (48, 64)


@kinds
def test_what_was_there_outlives_an_aborted_run(kind: Kind, tmp_path: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    write(kind.open(tmp_path), replace(TAKES[0], ticks=TAKES[0].ticks[:2]))
    before = contents()
    sink = kind.open(tmp_path)
    sink.open(TAKES[1].info())
    for index in range(4):
        sink.write(TAKES[1].result(index))
    sink.abort()
    assert contents() == before


@all_kinds
def test_no_descriptor_and_no_thread_stays(kind: Kind, tmp_path: Path) -> None:
    def load() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))

    write(kind.open(tmp_path), TAKES[0])
    before = load()
    for number in range(3):
        for name in (str(number), "aborted"):
            (tmp_path / name).mkdir(exist_ok=True)
        write(kind.open(tmp_path / str(number)), TAKES[0])
        sink = kind.open(tmp_path / "aborted")
        sink.open(TAKES[0].info())
        sink.write(TAKES[0].result(0))
        sink.abort()
        del sink
    assert load()[0] == before[0]
    # Fewer: another library's thread has ended meanwhile.  The system counts one that was joined for a moment more.
    until(lambda: load()[1] <= before[1], 2, "the end of all threads")
