"""Runs in which frames take over scores from those before them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import pipeline.runner.waiting
from engines.backends.openvino import OpenVINORequest
from pipeline.errors import ConfigError, StageError
from pipeline.frame import FORMATS, Colour, Frame, Geometry
from pipeline.options import InputOptions, PropagateOptions
from pipeline.runner.propagation import Pace, Propagation
from pipeline.runner.waiting import Sides, Waiting
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.base import Decoded
from pipeline.stages.guided import GuidedRefiner
from pipeline.stages.hold import MARGIN, MARGIN_FORESEEN
from pipeline.stages.keyframes import DOUBT, LONGEST, KeyFrames, affordable
from pipeline.stages.motion import CUT, Guide, Motion, measure_both
from pipeline.stages.prepare import prepare, to_rgb
from pipeline.stages.propagate import Memory, State, between, carry, mix, step
from pipeline.stages.upsample import Before, upsample_argmax
from pipeline.telemetry import PropagationMeter
from tests.pipeline import tiny
from tests.pipeline.clips import Clip
from tests.pipeline.painting import Array
from tests.pipeline.running import Recorder, nothing_left, options_of, run, tiny_scores, told

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

MakeClip = Callable[[str], Clip]

PACED = "lavfi:testsrc2=size=96x80:rate=50,realtime"


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty frames: coloured squares on a texture that pans, then, from frame 12, another scene."""
    path = tmp_path_factory.mktemp("moving") / "moving.mkv"
    random = np.random.default_rng(3)
    scenes = [np.kron(random.integers(0, 256, (40, 60, 3)), np.ones((8, 8, 1), int)).astype(np.uint8) for _ in "ab"]
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 25)
        for number in range(20):
            scene, at = scenes[number >= 12], 2 * (number % 12)
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(scene[at : at + 120, 2 * at : 2 * at + 160]), "rgb24"
            )
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def one_by_one(path: Path, every: int, *, smooth: bool) -> list[tuple[Frame, Array, Geometry]]:
    """Frames and their scores, by the pure functions one after the other."""
    found: list[tuple[Frame, Array, Geometry]] = []
    states: list[State] = []
    backs: list[Motion | None] = []
    own: list[Array] = []
    state, before, since = None, None, 0
    with closing(open_source(str(path), SourceOptions())) as source:
        for item in source.read():
            if not isinstance(item, Decoded):
                continue
            frame = replace(item.frame, planes=tuple(plane.copy() for plane in item.frame.planes))
            geometry = Geometry.fit(frame.height, frame.width, size=tiny.SIZE, multiple=tiny.STRIDE)
            image = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
            prepare(item.picture, geometry, image, frame.colour)
            fresh = np.ascontiguousarray(tiny_scores(image), np.float32)
            guide = Guide.of(frame)
            motion = back = None
            if before is not None:
                motion, back = measure_both(guide, before, geometry, fresh.shape[1:])
            key = since >= every if motion is not None and motion.confidence >= CUT else True
            since = 1 if key else since + 1
            state, scores = step(state, motion, fresh if key else None, smooth=smooth)
            before = guide
            found.append((frame, scores, geometry))
            states.append(state)
            backs.append(back)
            own.append(fresh)
    if smooth:
        for index in range(len(found) - 1):
            path = backs[index + 1]
            adjacent = states[index].motion is None and states[index + 1].motion is None
            if adjacent and path is not None and path.confidence >= CUT:
                later = State(Memory.fresh(own[index + 1]), path)
                mixed = mix(later, states[index].memory).scores
                found[index] = (found[index][0], mixed, found[index][2])
    keys = [index for index, each in enumerate(states) if each.motion is None]
    for early, late in pairwise(keys):
        path = backs[late]
        if path is None or path.confidence < CUT:
            continue
        for index in range(late - 1, early, -1):
            later = State(states[late].memory, path)
            scores = between(states[index], later, (index - early) / (late - early))
            found[index] = (found[index][0], scores, found[index][2])
            path = backs[index].after(path)
    return found


@pytest.mark.parametrize(("every", "smooth"), [(1, True), (3, False), (3, True), (1000, False)])
def test_the_stream_does_what_the_pure_functions_do(every: int, smooth: bool, moving: Path, tiny: str) -> None:
    recorder = Recorder()
    with nothing_left():
        report = run([InputOptions(str(moving))], tiny, extra=[recorder], infer_every=every, temporal=smooth)
    held: Before | None = None
    for result, (_, scores, geometry) in zip(recorder.results, one_by_one(moving, every, smooth=smooth), strict=True):
        expected = upsample_argmax(scores, geometry, None, None if result.index == 12 else held)[0]
        held = Before(expected, MARGIN_FORESEEN if every == 1 else MARGIN) if smooth else None
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
    for result, (frame, scores, geometry) in zip(recorder.results, one_by_one(moving, 4, smooth=False), strict=True):
        expected = GuidedRefiner(frame.height, frame.width).labels(to_rgb(frame), scores, geometry)
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
    wait = OpenVINORequest.wait

    def slowly(request: OpenVINORequest, timeout: float) -> None:
        time.sleep(0.2)
        wait(request, timeout)

    monkeypatch.setattr(OpenVINORequest, "wait", slowly)
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
    assert one.written > 0.6 * one.read
    assert one.propagation.late > 2
    assert one.propagation.key_share < 0.25
    settled = sorted(age for index, age in ages.items() if index > 20)
    assert settled[len(settled) // 2] < 0.15, "most are labelled before the network could have seen them"
    assert recorder.indices == sorted(set(recorder.indices))


# ---- scores that come late


def pan(count: int) -> list[Frame]:
    """Frames of a texture that pans, captured long ago."""
    scene = np.kron(np.random.default_rng(5).integers(0, 256, (40, 60)), np.ones((8, 8))).astype(np.uint8)
    chroma = np.full((60, 80), 128, np.uint8)
    return [
        Frame(
            (np.ascontiguousarray(scene[2 * time : 2 * time + 120, 4 * time : 4 * time + 160]), chroma, chroma),
            FORMATS["yuv420p"], Colour(), time, Fraction(time, 25), Fraction(1, 25), 0, 0, "pan",
        )
        for time in range(count)
    ]  # fmt: skip


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


# ---- frames that wait for the next key frame


def known(still: bool = True) -> State:
    """A state at a key frame or, ``still``, at a frame after it in which nothing has moved."""
    return State(Memory.fresh(np.ones((1, 2, 3), np.float32)), sure(1.0) if still else None)


def told_apart(done: list[Sides[int]]) -> list[tuple[int, float | None]]:
    """Frames and their share of the later key frame, None where they go by one side."""
    return [(each.item, each.share if each.later is not None else None) for each in done]


def test_frames_wait_for_the_next_key_frame() -> None:
    waiting: Waiting[int] = Waiting()
    assert told_apart(waiting.add(0, known(still=False), None)) == [(0, None)]
    assert [waiting.add(index, known(), sure(1.0)) for index in (1, 2, 3)] == [[], [], []]
    met = waiting.add(4, known(still=False), sure(1.0))
    assert told_apart(met) == [(1, 0.25), (2, 0.5), (3, 0.75), (4, None)]
    assert waiting.add(5, known(), sure(1.0)) == []
    assert told_apart(waiting.end()) == [(5, None)]
    assert waiting.end() == []


def test_a_key_frame_waits_for_the_next_frame_where_scores_are_mixed() -> None:
    fresh = np.full((1, 2, 3), 7, np.float32)
    key = State(Memory.fresh(np.ones((1, 2, 3), np.float32)), None, fresh)
    waiting: Waiting[int] = Waiting(foresees=True)
    assert waiting.add(0, key, None) == []
    (one,) = waiting.add(1, key, sure(1.0))
    assert one.item == 0
    assert np.allclose(one.scores(), (1 + 7) / 2)
    assert told_apart(waiting.add(2, known(), sure(1.0))) == [(1, None)], "the next one shows nothing of its own"
    assert told_apart(waiting.add(3, key, sure(1.0))) == [(2, 0.5)]
    assert told_apart(waiting.add(4, key, sure(CUT / 2))) == [(3, None)], "the next one is another scene"
    assert told_apart(waiting.end()) == [(4, None)]


def test_a_still_scene_comes_to_the_mean_of_its_scores_in_files() -> None:
    """Every frame passes the network, whose scores are noise about what is true; a frame sees one further."""
    still, shape = pan(1)[0], (3, 15, 20)
    random = np.random.default_rng(8)
    given = random.normal(size=(40, *shape)).astype(np.float32)
    memory = Propagation(
        PropagateOptions(temporal=True),
        geometry=Geometry(120, 160, 120, 160, 120, 160),
        score_shape=shape,
        keys=2,
        pace=Pace(interval=lambda: None, network=lambda: 0.0, live=False),
        meter=PropagationMeter(),
    )
    waiting: Waiting[int] = Waiting(foresees=memory.foresees)
    done: list[Sides[int]] = []
    for time_, answer in enumerate(given):
        motion, back, key = memory.look(replace(still, index=time_, pts=Fraction(time_, 25)))
        assert key is not None
        key.scores[:] = answer
        memory.arrive(key)
        done += waiting.add(time_, memory.follow(still, motion, key), back)
    done += waiting.end()
    assert [each.item for each in done] == list(range(len(given)))
    for each in done:
        np.testing.assert_allclose(each.scores(), given[: each.item + 2].mean(0), atol=1e-5)


def test_a_cut_is_not_waited_across() -> None:
    for back in (None, sure(CUT / 2)):
        waiting: Waiting[int] = Waiting()
        waiting.add(1, known(), sure(1.0))
        assert told_apart(waiting.add(2, known(still=False), back)) == [(1, None), (2, None)]


def test_no_more_frames_wait_than_there_is_room_for() -> None:
    waiting: Waiting[int] = Waiting()
    done = [told_apart(waiting.add(index, known(), sure(1.0))) for index in range(LONGEST + 2)]
    assert done == [*LONGEST * [[]], [(0, None)], [(1, None)]]
    assert len(waiting.add(99, known(still=False), sure(1.0))) == LONGEST + 1


# ---- which frames pass the network


def sure(confidence: float) -> Motion:
    return Motion(np.zeros((2, 3, 2), np.float32), np.full((2, 3), confidence, np.float32))


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
