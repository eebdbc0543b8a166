"""Labels that hold on, alone and in the scores' way through files and live inputs."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.crf import CRFParameters, DenseCRF
from pipeline.crf.scores import upsample
from pipeline.frame import Geometry
from pipeline.options import InputOptions, PropagateOptions
from pipeline.runner.propagation import Pace, Propagation
from pipeline.runner.waiting import Sides, Waiting
from pipeline.stages.hold import FULL, MARGIN, MARGIN_AHEAD, Hold, steadiness
from pipeline.stages.motion import CUT
from pipeline.stages.prepare import to_rgb
from pipeline.stages.propagate import Memory, State
from pipeline.stages.upsample import upsample_argmax
from pipeline.telemetry import PropagationMeter
from tests.pipeline import tiny
from tests.pipeline.clips import Clip
from tests.pipeline.following import held, one_by_one, pan, sure, write_moving
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.painting import Array
from tests.pipeline.running import Recorder, run

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

GRID = Geometry(8, 12, 8, 12, 8, 12)


def two(lead: float) -> Array:
    """Scores of two classes on 2×3 cells: by how much the second lies above the first."""
    return np.stack([np.zeros((2, 3)), np.full((2, 3), lead)]).astype(np.float32)


def seen(frames: float, scores: Array | None = None) -> State:
    """A key frame whose scores are the mean of so many frames'."""
    return State(Memory(two(0) if scores is None else scores, np.full((2, 3), frames, np.float32)))


def label(
    hold: Hold, lead: float, ahead: float | None = None, frames: float = 2, trust: float | None = 1.0
) -> set[int]:
    """The labels of the next frame."""
    out = np.empty((8, 12), np.uint8)
    motion = sure(trust) if trust is not None else None
    counts = hold.label(
        two(lead), GRID, motion, out, known=seen(frames), ahead=two(ahead) if ahead is not None else None
    )
    assert counts.tolist() == np.bincount(out.ravel(), minlength=2).tolist()
    return set(out.ravel().tolist())


def after_first(lead: float, ahead: float | None = None, frames: float = 2, trust: float | None = 1.0) -> set[int]:
    """The labels of a second frame, whose first was labelled 0."""
    hold = Hold()
    assert label(hold, -1, trust=None) == {0}
    return label(hold, lead, ahead, frames, trust)


def test_a_label_holds_on_within_the_margin() -> None:
    assert after_first(0.9 * MARGIN) == {0}
    assert after_first(1.1 * MARGIN) == {1}


def test_the_next_frame_tells_what_lasts() -> None:
    m = MARGIN_AHEAD
    assert after_first(0.9 * m, ahead=0) == {0}
    assert after_first(1.1 * m, ahead=0) == {1}
    assert after_first(0.05 * m, ahead=9) == {1}, "a change that lasts is made at once"
    assert after_first(1.9 * m, ahead=-9) == {0}, "one that would be taken back is not"
    assert after_first(2.1 * m, ahead=-9) == {1}
    assert after_first(0.6 * m, ahead=0.5 * m) == {1}
    assert after_first(0.4 * m, ahead=0.5 * m) == {0}


@pytest.mark.parametrize("margin", [MARGIN, MARGIN_AHEAD])
def test_probabilities_hold_on_as_their_logits_do(margin: float) -> None:
    """Of two classes that share all of it."""
    for lead, expected in ((0.9 * margin, {0}), (1.1 * margin, {1})):
        hold = Hold(probabilities=True)
        label(hold, -1, trust=None)
        assert label(hold, np.tanh(lead / 2), 0 if margin == MARGIN_AHEAD else None) == expected


@pytest.mark.parametrize("trust", [None, CUT / 2])
def test_nothing_is_held_across_a_cut(trust: float | None) -> None:
    assert after_first(0.01, trust=trust) == {1}


def test_nothing_is_held_where_nothing_before_is_trusted() -> None:
    assert after_first(0.01, frames=1) == {1}
    trust = np.array([[0, 0.25, 0.5], [0.75, 0.9, 1]], np.float32)
    follower = State(Memory.fresh(two(0)), replace(sure(1.0), trust=trust))
    assert np.array_equal(steadiness(follower), trust)


def test_a_mean_of_many_frames_is_held_ever_less() -> None:
    assert after_first(0.9 * MARGIN, frames=FULL) == {0}
    assert after_first(0.4 * MARGIN, frames=2 * FULL) == {0}
    assert after_first(0.6 * MARGIN, frames=2 * FULL) == {1}
    assert after_first(0.01 * MARGIN, frames=1000 * FULL) == {1}


def test_labels_are_kept_in_memory_of_their_own_and_no_more_is_taken_for_a_frame() -> None:
    geometry = Geometry(480, 640, 480, 640, 480, 640)
    hold, out = Hold(), np.empty((480, 640), np.uint8)
    taken = []
    for lead in (-1, 0.9 * MARGIN, 0.9 * MARGIN):
        tracemalloc.start()
        hold.label(two(lead), geometry, sure(1.0), out, known=seen(2))
        taken.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert not out.any()
        out[:] = 1  # the slot goes to another frame
    assert taken[0] > out.size
    assert max(taken[1:]) < out.size / 4


def test_a_picture_of_another_size_begins_anew() -> None:
    hold = Hold()
    label(hold, -1, trust=None)
    out = np.empty((16, 24), np.uint8)
    hold.label(two(0.01), Geometry(16, 24, 16, 24, 16, 24), None, out, known=seen(1))
    assert (out == 1).all()
    hold.label(two(-0.01), Geometry(16, 24, 16, 24, 16, 24), sure(1.0), out, known=seen(2))
    assert (out == 1).all()


# ---- in the stream


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving(tmp_path_factory.mktemp("moving") / "moving.mkv")


def test_live_inputs_are_smoothed_by_the_past_alone(moving: Path, tiny: str) -> None:
    recorder = Recorder()
    given = {"mode": "live", "realtime": True, "temporal": True, "max_latency": 10_000.0}
    with nothing_left():
        report = run([InputOptions(str(moving))], tiny, extra=[recorder], **given)
    assert report.inputs[0].propagation is not None
    assert report.inputs[0].propagation.key_share == 1
    alone = one_by_one(moving, 1, smooth=True, live=True, only=recorder.indices)
    assert len(alone) > 3  # a busy machine loses some
    plain = [upsample_argmax(each.scores, each.geometry)[0] for each in alone]
    for result, expected in zip(recorder.results, held(alone), strict=True):
        assert (result.labels == expected).mean() > 0.9999, result.index
    assert any((result.labels != each).any() for result, each in zip(recorder.results, plain, strict=True))


def test_smoothed_scores_are_refined_if_asked_and_hold_on_to_nothing(moving: Path, tiny: str) -> None:
    recorder = Recorder()
    with nothing_left():
        run([InputOptions(str(moving))], tiny, extra=[recorder], temporal=True, refine="crf", crf_iterations=2)
    crf, alone = DenseCRF(120, 160, 3, CRFParameters(iterations=2), mode="pruned"), one_by_one(moving, 1, smooth=True)
    for result, each, unrefined in zip(recorder.results, alone, held(alone), strict=True):
        expected = crf.labels(to_rgb(each.frame), each.scores, geometry=each.geometry, iterations=2)
        assert (result.labels == expected).mean() > 0.9999, result.index
        assert (unrefined != expected).mean() > 0.01, "or this shows nothing"
        assert result.refined


def test_a_network_that_ends_in_a_softmax_is_held_by_its_probabilities(moving: Path, tmp_path: Path) -> None:
    path, recorder = tiny.tiny_model(tmp_path / "softmax.onnx"), Recorder()
    network = onnx.load(path)
    network.graph.node[-1].output[0] = "logits"
    small = helper.make_node("Mul", ["logits", "scale"], ["small"])
    network.graph.node.extend([small, helper.make_node("Softmax", ["small"], ["scores"], axis=1)])
    network.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 256), "scale"))
    onnx.save(network, str(path))
    run([InputOptions(str(moving))], str(path), extra=[recorder], temporal=True)
    alone = one_by_one(moving, 1, smooth=True, probabilities=True)
    unsure = 0
    for result, right, wrong in zip(
        recorder.results, held(alone, probabilities=True), held(alone, probabilities=False), strict=True
    ):
        assert (result.labels == right).mean() > 0.999, result.index
        unsure += int((right != wrong).sum())
    assert unsure > 1000, "or this shows nothing"


def test_a_change_of_size_begins_anew_where_every_frame_is_looked_at(clip: Callable[[str], Clip], tiny: str) -> None:
    given, recorder = clip("size change"), Recorder()
    with nothing_left():
        run([InputOptions(str(given.path))], tiny, extra=[recorder], temporal=True)
    assert recorder.indices == list(range(len(given.numbers)))
    assert len(recorder.infos) == 2
    sizes = [result.labels.shape for result in recorder.results]
    turn = sizes.index(sizes[-1])
    assert set(sizes) == {sizes[0], sizes[-1]}
    assert 0 < turn == sizes.count(sizes[0])


def test_a_still_scene_comes_to_the_mean_of_its_scores_and_to_its_labels() -> None:
    """Every frame passes the network, whose scores are noise about what is true; a frame sees one further."""
    still, shape, geometry = pan(1)[0], (3, 15, 20), Geometry(120, 160, 120, 160, 120, 160)
    random = np.random.default_rng(8)
    given = random.normal(size=(60, *shape)).astype(np.float32)
    memory = Propagation(
        PropagateOptions(temporal=True),
        geometry=geometry,
        score_shape=shape,
        keys=2,
        pace=Pace(interval=lambda: None, network=lambda: 0.0, live=False),
        meter=PropagationMeter(),
    )
    waiting: Waiting[int] = Waiting(foresees=memory.foresees)
    done: list[Sides[int]] = []
    motions = []
    for time_, answer in enumerate(given):
        motion, back, key = memory.look(replace(still, index=time_, pts=Fraction(time_, 25)))
        assert key is not None
        key.scores[:] = answer
        motions.append(motion)
        memory.arrive(key)
        done += waiting.add(time_, memory.follow(still, motion, key), back)
    done += waiting.end()
    assert [each.item for each in done] == list(range(len(given)))
    for each in done:
        np.testing.assert_allclose(each.scores(), given[: each.item + 2].mean(0), atol=1e-5)
    hold, out = Hold(), np.empty((120, 160), np.uint8)
    for each in done:
        hold.label(each.scores(), geometry, motions[each.item], out, known=each.earlier, ahead=each.ahead)
    mean = given.mean(0)
    true, counts = upsample_argmax(mean, geometry)
    assert counts.min() > 1000
    ranked = np.sort(upsample(mean, geometry), axis=0)
    clear = ranked[-1] - ranked[-2] > 1.01 * MARGIN * FULL / len(given)
    assert clear.mean() > 0.8
    assert (out == true)[clear].all()
