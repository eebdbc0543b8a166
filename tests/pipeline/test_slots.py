"""The ring: alignment, sharing, refusal, and nothing left behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline import slots
from pipeline.errors import PipelineError
from pipeline.frame import FORMATS, Colour, Geometry
from pipeline.slots import Ring, SlotLayout

pytestmark = pytest.mark.timeout(20)


def layout_of(name: str = "yuv420p", height: int = 37, width: int = 51, classes: int = 5) -> SlotLayout:
    geometry = Geometry.fit(height, width, size=32, multiple=16)
    scores = (classes, geometry.input_height // 16, geometry.input_width // 16)
    return SlotLayout(FORMATS[name], Colour(6), height, width, geometry, scores)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_arrays_have_the_promised_shapes_and_do_not_overlap(name: str) -> None:
    layout = layout_of(name)
    with Ring(layout, 3) as ring:
        for slot in ring:
            arrays = [*slot.planes, slot.image, slot.scores, slot.labels]
            assert [a.shape for a in slot.planes] == list(layout.format.plane_shapes(37, 51))
            assert {a.dtype for a in slot.planes} == {layout.format.dtype}
            assert slot.image.shape == (layout.geometry.input_height, layout.geometry.input_width, 3)
            assert slot.scores.shape == layout.score_shape
            assert slot.labels.shape == (37, 51)
            assert all(a.ctypes.data % 64 == 0 and a.flags.c_contiguous and a.flags.writeable for a in arrays)
        spans = sorted(
            (a.ctypes.data, a.ctypes.data + a.nbytes)
            for slot in ring
            for a in (*slot.planes, slot.image, slot.scores, slot.labels)
        )
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert spans[-1][1] - spans[0][0] <= layout.size * 3
        del arrays, slot


def test_views_are_made_once_and_slots_know_their_place() -> None:
    with Ring(layout_of(), 2) as ring:
        assert ring[1] is ring[1]
        assert [slot.index for slot in ring] == [0, 1]
        assert ring[0].geometry == ring.layout.geometry
        with pytest.raises(IndexError):
            ring[2]


def test_layout_travels_by_pickle() -> None:
    layout = layout_of("yuv422p10le")
    again = pickle.loads(pickle.dumps(layout))
    assert again == layout
    assert again.parts == layout.parts
    assert again.size % 64 == 0


def test_another_process_sees_the_same_memory() -> None:
    layout = layout_of()
    program = (
        "import pickle, sys; from pipeline.slots import Ring\n"
        "ring = Ring.attach(int(sys.argv[1]), pickle.loads(bytes.fromhex(sys.argv[2])), 2)\n"
        "ring[1].labels[:] = ring[1].planes[0] + 1\n"
    )
    with Ring(layout, 2) as ring:
        ring[1].planes[0][:] = 41
        subprocess.run(
            [sys.executable, "-c", program, str(ring.fd), pickle.dumps(layout).hex()],
            pass_fds=(ring.fd,),
            check=True,
            timeout=15,
        )
        assert np.unique(ring[1].labels).tolist() == [42]
        assert not ring[0].labels.any()


def test_close_gives_everything_back_even_while_a_view_is_held() -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text(encoding="utf-8").count("deeplab-slots")

    before = descriptors()
    ring = Ring(layout_of(), 2)
    held = ring[0].labels
    assert str(Path(f"/proc/self/fd/{ring.fd}").readlink()).startswith("/memfd:")  # so never a name in /dev/shm
    ring.close()
    ring.close()
    held[:] = 7
    assert held.sum() == 7 * held.size
    assert mapped() == 1
    del held
    assert (mapped(), descriptors()) == (0, before)


def test_the_file_cannot_be_shortened_under_a_reader() -> None:
    with Ring(layout_of(), 1) as ring, pytest.raises(PermissionError):
        os.ftruncate(ring.fd, 64)


def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="not enough memory for 1000000000 frame slots") as caught:
        Ring(layout_of(), 10**9)
    assert "\n" not in str(caught.value)

    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slots.os, "posix_fallocate", refuse)
    before = descriptors()
    with pytest.raises(PipelineError, match="51×37 yuv420p"):
        Ring(layout_of(), 2)
    assert descriptors() == before


def test_a_file_size_limit_is_named() -> None:
    program = (
        "import pickle, resource, sys; from pipeline.errors import PipelineError; from pipeline.slots import Ring\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n    Ring(pickle.loads(bytes.fromhex(sys.argv[1])), 2)\n"
        "except PipelineError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, pickle.dumps(layout_of()).hex()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=True)
    assert "file size limit" in done.stdout
    assert "ulimit -f" in done.stdout
    assert "memory for" not in done.stdout


def test_without_memfd_an_unlinked_file_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(slots.os, "memfd_create")
    monkeypatch.delattr(slots.os, "posix_fallocate")
    monkeypatch.setattr(slots.tempfile, "tempdir", str(tmp_path))
    with Ring(layout_of(), 2) as ring:
        assert not list(tmp_path.iterdir())
        with Ring.attach(os.dup(ring.fd), ring.layout, 2) as other:
            other[1].scores[:] = 1.5
            assert float(ring[1].scores.sum()) == 1.5 * ring[1].scores.size


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        Ring(layout_of(), 0)
    with pytest.raises(ValueError, match="cannot be empty"):
        Ring(layout_of(classes=0), 1)
