"""`pipeline.stream`: results in order, errors raised, nothing left however the loop ends."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline
from engines.base import EngineError
from pipeline.errors import ConfigError, PipelineError, SourceError, StageError
from tests.conftest import absent
from tests.pipeline.clips import Clip
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import ROOT, plainly, told
from tests.pipeline.tiny import LABELS

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]


def test_results_are_what_they_promise(clip: MakeClip, tiny: str) -> None:
    given = clip("late")
    with nothing_left():
        results = list(pipeline.stream(str(given.path), model=tiny))
    assert [result.index for result in results] == list(range(len(given.numbers)))
    assert [result.pts for result in results] == list(given.pts)
    for expected, result in zip(plainly(given.path), results, strict=True):
        expected.check(result.labels)
        assert result.labels.dtype == np.uint8
        assert len(result.shares) == len(LABELS)
        assert sum(result.shares) == pytest.approx(1)
        assert result.frame.source == "late"
        assert [plane.shape for plane in result.frame.planes] == list(result.frame.format.plane_shapes(80, 96))
    # A result owns its memory: none of it changes when others come.
    assert len({result.labels.ctypes.data for result in results}) == len(results)


@pytest.mark.parametrize("refine", ["none", "guided", "crf"])
@pytest.mark.parametrize("after", [0, 1, 10])
def test_leaving_early_leaves_nothing(refine: Any, after: int, clip: MakeClip, tiny: str) -> None:
    with nothing_left():
        results = pipeline.stream(str(clip("long").path), model=tiny, refine=refine, crf_workers=1)
        for _ in range(after):
            next(results)
        results.close()


def test_a_loop_that_breaks_or_raises_leaves_nothing(clip: MakeClip, tiny: str) -> None:
    with nothing_left():
        for result in pipeline.stream(str(clip("long").path), model=tiny):
            if result.index == 5:
                break
        del result
        gc.collect()
    with nothing_left():
        with pytest.raises(ZeroDivisionError):
            for result in pipeline.stream(str(clip("long").path), model=tiny):
                1 // (result.index - 3)
        gc.collect()


def test_errors_are_raised(clip: MakeClip, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(clip("h264").path)
    with nothing_left():
        with pytest.raises(SourceError, match="nowhere"):
            next(pipeline.stream("nowhere.mp4", model=tiny))
        with pytest.raises(EngineError, match="strete"):
            next(pipeline.stream(path, model="strete"))
        with pytest.raises(ConfigError, match=r"^stream\(\): render: alpha 3.0 is"):
            pipeline.stream(path, model=tiny, alpha=3)
        with pytest.raises(ConfigError, match="purple"):
            next(pipeline.stream(path, model=tiny, classes=["purple"]))
        with pytest.raises(TypeError, match="'sise': did you mean 'size'"):
            pipeline.stream(path, model=tiny, sise=3)  # type: ignore[call-arg]

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr("pipeline.runner.labelling.upsample_argmax", fail)
    with nothing_left(), told(StageError, "h264, frame 0: upsample failed") as error:
        next(pipeline.stream(path, model=tiny))
    assert (error.stage, error.index) == ("upsample", 0)


def test_a_loss_is_raised_after_what_came(clip: MakeClip, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.sources.demux import Demuxer

    packets = Demuxer.packets

    def lost(self: Demuxer) -> Any:
        for number, packet in enumerate(packets(self)):
            if number == 20:
                raise SourceError("cam: lost")
            yield packet

    monkeypatch.setattr(Demuxer, "packets", lost)
    seen = 0
    with pytest.raises(SourceError, match="cam: lost"):
        for _ in pipeline.stream(str(clip("h264").path), model=tiny):
            seen += 1
    assert 10 < seen <= 20


def test_options_are_the_flags(clip: MakeClip, tiny: str) -> None:
    given = clip("h264")
    sizes = {
        result.frame.width
        for result in pipeline.stream(
            str(given.path), model=tiny, render="side-by-side", max_frames=3, start=0.5, mode="lossless", config="live"
        )
    }
    assert sizes == {2 * given.width}


def test_paths_and_times_as_people_have_them(clip: MakeClip, tiny: str) -> None:
    given = clip("h264")
    by_text = [result.pts for result in pipeline.stream(given.path, model=tiny, start="0:00.5", duration="0:00.2")]
    by_number = [result.pts for result in pipeline.stream(str(given.path), model=tiny, start=0.5, duration=0.2)]
    assert by_text == by_number != []
    with pytest.raises(ConfigError, match="start '1::2' is not a time"):
        pipeline.stream(given.path, model=tiny, start="1::2")


def test_streams_in_several_threads_of_a_program(clip: MakeClip, tiny: str) -> None:
    """Started from any thread, with others running, and with workers forked meanwhile."""
    names = ["h264", "vfr", "odd", "late"]
    got: dict[str, list[Any]] = {}

    def work(name: str) -> None:
        given = clip(name)
        refine: Any = "guided" if name == "vfr" and importlib.util.find_spec("pipeline.stages.guided") else "none"
        got[name] = [result.pts for result in pipeline.stream(str(given.path), model=tiny, refine=refine)]

    for name in names:
        clip(name)
    with nothing_left():
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(50)
    assert got == {name: list(clip(name).pts) for name in names}


def test_two_streams_side_by_side(clip: MakeClip, tiny: str) -> None:
    first, second = clip("h264"), clip("vfr")
    pairs = zip(
        pipeline.stream(str(first.path), model=tiny), pipeline.stream(str(second.path), model=tiny), strict=False
    )
    for number, (one, other) in enumerate(pairs):
        assert one.pts == first.pts[number]
        assert other.pts == second.pts[number]


SNIPPET = """
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

import pipeline

for result in pipeline.stream("clip.mp4", model="street", refine="guided", classes=["car"], max_frames=3):
    labels: NDArray[np.uint8] = result.labels
    pts: Fraction = result.pts
    shares: tuple[float, ...] = result.shares
    width: int = result.frame.width
"""

WRONG = """
import pipeline

pipeline.stream("clip.mp4", modle="street")
pipeline.stream("clip.mp4", refine="magic")
pipeline.stream(3)
"""


@pytest.mark.slow
def test_users_get_types(tmp_path: Path) -> None:
    if importlib.util.find_spec("mypy") is None:
        absent("mypy (extra dev)")

    (tmp_path / "right.py").write_text(SNIPPET)
    (tmp_path / "wrong.py").write_text(WRONG)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "right.py", "wrong.py"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "snippet"), "PATH": ""},
    )
    assert "right.py:" not in done.stdout, done.stdout
    assert done.stdout.count("wrong.py:") >= 3, done.stdout


def test_the_package_is_light_until_it_is_used() -> None:
    code = "import sys, pipeline; print([name for name in ('numpy', 'av', 'openvino') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
    assert issubclass(SourceError, PipelineError)
