"""Files and disks that the system refuses: told on one line, and nothing is left."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.pipeline.clips import Clip
from tests.pipeline.conftest import Cli
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import arguments, one_line_error, program, tree

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]


def without_privilege() -> None:
    """In a child: let root be refused what other users are refused."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def refused(path: Path) -> bool:
    """Whether `without_privilege` works here."""
    command = ["cat" if path.is_file() else "ls", str(path)]
    return subprocess.run(command, capture_output=True, check=False, preexec_fn=without_privilege).returncode != 0


def test_an_input_without_permission(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip("h264").path.read_bytes())
    secret.chmod(0)
    if not refused(secret):
        absent("a way to be refused as root")
    out = tmp_path / "out.mp4"
    done = program(*arguments(secret, tiny, "--output", out), preexec_fn=without_privilege)
    one_line_error(done, "secret.mp4", "no permission to read it")
    assert tree(tmp_path) == ["secret.mp4"]


def test_an_output_without_permission(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    try:
        probe = subprocess.run(
            ["touch", str(locked / "x")], capture_output=True, check=False, preexec_fn=without_privilege
        )
        if probe.returncode == 0:
            absent("a way to be refused as root")
        for place, more in ((locked / "out.mp4", ()), (locked / "new/out.mp4", ("--dry-run",))):
            flags = arguments(clip("h264").path, tiny, "--output", place, *more)
            done = program(*flags, preexec_fn=without_privilege)
            one_line_error(done, str(place), "permission denied")
    finally:
        locked.chmod(0o755)
    assert tree(tmp_path) == ["locked"]


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[bool]:
    """A full disk at ``folder``, where this user may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True, timeout=20)


def test_a_disk_that_is_full(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    """In the middle of an overlay; the masks, which would still fit elsewhere, go too."""
    disk, masks = tmp_path / "disk", tmp_path / "masks.mkv"
    with small_disk(disk, "32k") as mounted:
        if not mounted:
            pytest.skip("mounting a file system needs root; the limit below stands in")
        (disk / "out.mkv").write_bytes(b"as before")
        with nothing_left():
            flags = ("--output", disk / "out.mkv", "--quality", "0", "--codec", "ffv1", "--masks", masks)
            done = cli(*arguments(clip("long").path, tiny, *flags))
        one_line_error(done, "out.mkv cannot be written: the disk is full")
        assert (disk / "out.mkv").read_bytes() == b"as before"
        assert tree(tmp_path) == ["disk", "disk/out.mkv"]


def test_a_file_that_may_not_grow(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))

    out = tmp_path / "out.mkv"
    flags = arguments(clip("long").path, tiny, "--output", out, "--codec", "ffv1", "--loop", "3")
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = program(*flags, preexec_fn=limit, env=environment)
    one_line_error(done, "out.mkv cannot be written: the file would be larger than the system allows here")
    assert [name for name in tree(tmp_path) if not name.startswith("cache")] == []
