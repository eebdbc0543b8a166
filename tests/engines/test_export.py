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
from engines import export_command  # noqa: E402
from engines.base import EngineError, EngineOptions  # noqa: E402
from engines.facts import NETWORK_FACT, TRAINING_FACT, ModelFacts  # noqa: E402
from engines.labels import CAMVID  # noqa: E402
from engines.model_file import read_model  # noqa: E402
from engines.networks import Conventions, assemble  # noqa: E402
from engines.networks.normalise import ByteNetwork  # noqa: E402
from engines.networks.trained import FORMAT, KEY, TrainedNetwork  # noqa: E402
from engines.onnx_metadata import read_header  # noqa: E402
from tests.engines.networks_like import export_network  # noqa: E402
from tests.engines.small_network import Exported  # noqa: E402
from tests.engines.support import ON_CPU, open_engine_for, picture, score  # noqa: E402


@pytest.fixture
def trained(exported: Exported) -> TrainedNetwork:
    return exported.trained


@pytest.fixture
def file(exported: Exported) -> Path:
    return exported.file


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 96), (3, 80, 48), (1, 77, 90)])
def test_onnxruntime_and_openvino_agree_with_torch(exported: Exported, batch: int, height: int, width: int) -> None:
    file = exported.file
    image = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), np.uint8)
    with torch.inference_mode():
        expected = ByteNetwork(exported.network())(torch.from_numpy(image)).numpy()
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
    assert facts == ModelFacts("street", CAMVID, 448, 16, align_corners=False, licence="research use", half=True)
    assert json.loads(properties["deeplab_stream.score_stride"]) == 4
    assert json.loads(properties["deeplab_stream.training"]) == {"epochs": 3, "splits": ["train"]}
    assert properties["deeplab_stream.align_corners"] == "false"
    assert set(properties) >= {f"deeplab_stream.{key}" for key in ("name", "labels", "palette", "licence", "size")}
    model = read_model(file)
    assert (model.layout, model.input_dtype, model.mean, model.half) == ("nhwc", "uint8", None, True)


def test_the_graph_is_plain(file: Path) -> None:
    """Batch norm is folded, nothing is kept outside the file, and no path of the maker's machine in it."""
    proto = onnx.load(file, load_external_data=False)
    operators = {node.op_type for node in proto.graph.node}
    assert not operators & {"BatchNormalization", "Softmax", "ArgMax"}
    assert proto.opset_import[0].version == exporting.OPSET
    assert all(not tensor.external_data for tensor in proto.graph.initializer)
    assert str(Path(__file__).parents[2]).encode() not in file.read_bytes()


@pytest.mark.slow
def test_weights_in_half_precision_take_half_the_bytes(exported: Exported, tmp_path: Path) -> None:
    full = tmp_path / "full.onnx"
    exporting.export(exported.trained, full, name="street")
    convolutions = [each for each in exported.network().modules() if isinstance(each, torch.nn.Conv2d)]
    saved = 2 * sum(each.weight.numel() for each in convolutions)
    assert full.stat().st_size - exported.file.stat().st_size == pytest.approx(saved, rel=0.1)


@pytest.mark.slow
def test_the_mean_of_a_checkpoint_and_exports_is_the_mean_of_their_weights(exported: Exported, tmp_path: Path) -> None:
    weights = {n: 1.03 * v if v.is_floating_point() else v for n, v in exported.trained.weights.items()}
    other = dataclasses.replace(exported.trained, weights=weights)
    exporting.export(other, tmp_path / "other.onnx", name="other")
    torch.save({"format": FORMAT, KEY: exported.trained.to_tree()}, tmp_path / "last.pt")
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    files = [str(tmp_path / name) for name in ("last.pt", "last.pt", "other.onnx", "mean.onnx")]
    flags = ["--checkpoint", files[0], "--average", files[1], files[2], "--output", files[3]]
    assert export_command.run(parser.parse_args(flags)) == 0
    folded = [exporting.fold_batch_norm(each.restore()) for each in (exported.trained, other)]
    image = torch.from_numpy(picture((64, 96))[None])
    with torch.no_grad():
        for mean, value in zip(folded[0].parameters(), folded[1].parameters(), strict=True):
            mean.lerp_(value, 1 / 3)
        expected = ByteNetwork(folded[0])(image).numpy()
    session = onnxruntime.InferenceSession(files[3], providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": image.numpy()})
    np.testing.assert_allclose(scores, expected, atol=exporting.TOLERANCE)
    facts = {entry.key: entry.value for entry in onnx.load(files[3]).metadata_props}
    assert json.loads(facts["deeplab_stream.training"])["averaged"] == 3


@pytest.mark.slow
def test_an_export_goes_to_another_output_stride_with_the_same_weights(exported: Exported, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    finer = tmp_path / "finer.onnx"
    words = ["--model", str(exported.file), "--output-stride", "8", "--output", str(finer)]
    assert export_command.run(parser.parse_args(words)) == 0
    finely = dataclasses.replace(exported, trained=dataclasses.replace(exported.trained, output_stride=8))
    image = picture((64, 96))[None]
    with torch.inference_mode():
        expected, coarser = (
            ByteNetwork(each.network())(torch.from_numpy(image)).numpy() for each in (finely, exported)
        )
    session = onnxruntime.InferenceSession(finer, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"image": image})
    np.testing.assert_allclose(scores, expected, atol=exporting.TOLERANCE)
    assert np.abs(scores - coarser).max() > 0.01
    model, before = read_model(finer), read_model(exported.file)
    assert (model.output_stride, model.labels, model.licence) == (8, before.labels, before.licence)
    assert json.loads(read_header(finer).properties[TRAINING_FACT]) == exported.trained.facts


def test_a_file_of_another_program_is_not_exported_again(file: Path, tmp_path: Path) -> None:
    """Its weights may be named as ours are; what network they are of it does not tell."""
    proto = onnx.load(file)
    told = [entry for entry in proto.metadata_props if entry.key != NETWORK_FACT]
    del proto.metadata_props[:]
    proto.metadata_props.extend(told)
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(EngineError, match=r"foreign\.onnx was not exported by this program"):
        exporting.read_export(read_model(tmp_path / "foreign.onnx"))


def test_networks_of_other_shapes_have_no_mean(exported: Exported, tmp_path: Path) -> None:
    wider = assemble(dataclasses.replace(exported.trained.spec, aspp_channels=24), len(CAMVID))
    with pytest.raises(EngineError, match="network 2 of those to average is another one"):
        exporting.export(exported.trained, tmp_path / "mean.onnx", name="mean", others=[wider])
    assert list(tmp_path.iterdir()) == []


CHANGED: dict[str, tuple[str, dict[str, object]]] = {
    "several scales": ("deeplabv3plus-mobilenetv2", {"scales": (1.0, 0.5)}),
    "several scales, corners": ("deeplabv2-resnet101-aspp", {"scales": (1.0, 0.5)}),
    "corners in the decoder": ("deeplabv3plus-mobilenetv2", {"conventions": Conventions(align_corners=True)}),
    "blocks padded": (
        "deeplabv3plus-mobilenetv2",
        {"conventions": Conventions(block_padding=True, stem_padding=False), "low_inner": False},
    ),
    "auxiliary head": ("deeplabv3-resnet50", {"auxiliary": True}),
    "plain separable": ("deeplabv3plus-resnet50", {"separable": True, "separable_norm": False, "context_layers": 1}),
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("changed", CHANGED)
def test_changed_networks_are_exported(changed: str, tmp_path: Path) -> None:
    """Several scales, corners, paddings: each compared with torch by the export, and on every backend here."""
    name, changes = CHANGED[changed]
    model = export_network(name, tmp_path, narrow=True, **changes)
    assert model.align_corners == ("corners" in changed)
    image = picture((97, 129))
    scores = []
    for backend in ON_CPU:
        with open_engine_for(model, backend, EngineOptions(precision="fp32", threads=1)) as engine:
            scores.append(score(engine.session(97, 129), image))
    assert np.abs(scores[0]).max() > 1
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=0, atol=1e-4 * np.abs(scores[0]).max())


def test_a_wrong_file_is_refused_and_the_old_one_kept(
    file: Path, trained: TrainedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "street.onnx"
    target.write_bytes(b"old")
    other = dataclasses.replace(trained, weights=trained.weights | {"head.bias": trained.weights["head.bias"] + 1})
    monkeypatch.setattr(exporting, "_write", lambda _model, path, *_: path.write_bytes(file.read_bytes()))
    with pytest.raises(EngineError, match=r"differ from torch's by 1"):
        exporting.export(other, target, name="street")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_bad_places_are_named(trained: TrainedNetwork, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    missing = ["--checkpoint", str(tmp_path / "none.pt"), "--output", str(tmp_path / "x.onnx")]
    with pytest.raises(EngineError, match=r"none\.pt: no such checkpoint"):
        export_command.run(parser.parse_args(missing))
    with pytest.raises(EngineError, match="cannot be written"):
        exporting.export(trained, tmp_path / "nowhere" / "x.onnx", name="x")


BROKEN = {
    "empty": b"",
    "text": b"no checkpoint\n",
    "rubbish": b"a.",  # a pickle that takes from an empty stack
    "archive": b"PK\x03\x04",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_files_that_are_no_checkpoints_are_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    complain(tmp_path, r"last\.pt: not a (readable )?checkpoint")


def test_a_damaged_checkpoint_is_one_line(exported: Exported, tmp_path: Path) -> None:
    whole = bytearray((exported.file.parent / "last.pt").read_bytes())
    where = whole.index(b"data.pkl") + 100
    whole[where : where + 200] = bytes(range(50, 250))
    for content in (whole, whole[: len(whole) // 2]):
        (tmp_path / "last.pt").write_bytes(content)
        complain(tmp_path, r"last\.pt: not a readable checkpoint")


FOREIGN = {
    "another network": {"weights": {"layer.weight": torch.zeros(3)}},
    "no weights": {"weights": 3},
    "other classes": {"labels": {"names": ["a", "b"], "palette": [[0, 0, 0], [1, 1, 1]], "background": None}},
    "colours missing": {"labels": {"names": ["a", "b"], "palette": [], "background": None}},
    "encoder": {"spec": {"encoder": "vgg99", "decoder": True, "rates": [6]}},
    "shape": {"spec": {"depth": 3, "rates": [6]}},
    "stride": {"output_stride": 7},
    "size": {"size": "large"},
    "facts": {"facts": ["none"]},
}


@pytest.mark.parametrize("changes", FOREIGN.values(), ids=FOREIGN)
def test_checkpoints_of_other_programs_are_one_line(
    trained: TrainedNetwork, changes: dict[str, object], tmp_path: Path
) -> None:
    torch.save({"format": FORMAT, KEY: trained.to_tree() | changes}, tmp_path / "last.pt")
    complain(tmp_path, r"last\.pt: its network does not fit this version: .")


def test_a_checkpoint_without_a_network_is_one_line(tmp_path: Path) -> None:
    torch.save({"format": FORMAT}, tmp_path / "last.pt")
    complain(tmp_path, r"last\.pt: its network does not fit")
    torch.save({"state_dict": {}}, tmp_path / "last.pt")
    complain(tmp_path, r"last\.pt: not a checkpoint of this program")


def complain(folder: Path, message: str) -> None:
    """Exporting a folder's checkpoint ends with one line, and writes nothing."""
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    places = ["--checkpoint", str(folder / "last.pt"), "--output", str(folder / "x.onnx")]
    with pytest.raises(EngineError, match=message) as caught:
        export_command.run(parser.parse_args(places))
    assert "\n" not in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["last.pt"]
