"""The Python in the documents on networks and weights runs as it stands."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")
pytest.importorskip("google.protobuf", reason="the writer of Caffe models needs protobuf")

from engines.catalogue import ZOO  # noqa: E402
from engines.networks import NETWORKS, Segmenter  # noqa: E402
from engines.zoo import load_model  # noqa: E402
from tests.engines.peers import published  # noqa: E402
from tests.engines.peers.caffe import write_caffemodel  # noqa: E402
from tests.engines.peers.parts import Weights  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def programs(document: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def test_programs_in_documents_can_be_compiled() -> None:
    found = [(document, program) for document in DOCUMENTS for program in programs(document)]
    assert len(found) >= 5
    for document, program in found:
        compile(program, str(document), "exec")


def test_published_figures_of_named_models_stand_in_the_tables() -> None:
    zoo, evaluation = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("zoo.md", "evaluation.md"))
    published = [entry for entry in ZOO.values() if entry.download is not None and entry.accuracy]
    assert len(published) == 8
    for entry in published:
        figures = set(re.findall(r"\d\d\.\d+", entry.accuracy))
        (row,) = (line for line in zoo.splitlines() if line.startswith(f"| `{entry.name}` |"))
        assert figures
        for lines in ([row], evaluation.splitlines()):
            assert any(figures <= set(re.findall(r"\d\d\.\d+", line)) for line in lines), entry.name


def run(document: str) -> dict[str, object]:
    """What the names of a document's one program hold after it has run."""
    (program,) = programs(ROOT / "docs" / document)
    names: dict[str, object] = {}
    exec(compile(program, document, "exec"), names)
    return names


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network of an eighth of the width."""
    name, weights = "deeplabv3-resnet50", Weights()
    monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], width=0.125))
    with torch.inference_mode():
        published.torchvision_resnet(weights, torch.zeros(1, 3, 64, 64), layers=published.RESNET50)
    monkeypatch.chdir(tmp_path)
    torch.save(weights.state, "model.pth")
    network = run("weights.md")["network"]
    assert isinstance(network, Segmenter)
    assert torch.equal(network.state_dict()["encoder.stem.conv.weight"], weights.state["backbone.conv1.weight"])


@pytest.mark.slow
def test_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a network of an eighth of the width."""
    pytest.importorskip("onnxscript", reason="exports need onnxscript (the extra `train`)")
    name, weights = "deeplabv2-vgg16-largefov", Weights()
    monkeypatch.setitem(NETWORKS, name, replace(NETWORKS[name], width=0.125, aspp_channels=48))
    with torch.inference_mode():
        published.caffe_vgg(weights, torch.zeros(1, 3, 65, 65), rates=(12,))
    monkeypatch.chdir(tmp_path)
    write_caffemodel(Path("train_iter_20000.caffemodel"), weights.state, {}, old=True)
    run("evaluation.md")
    model = load_model("largefov.onnx")
    assert (model.name, len(model.labels), model.size, model.align_corners) == ("largefov", 21, 513, True)
