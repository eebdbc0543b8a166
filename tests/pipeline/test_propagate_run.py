"""Runs in which frames take over scores from those before them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline.runner.waiting
from pipeline.errors import ConfigError, StageError
from pipeline.frame import Geometry
from pipeline.options import InputOptions, PropagateOptions
from pipeline.runner.propagation import Pace, Propagation
from pipeline.stages.guided import GuidedRefiner
from pipeline.stages.keyframes import DOUBT, LONGEST, KeyFrames, affordable
from pipeline.stages.motion import CUT
from pipeline.stages.prepare import to_rgb
from pipeline.stages.propagate import carry
from pipeline.stages.upsample import upsample_argmax
from pipeline.telemetry import PropagationMeter
from tests.pipeline.clips import Clip
from tests.pipeline.following import held, one_by_one, pan, sure, write_moving
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.painting import Array
from tests.pipeline.running import Recorder, options_of, run, told
from tests.pipeline.slowing import slow_network

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

MakeClip = Callable[[str], Clip]

PACED = "lavfi:testsrc2=size=96x80:rate=50,realtime"


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving(tmp_path_factory.mktemp("moving") / "moving.mkv")


@pytest.mark.parametrize(("every", "smooth"), [(1, True), (3, False), (3, True), (1000, False)])
def test_the_stream_does_what_the_pure_functions_do(every: int, smooth: bool, moving: Path, tiny: str) -> None:
    recorder = Recorder()
    with nothing_left():
        report = run([InputOptions(str(moving))], tiny, extra=[recorder], infer_every=every, temporal=smooth)
    alone = one_by_one(moving, every, smooth=smooth)
    labels = held(alone) if smooth else [upsample_argmax(each.scores, each.geometry)[0] for each in alone]
    for result, expected in zip(recorder.results, labels, strict=True):
        assert (result.labels == expected).mean() > 0.9999, result.index  # the network's sums are rounded otherwise
    told = report.inputs[0].propagation
    assert told is not None
    keys = {1: 20, 3: 4 + 3, 1000: 2}[every]
    assert told.key_share == keys / 20
    assert report.inputs[0].stages["infer"].frames == keys
    assert told.cuts == 1
    assert told.late == 0
    assert told.flow_ms > 0
    assert told.trust is not None
    assert 0.5 < told.trust < 1


def test_propagated_scores_are_sharpened_if_asked(moving: Path, tiny: str) -> None:
    recorder = Recorder()
    run([InputOptions(str(moving))], tiny, extra=[recorder], infer_every=4, refine="guided", crf_workers=2)
    for result, each in zip(recorder.results, one_by_one(moving, 4, smooth=False), strict=True):
        refiner = GuidedRefiner(each.frame.height, each.frame.width)
        expected = refiner.labels(to_rgb(each.frame), each.scores, each.geometry)
        assert (result.labels == expected).mean() > 0.999, result.index
    assert all(result.refined for result in recorder.results)


def test_following_is_nearly_as_good_as_looking(moving: Path, tiny: str) -> None:
    looking, following = Recorder(), Recorder()
    run([InputOptions(str(moving))], tiny, extra=[looking])
    run([InputOptions(str(moving))], tiny, extra=[following], infer_every=4)
    held = [looking.results[index - index % 4 if index < 12 else index - (index - 12) % 4] for index in range(20)]
    same = np.mean([(a.labels == b.labels).mean() for a, b in zip(looking.results, following.results, strict=True)])
    stale = np.mean([(a.labels == b.labels).mean() for a, b in zip(looking.results, held, strict=True)])
    assert same > 0.75
    assert stale < same - 0.1


@pytest.mark.parametrize("name", ["10 bit", "odd", "444", "anamorphic", "left", "size change"])
def test_every_kind_of_file(name: str, clip: MakeClip, tiny: str) -> None:
    recorder = Recorder()
    given = clip(name)
    with nothing_left():
        report = run([InputOptions(str(given.path))], tiny, extra=[recorder], infer_every="auto", temporal=True)
    assert recorder.indices == list(range(len(given.numbers)))
    assert len(recorder.infos) == (2 if name == "size change" else 1)
    told = report.inputs[0].propagation
    assert told is not None
    assert 0 < told.key_share < 1


def test_inputs_side_by_side_remember_their_own(moving: Path, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    alone = Recorder()
    run([InputOptions(str(moving))], tiny, extra=[alone], infer_every=2, temporal=True)
    together = Recorder()
    others = [InputOptions(str(clip(name).path), name, masks=(f"{tmp_path}/{name}.mkv",)) for name in ("h264", "odd")]
    with nothing_left():
        report = run([InputOptions(str(moving)), *others], tiny, extra=[together], infer_every=2, temporal=True)
    for one, other in zip(alone.results, together.results, strict=True):
        assert np.array_equal(one.labels, other.labels)
    assert all(one.propagation is not None for one in report.inputs)


def test_memory_goes_with_the_stream(clip: MakeClip, tiny: str) -> None:
    alive: list[int] = []

    def look(step: str, index: int) -> None:
        if step == "write" and index in (3, 40):
            gc.collect()
            alive.append(sum(isinstance(each, Propagation) for each in gc.get_objects()))

    run([InputOptions(str(clip("size change").path))], tiny, extra=[Recorder(look)], infer_every=3)
    assert alive
    assert max(alive) <= 2, "that of the old size goes once its frames are labelled"
    gc.collect()
    assert not any(isinstance(each, Propagation) for each in gc.get_objects())


def test_a_failure_names_the_frame(moving: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Array:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(pipeline.runner.waiting, "between", fail)
    with nothing_left(), told(StageError, "on purpose") as error:
        run([InputOptions(str(moving))], tiny, extra=[Recorder()], infer_every=3)
    assert (error.stage, error.index) == ("propagate", 1)


@pytest.mark.slow
@pytest.mark.parametrize("every", ["auto", 3])
def test_a_slow_network_still_gives_a_live_picture(every: Any, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a fifth of a second a frame the network alone would let four frames of five go."""
    slow_network(monkeypatch, 0.2)
    ages: dict[int, float] = {}

    class Aged(Recorder):
        def write(self, result: Any) -> None:
            ages[result.index] = (time.monotonic_ns() - result.frame.captured_ns) / 1e9
            super().write(result)

    recorder = Aged()
    with nothing_left():
        report = run([InputOptions(PACED)], tiny, extra=[recorder], duration=1.6, infer_every=every, max_latency=60.0)
    (one,) = report.inputs
    assert one.propagation is not None
    assert one.written > 0.3 * one.read
    assert one.propagation.late > 2
    assert one.propagation.key_share < 0.25
    settled = sorted(age for index, age in ages.items() if index > 20)
    assert settled[len(settled) // 2] < 0.15, "most are labelled before the network could have seen them"
    assert recorder.indices == sorted(set(recorder.indices))


# ---- scores that come late


@pytest.mark.parametrize("smooth", [False, True])
def test_late_scores_join_where_the_picture_has_moved_since(smooth: bool) -> None:
    """Of two networks one is three frames late with the second key frame: what follows it is the same."""
    shape, geometry = (3, 15, 20), Geometry(120, 160, 120, 160, 120, 160)
    answers = np.random.default_rng(6).normal(size=(10, *shape)).astype(np.float32)
    outs: dict[bool, list[Array]] = {}
    for live in (False, True):
        meter = PropagationMeter()
        memory = Propagation(
            PropagateOptions(infer_every=4, temporal=smooth),
            geometry=geometry,
            score_shape=shape,
            keys=2,
            pace=Pace(interval=lambda: 0.04, network=lambda: 0.0, live=live, max_latency_ns=1_000_000),
            meter=meter,
        )
        outs[live], waiting = [], None
        for frame in pan(10):
            motion, _, key = memory.look(frame)
            assert (key is not None) == (frame.index in (0, 4, 8))
            if key is not None:
                key.scores[:] = answers[frame.index]
                if live and frame.index == 4:
                    waiting = key
                else:
                    memory.arrive(key)
            if waiting is not None and frame.index == 7:
                memory.arrive(waiting)
            outs[live].append(carry(memory.follow(frame, motion, key)).copy())
        assert meter.late == live
    same = [np.allclose(a, b, atol=1e-5) for a, b in zip(outs[False], outs[True], strict=True)]
    assert same == [True] * 4 + [False] * 3 + [True] * 3


# ---- which frames pass the network


def chosen(frames: KeyFrames, motions: list[float | None]) -> list[int]:
    """Indices of the key frames."""
    given = [sure(each) if each is not None else None for each in motions]
    return [index for index, motion in enumerate(given) if frames.choose(motion)]


def test_every_nth_counts_from_the_last_cut() -> None:
    assert chosen(KeyFrames(3), [None, 1, 1, 1, 1, CUT / 2, 1, 1, 1, 1]) == [0, 3, 5, 8]
    assert chosen(KeyFrames(1), [None, 1, 1]) == [0, 1, 2]


def test_auto_looks_again_when_trust_is_lost() -> None:
    assert chosen(KeyFrames("auto"), [None] + 20 * [1.0]) == [0, LONGEST, 2 * LONGEST]
    confidence = DOUBT**0.4  # after three frames it is below
    assert chosen(KeyFrames("auto"), [None] + 9 * [confidence]) == [0, 3, 6, 9]


def test_the_pace_of_the_network_is_kept_to_but_for_cuts() -> None:
    assert chosen(KeyFrames("auto", lambda: 4), [None, *9 * [1.0]]) == [0, 4, 8]
    assert chosen(KeyFrames("auto", lambda: 4), [None, 1, None, 1, 1, 1, 1]) == [0, 2, 6]
    assert chosen(KeyFrames(2, lambda: 3), [None, *6 * [0.3]]) == [0, 3, 6]


def test_what_the_network_may_take() -> None:
    assert affordable(0.0, 0.04) == 1
    assert affordable(0.027, 0.04) == 1
    assert affordable(0.029, 0.04) == 2
    assert affordable(0.5, 0.04) == 18


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"infer_every": 0}, "out of range: auto, or 1 to 1000"),
        ({"infer_every": "always"}, "infer_every"),
        ({"infer_every": 2, "target_fps": 30.0}, "needs infer_every auto"),
        ({"infer_every": "auto", "target_fps": 0.0}, "target_fps 0 is out of range"),
        ({"infer_every": "auto", "max_latency": -1.0}, "max_latency -1 is out of range"),
    ],
)
def test_what_cannot_be_is_refused(flags: dict[str, Any], said: str, tiny: str) -> None:
    with pytest.raises(ConfigError, match=said):
        options_of([InputOptions("sample")], tiny, **flags)
