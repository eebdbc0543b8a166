"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.base import EngineError
from engines.whole_file import whole_file


@pytest.fixture(params=[0o002, 0o077], ids=["shared", "private"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no umask")
def test_it_is_written_by_its_owner_alone_and_read_as_the_umask_allows(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "a.plan"
    with whole_file(path) as unfinished:
        assert unfinished.name.endswith(".plan.part")
        unfinished.write_bytes(b"all")
        assert not path.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["a.plan"]
    assert path.stat().st_mode & 0o777 == 0o644 & ~umask


def test_what_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match="half"), whole_file(path) as unfinished:
        unfinished.write_bytes(b"ha")
        raise ValueError("half")
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    with (
        pytest.raises(EngineError, match=r"/a: cannot be written: No such file or directory$"),
        whole_file(tmp_path / "missing" / "a"),
    ):
        pass


def test_a_link_stays_one_and_the_file_is_written_where_it_points(tmp_path: Path) -> None:
    """Beside that, since a file is not renamed from one file system to another."""
    there, link = tmp_path / "scratch" / "a.json", tmp_path / "link.json"
    there.parent.mkdir()
    there.write_text("old")
    link.symlink_to(there)
    with whole_file(link) as unfinished:
        assert unfinished.parent == there.parent
        unfinished.write_text("new")
    assert link.is_symlink()
    assert there.read_text() == "new"
    assert [each.name for each in there.parent.iterdir()] == ["a.json"]
