"""The exported file: says what torch says, tells what it is, and is small."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exporting needs torch (the extra `train`)")
for peer in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(peer, reason=f"exporting needs {peer} (the extra `train`)")

import onnx  # noqa: E402
import onnxruntime  # noqa: E402

from engines import export as exporting  # noqa: E402
from engines.base import EngineError  # noqa: E402
from engines.facts import ModelFacts  # noqa: E402
from engines.labels import CAMVID  # noqa: E402
from engines.model_file import read_model  # noqa: E402
from engines.networks import NetworkSpec, assemble  # noqa: E402
from engines.networks.normalise import ByteNetwork  # noqa: E402
from engines.networks.trained import FORMAT, KEY, TrainedNetwork  # noqa: E402

SPEC = NetworkSpec("mobilenetv2", decoder=True, width=0.25, aspp_channels=16, decoder_channels=16)


@pytest.fixture(scope="module")
def trained() -> TrainedNetwork:
    """A network with statistics and shifts of its own, so that folding has something to fold."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = assemble(SPEC, len(CAMVID))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, std=0.1)
    network.train()(torch.randn(4, 3, 64, 64))
    return TrainedNetwork(SPEC, 16, CAMVID, 448, network.state_dict(), {"epochs": 3, "splits": ["train"]})


@pytest.fixture(scope="module")
def file(trained: TrainedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as `python -m engines export` writes it."""
    folder = tmp_path_factory.mktemp("export")
    torch.save({"format": FORMAT, KEY: trained.to_tree()}, folder / "last.pt")
    parser = argparse.ArgumentParser()
    exporting.add_arguments(parser)
    given = [
        "--checkpoint",
        str(folder / "last.pt"),
        "--output",
        str(folder / "street.onnx"),
        "--licence",
        "research use",
    ]
    assert exporting.run(parser.parse_args(given)) == 0
    assert {path.name for path in folder.iterdir()} == {"last.pt", "street.onnx"}
    return folder / "street.onnx"


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (3, 80, 48), (1, 77, 90)])
def test_onnxruntime_and_openvino_agree_with_torch(
    file: Path, trained: TrainedNetwork, batch: int, height: int, width: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    with torch.inference_mode():
        expected = ByteNetwork(trained.restore())(torch.from_numpy(image)).numpy()
    assert expected.std() > 1e-3
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": image})
    np.testing.assert_allclose(scores, expected, atol=exporting.TOLERANCE)

    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    compiled = openvino.Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled([image])["scores"], expected, atol=exporting.TOLERANCE)


def test_the_file_tells_what_it_is(file: Path) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    facts = ModelFacts.from_properties(properties, "file")
    assert facts == ModelFacts("street", CAMVID, 448, 16, align_corners=False, licence="research use")
    assert json.loads(properties["deeplab_stream.score_stride"]) == 4
    assert json.loads(properties["deeplab_stream.training"]) == {"epochs": 3, "splits": ["train"]}
    assert properties["deeplab_stream.align_corners"] == "false"
    assert set(properties) >= {f"deeplab_stream.{key}" for key in ("name", "labels", "palette", "licence", "size")}
    model = read_model(file)
    assert (model.layout, model.input_dtype, model.mean) == ("nhwc", "uint8", None)


def test_the_graph_is_plain(file: Path) -> None:
    """Batch norm is folded, nothing is kept outside the file, and no path of the maker's machine in it."""
    proto = onnx.load(file, load_external_data=False)
    operators = {node.op_type for node in proto.graph.node}
    assert not operators & {"BatchNormalization", "Softmax", "ArgMax"}
    assert proto.opset_import[0].version == exporting.OPSET
    assert all(not tensor.external_data for tensor in proto.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in file.read_bytes()


def test_a_wrong_file_is_refused_and_the_old_one_kept(
    file: Path, trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "street.onnx"
    target.write_bytes(b"old")
    other = dataclasses.replace(trained, weights=trained.weights | {"head.bias": trained.weights["head.bias"] + 1})
    monkeypatch.setattr(exporting, "_write", lambda _model, path, _properties: path.write_bytes(file.read_bytes()))
    with pytest.raises(EngineError, match=r"differ from torch's by 1"):
        exporting.export(other, target, name="street")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_bad_places_are_named(trained: TrainedNetwork, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    exporting.add_arguments(parser)
    missing = ["--checkpoint", str(tmp_path / "none.pt"), "--output", str(tmp_path / "x.onnx")]
    with pytest.raises(EngineError, match=r"none\.pt: no such checkpoint"):
        exporting.run(parser.parse_args(missing))
    with pytest.raises(EngineError, match="cannot be written"):
        exporting.export(trained, tmp_path / "nowhere" / "x.onnx", name="x")
