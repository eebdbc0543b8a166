"""Whole runs over real files: what comes out is what plain arithmetic gives, frame by frame."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

import pipeline
from engines import zoo
from engines.backends import open_engine
from engines.base import EngineOptions
from pipeline.frame import FORMATS, Geometry
from pipeline.options import InputOptions
from pipeline.reports import Spread
from pipeline.slots import Ring, SlotLayout
from pipeline.sources import open_source
from pipeline.sources.base import Decoded
from pipeline.stages.prepare import prepare
from pipeline.stages.refine import RefineSpec, open_refiner
from pipeline.stages.render import Renderer, RenderOptions
from pipeline.stages.upsample import upsample_argmax
from tests.conftest import absent
from tests.pipeline.clips import Clip
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.painting import Array, read_number
from tests.pipeline.running import Recorder, masks_of, plainly, probe, run, sidecar_of, times, tree
from tests.pipeline.tiny import LABELS

pytestmark = [pytest.mark.timeout(90), pytest.mark.usefixtures("no_error_logged")]

MakeClip = Callable[[str], Clip]
FRAMES = 300


@pytest.fixture(scope="module")
def colourful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 moving pictures of many colours, so that labels change everywhere."""
    path = tmp_path_factory.mktemp("colourful") / "colourful.mp4"
    graph = f"testsrc2=size=212x120:rate=25:duration={FRAMES / 25}"
    with av.open(graph, format="lavfi") as source, av.open(str(path), "w") as made:
        options = {"preset": "ultrafast", "crf": "20", "x264-params": "bframes=3:b-adapt=0"}
        stream = made.add_stream("libx264", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 212, 120, "yuv420p"
        for picture in source.decode(video=0):
            made.mux(stream.encode(picture.reformat(format="yuv420p")))
        made.mux(stream.encode(None))
    return path


def test_300_frames_are_what_plain_arithmetic_gives(colourful: Path, tiny: str, tmp_path: Path) -> None:
    masks, overlay, recorder = tmp_path / "masks.mkv", tmp_path / "overlay.mp4", Recorder()
    report = run([InputOptions(str(colourful), outputs=(str(overlay),), masks=(str(masks),))], tiny, extra=[recorder])
    read_back = masks_of(masks)
    assert len(read_back) == len(recorder.results) == FRAMES
    assert recorder.indices == list(range(FRAMES))
    renderer = Renderer(LABELS)
    ambiguous = 0
    for expected, mask, result in zip(plainly(colourful), read_back, recorder.results, strict=True):
        expected.check(mask)
        np.testing.assert_array_equal(mask, result.labels)
        ambiguous += int((~expected.certain).sum())
        counts = np.bincount(mask.ravel(), minlength=len(LABELS))
        painted = renderer.render(expected.frame, mask, counts)
        for ours, theirs in zip(result.frame.planes, painted.planes, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert result.pts == expected.frame.pts
        assert result.shares == pytest.approx(counts / mask.size)
        assert result.refined
    assert ambiguous < 0.05 * sum(mask.size for mask in read_back)  # the clip has black and white in it
    assert len({mask.tobytes() for mask in read_back}) > FRAMES / 2, "the clip's labels must change"
    assert times(overlay) == times(masks) == times(colourful)
    (one,) = report.inputs
    assert (one.read, one.written, one.damaged, one.dropped, one.unrefined) == (FRAMES, FRAMES, 0, 0, 0)
    assert [(sink.written, sink.dropped) for sink in one.sinks] == [(FRAMES, 0)] * 3
    assert report.frames == FRAMES
    assert report.fps == pytest.approx(FRAMES / report.seconds, rel=0.02)
    assert {name: stage.frames for name, stage in one.stages.items()} == dict.fromkeys(
        ("decode", "prepare", "infer", "upsample", "render", str(overlay), str(masks), "recorder"), FRAMES
    )
    assert one.latency_ms is not None
    assert 0 < one.latency_ms.p50 <= one.latency_ms.p95 <= one.latency_ms.p99


def test_the_embedded_model_gives_what_one_picture_at_a_time_gives(data: Path, tmp_path: Path) -> None:
    street, model = data / "video/camvid_val_0016E5_15hz.mp4", zoo.STREET
    if not (Path(zoo.__file__).parent / "models" / "street.onnx").is_file():
        absent("the embedded model")
    masks = tmp_path / "masks.mkv"
    run([InputOptions(str(street), masks=(str(masks),))], model.name, precision="auto", size=96, max_frames=30)
    engine = open_engine(zoo.load_model(model.name), "openvino", EngineOptions(threads=1))
    source = open_source(str(street))
    try:
        pictures = islice((item for item in source.read() if isinstance(item, Decoded)), 30)
        for mask, picture in zip(masks_of(masks), pictures, strict=True):
            frame = picture.frame
            geometry = Geometry.fit(
                frame.height,
                frame.width,
                size=96,
                multiple=engine.model.output_stride,
                align_corners=engine.model.align_corners,
            )
            image = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
            prepare(picture.picture, geometry, image, frame.colour)
            session = engine.session(geometry.input_height, geometry.input_width)
            scores = np.empty(session.score_shape, np.float32)
            session.start(image, scores).wait(20)
            labels, counts = upsample_argmax(scores, geometry)
            assert (counts > 0).sum() > 4, "a street shows more than that"
            # Several threads may add in another order than one: a pixel where two classes are equal may turn over.
            assert (labels != mask).mean() < 1e-3
    finally:
        source.close()
        engine.close()


KINDS = [
    "vfr", "vfr mp4", "late", "late ts", "h264", "10 bit", "422", "444", "422 10 bit", "odd", "odd 422", "left",
    "right 10 bit", "mirror", "interlaced", "anamorphic", "anamorphic left", "gray", "nv12", "full range", "single",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file(name: str, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip(name)
    masks, overlay, recorder = tmp_path / "masks.mkv", tmp_path / "overlay.mkv", Recorder()
    outputs = InputOptions(str(given.path), outputs=(str(overlay),), masks=(str(masks),))
    run([outputs], tiny, extra=[recorder], legend=False)
    expected = list(plainly(given.path))
    assert [result.pts for result in recorder.results] == list(given.pts)
    assert len(expected) == len(given.pts)
    for each, mask, result in zip(expected, masks_of(masks), recorder.results, strict=True):
        each.check(mask)
        np.testing.assert_array_equal(mask, result.labels)
        assert result.frame.format == FORMATS[given.layout]
        assert (result.frame.width, result.frame.height) == (given.width, given.height)
        assert result.frame.sample_aspect_ratio == given.aspect
    # Matroska counts milliseconds; the lines beside the masks are exact.
    tick = Fraction(1, 1000)
    for path in (overlay, masks):
        assert all(abs(ours - theirs) <= tick / 2 for ours, theirs in zip(times(path), given.pts, strict=True))
    _, lines = sidecar_of(masks)
    assert [Fraction(*line["pts"]) for line in lines] == list(given.pts)
    shown = probe(overlay, "stream=width,height,pix_fmt,sample_aspect_ratio")["streams"][0]
    assert shown["pix_fmt"].replace("yuvj", "yuv") == given.layout
    aspect = shown.get("sample_aspect_ratio", "1:1")
    assert Fraction(*map(int, aspect.split(":"))) == given.aspect


@pytest.mark.parametrize("name", ["size change", "size change mjpeg"])
def test_a_size_that_changes_in_mid_file(name: str, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip(name)
    overlay, masks, recorder = tmp_path / "overlay.mp4", tmp_path / "masks.mkv", Recorder()
    with nothing_left():
        outputs = InputOptions(str(given.path), outputs=(str(overlay),), masks=(str(masks),))
        report = run([outputs], tiny, extra=[recorder])
    assert report.inputs[0].written == len(given.numbers)
    assert [result.labels.shape[::-1] for result in recorder.results] == list(given.sizes)
    for expected, result in zip(plainly(given.path), recorder.results, strict=True):
        expected.check(result.labels)
    assert recorder.steps.count("open") == 1
    changes = sum(a != b for a, b in zip(given.sizes, given.sizes[1:], strict=False))
    assert recorder.steps.count("reconfigure") == changes
    assert len(times(overlay)) == len(given.numbers)
    segments = [masks, *(masks.with_stem(f"masks-{number}") for number in range(2, changes + 2))]
    read_back = [mask for path in segments for mask in masks_of(path)]
    for mask, result in zip(read_back, recorder.results, strict=True):
        np.testing.assert_array_equal(mask, result.labels)


def test_several_inputs_share_one_engine_and_keep_their_own(
    clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    def counted(*args: Any, **more: Any) -> Any:
        opened.append(open_engine(*args, **more))
        return opened[-1]

    monkeypatch.setattr("pipeline.runner.run.open_engine", counted)
    given = [clip(name) for name in ("h264", "vfr", "odd", "10 bit", "long")]
    inputs = [
        InputOptions(str(one.path), f"input-{n}", (str(tmp_path / f"{n}.mp4"),), (str(tmp_path / f"{n}.mkv"),))
        for n, one in enumerate(given)
    ]
    report = run(inputs, tiny, legend=False, alpha=0.2)
    assert len(opened) == 1
    assert [one.name for one in report.inputs] == [one.name for one in inputs]
    for n, one in enumerate(given):
        assert report.inputs[n].written == len(one.numbers)
        for expected, mask in zip(plainly(one.path), masks_of(tmp_path / f"{n}.mkv"), strict=True):
            expected.check(mask)
        with av.open(str(tmp_path / f"{n}.mp4")) as container:
            lumas = [picture.reformat(format="gray").to_ndarray() for picture in container.decode(video=0)]
        assert [read_number(luma[: one.height, : one.width]) for luma in lumas] == list(one.numbers)
    assert report.frames == sum(len(one.numbers) for one in given)


def test_masks_alone(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip("vfr")
    folder, lines = tmp_path / "masks", tmp_path / "masks.jsonl"
    report = run([InputOptions(str(given.path), masks=(f"{folder}/", str(lines)))], tiny)
    assert len(list(folder.iterdir())) == len(given.numbers) == report.frames
    assert len(lines.read_text().splitlines()) == len(given.numbers) + 1
    assert tree(tmp_path)[0] == "masks"


def test_nowhere(clip: MakeClip, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = run([InputOptions(str(clip("h264").path), outputs=("null",), masks=("null",))], tiny)
    assert [sink.written for sink in report.inputs[0].sinks] == [30, 30]
    assert tree(tmp_path) == []


def test_the_lines_beside_the_masks(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip("late")
    masks = tmp_path / "masks.mkv"
    run([InputOptions(str(given.path), masks=(str(masks),))], tiny)
    header, lines = sidecar_of(masks)
    assert header["model"] == "tiny"
    assert header["model_sha256"] == zoo.load_model(tiny).sha256
    assert [each["name"] for each in header["classes"]] == list(LABELS.names)
    assert Fraction(*header["time_base"]) == given.time_base
    assert header["source"] == str(given.path)
    assert [line["sequence"] for line in lines] == list(range(len(given.numbers)))
    assert all(line["wall"] for line in lines)
    for mask, line in zip(masks_of(masks), lines, strict=True):
        assert line["shares"] == pytest.approx(np.bincount(mask.ravel(), minlength=3) / mask.size, abs=1e-6)


@pytest.mark.parametrize("mode", ["overlay", "mask", "side-by-side"])
def test_ways_to_render(mode: Any, clip: MakeClip, tiny: str) -> None:
    given = clip("odd")
    recorder = Recorder()
    run([InputOptions(str(given.path))], tiny, extra=[recorder], render=mode, alpha=0.3)
    renderer = Renderer(LABELS, RenderOptions(mode=mode, alpha=0.3))
    for expected, result in zip(plainly(given.path), recorder.results, strict=True):
        expected.check(result.labels)
        counts = np.bincount(result.labels.ravel(), minlength=3)
        painted = renderer.render(expected.frame, result.labels, counts)
        for ours, theirs in zip(result.frame.planes, painted.planes, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert (recorder.infos[0].height, recorder.infos[0].width) == renderer.output_size(given.height, given.width)


@pytest.mark.parametrize("kind", ["guided", "crf"])
def test_refined_by_workers_as_by_one(kind: str, colourful: Path, tiny: str, tmp_path: Path) -> None:
    masks = tmp_path / "masks.mkv"
    with nothing_left():
        given = InputOptions(str(colourful), masks=(str(masks),))
        report = run([given], tiny, refine=kind, crf_workers=2, crf_iterations=2, max_frames=12)
    assert report.inputs[0].stages["refine"].frames == 12
    assert report.inputs[0].unrefined == 0
    crf = report.inputs[0].crf
    if kind == "crf":
        assert crf is not None
        assert (crf.iterations, crf.classes.max) == (Spread(2, 2.0, 2), 3)
        assert crf.milliseconds.p50 > 0
    else:
        assert crf is None
    _, lines = sidecar_of(masks)
    assert all(line["refined"] for line in lines)
    changed = 0
    for mask, expected, refined in zip(
        masks_of(masks), plainly(colourful, max_frames=12), refined_here(colourful, tiny, kind, 12), strict=True
    ):
        np.testing.assert_array_equal(mask, refined)
        changed += int((mask != expected.labels).sum())
    assert changed > 0, "refinement must change something, or this shows nothing"


def refined_here(path: Path, model: str, kind: str, frames: int) -> list[Array]:
    """Labels refined in this process, one frame after the other."""
    from pipeline.crf import CRFParameters

    engine = open_engine(zoo.load_model(model), "openvino", EngineOptions(precision="fp32"))
    source = open_source(str(path))
    refine = open_refiner(RefineSpec(kind, CRFParameters(iterations=2)))
    labels: list[Array] = []
    try:
        for item in source.read():
            if not isinstance(item, Decoded):
                continue
            frame = item.frame
            geometry = Geometry.fit(frame.height, frame.width, size=64, multiple=8)
            session = engine.session(geometry.input_height, geometry.input_width)
            layout = SlotLayout(frame.format, frame.colour, frame.height, frame.width, geometry, session.score_shape)
            with Ring(layout, 1) as ring:
                slot = ring[0]
                for ours, theirs in zip(slot.planes, frame.planes, strict=True):
                    np.copyto(ours, theirs)
                prepare(item.picture, geometry, slot.image, frame.colour)
                session.start(slot.image, slot.scores).wait(20)
                refine(slot, frame.index, None)
                labels.append(slot.labels.copy())
            if len(labels) == frames:
                break
    finally:
        source.close()
        engine.close()
    return labels


def test_another_engine_gives_the_same(clip: MakeClip, tiny: str) -> None:
    engine = "onnxruntime"
    if importlib.util.find_spec(engine) is None:
        absent(f"{engine} (an extra)")
    given, recorder = clip("odd"), Recorder()
    report = run([InputOptions(str(given.path))], tiny, engine=engine, extra=[recorder])
    assert report.engine.backend == engine
    for expected, result in zip(plainly(given.path), recorder.results, strict=True):
        expected.check(result.labels)


def test_pictures_out_and_in_again(clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    """A run's pictures are another one's input: numbered, in order, as many."""
    given, pictures = clip("h264"), tmp_path / "pictures"
    run([InputOptions(str(given.path), outputs=(f"{pictures}/",))], tiny, alpha=0.0, legend=False)
    assert len(list(pictures.iterdir())) == 30
    for uri in (str(pictures), f"{pictures}/frame_%06d.png"):
        recorder = Recorder()
        run([InputOptions(uri)], tiny, extra=[recorder], alpha=0.0, legend=False)
        assert [read_number(result.frame.planes[0]) for result in recorder.results] == list(given.numbers)
        for expected, result in zip(plainly(uri), recorder.results, strict=True):
            expected.check(result.labels)
            assert result.pts == expected.frame.pts


def test_memory_descriptors_and_threads_stay_flat(colourful: Path, tiny: str, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    samples: list[tuple[int, int, int]] = []

    def look(step: str, index: int) -> None:
        if step == "write" and index in (150, 590):
            pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
            descriptors = len(list(Path("/proc/self/fd").iterdir()))
            samples.append((pages * 4096, descriptors, len(list(Path("/proc/self/task").iterdir()))))

    class Watcher(Recorder):
        def write(self, result: Any) -> None:
            look("write", result.index)

    given = InputOptions(str(colourful), outputs=(str(tmp_path / "o.mkv"),), masks=(str(tmp_path / "m.mkv"),))
    run([given], tiny, extra=[Watcher()], loop=2)
    (early, late) = samples
    assert late[0] < early[0] * 1.1 + (8 << 20)
    assert late[1] <= early[1] + 2  # the second pass may be opening while the first closes
    assert late[2] <= early[2] + 1


def test_the_python_stream_is_the_same(clip: MakeClip, tiny: str) -> None:
    given = clip("vfr")
    for expected, result in zip(plainly(given.path), pipeline.stream(str(given.path), model=tiny), strict=True):
        expected.check(result.labels)
        assert result.pts == expected.frame.pts
