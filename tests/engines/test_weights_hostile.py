"""Files of weights that are damaged, forged or of other kinds: one line each, and no network is touched."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")

import onnx  # noqa: E402
from onnx import TensorProto, helper  # noqa: E402
from torch import Tensor  # noqa: E402

from engines.base import ModelError  # noqa: E402
from engines.labels import CAMVID, LabelSet  # noqa: E402
from engines.networks import NetworkSpec, Segmenter, assemble  # noqa: E402
from engines.networks.trained import FORMAT, KEY, TrainedNetwork, read_trained  # noqa: E402
from engines.weights import load_weights, open_weights  # noqa: E402

SPEC = NetworkSpec("mobilenetv2", decoder=False, width=0.25, aspp_channels=16)
STEM = "encoder.stem.conv.weight"
CLASSES = LabelSet(CAMVID.names[:3], CAMVID.palette[:3])

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network() -> Segmenter:
    torch.manual_seed(0)
    return assemble(SPEC, 3)


def refused(path: Path) -> str:
    """What is said of a file that cannot be used, in a line."""
    with pytest.raises(ModelError) as caught:
        open_weights(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert path.name in str(caught.value)
    return str(caught.value)


# --- torch ----------------------------------------------------------------------------------------


@pytest.mark.timeout(10)
def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    tree: dict[str, object] = {}
    tree["state_dict"] = tree
    torch.save(tree, tmp_path / "loop.pth")
    assert "no weights in it" in refused(tmp_path / "loop.pth")


UNUSABLE: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "sparse": (lambda weight: weight.to_sparse(), "sparse_coo"),
    "meta": (lambda weight: torch.empty_like(weight, device="meta"), "on the device meta"),
    "int8": (lambda weight: weight.to(torch.int8), "int8"),
    "complex": (lambda weight: weight.to(torch.complex64), "complex64"),
    "nan": (lambda weight: torch.full_like(weight, torch.nan), "not all of it finite"),
    "infinite": (lambda weight: weight.clone().fill_(torch.inf), "not all of it finite"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_tensors_that_are_no_plain_finite_floats_are_named_and_nothing_is_changed(
    kind: str, network: Segmenter, tmp_path: Path
) -> None:
    spoil, said = UNUSABLE[kind]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    last = [name for name in before if name.endswith("weight")][-1]
    other = {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in before.items()}
    torch.save(other | {last: spoil(other[last]), STEM: spoil(other[STEM])}, tmp_path / "odd.pth")
    with pytest.raises(ModelError, match="2 unusable: ") as caught:
        load_weights(network, tmp_path / "odd.pth")
    assert f"{STEM} ({said})" in str(caught.value)
    assert f"{last} ({said})" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["sparse", "meta", "int8"])
def test_so_are_those_of_a_checkpoint(kind: str, network: Segmenter, tmp_path: Path) -> None:
    spoil, said = UNUSABLE[kind]
    weights = network.state_dict()
    trained = TrainedNetwork(SPEC, 16, CLASSES, 64, {**weights, STEM: spoil(weights[STEM])})
    torch.save({"format": FORMAT, KEY: trained.to_tree()}, tmp_path / "odd.pt")
    with pytest.raises(ModelError, match=f"does not fit this version: {STEM} is .*{said}"):
        read_trained(tmp_path / "odd.pt")


def test_names_that_would_move_the_cursor_are_spelled_out(network: Segmenter, tmp_path: Path) -> None:
    torch.save({**network.state_dict(), "evil\nname\x1b[31m": torch.zeros(1)}, tmp_path / "names.pth")
    with pytest.raises(ModelError, match=r"1 too much: evil\\nname\\x1b\[31m$"):
        load_weights(network, tmp_path / "names.pth")
    torch.save({"evil\nname\x1b[31m": torch.zeros(1)}, tmp_path / "alone.pth")
    assert r"evil\nname\x1b[31m" in refused(tmp_path / "alone.pth")


FORGED: dict[str, tuple[dict[str, object], str]] = {
    "wide": ({"width": 4000.0}, "shape"),
    "of many layers": ({"context_layers": 10**9}, "more than 64 layers"),
    "narrow": ({"width": -1.0}, "does not fit this version"),
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", FORGED)
def test_what_a_checkpoint_asks_for_takes_no_memory_before_it_is_in_it(
    kind: str, network: Segmenter, tmp_path: Path
) -> None:
    changes, said = FORGED[kind]
    tree = TrainedNetwork(SPEC, 16, CLASSES, 64, network.state_dict()).to_tree()
    path = tmp_path / "forged.pt"
    torch.save({"format": FORMAT, KEY: tree}, path)
    assert read_trained(path).spec == SPEC
    tree["spec"] = asdict(SPEC) | changes
    torch.save({"format": FORMAT, KEY: tree}, path)
    assert said in refused(path)
    with pytest.raises(ModelError, match="does not fit this version"):
        read_trained(path)


# --- numpy ----------------------------------------------------------------------------------------


def npz(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def npy(shape: tuple[int, ...], data: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array(["x"]), "holds <U1"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "holds datetime64"),
        (np.zeros(2, [("x", "f4")]), "holds \\[\\('x'"),
        (np.array([1j]), "holds complex128"),
        (np.array([1], np.longdouble), "not a readable file"),
    ],
)
def test_arrays_that_are_no_numbers_are_told(array: npt.NDArray[np.generic], said: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", a=array)
    with pytest.raises(ModelError, match=said):
        open_weights(tmp_path / "odd.npz")


def test_archives_that_are_forged_or_damaged_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.npz"
    assert "magic" in refused(npz(path, **{"a.txt": b"hello, no array"}))
    assert "a is not as long as its shape" in refused(npz(path, **{"a.npy": npy((10**14,))}))
    assert "a is not as long as its shape" in refused(npz(path, **{"a.npy": npy((2**40, 2**40))}))
    assert "version" in refused(npz(path, **{"a.npy": b"\x93NUMPY\x03\x00" + npy((1,))[8:]}))
    whole = npz(path, **{"a.npy": npy((5000,), np.random.default_rng(0).bytes(20_000))}).read_bytes()
    path.write_bytes(whole[:500] + bytes(20) + whole[520:])
    refused(path)
    monkeypatch.setattr("engines.weights.files.MAX_UNPACKED", 1 << 20)
    bomb = npz(path, **{f"{number}.npy": npy((1 << 17,), bytes(1 << 19)) for number in range(3)})
    assert bomb.stat().st_size < 5000
    assert "unpacks into" in refused(bomb)


def test_arrays_of_other_orders_are_read(tmp_path: Path) -> None:
    values = np.arange(24, dtype=">f4").reshape(4, 3, 2, 1)
    stored = {"expanded_conv/depthwise.weight": np.asfortranarray(values), "Conv.weight": values.astype("<f8")}
    np.savez(tmp_path / "orders.npz", **stored)
    tensors = open_weights(tmp_path / "orders.npz").tensors
    for name in stored:
        np.testing.assert_array_equal(tensors[name].numpy(), values)


# --- ONNX -----------------------------------------------------------------------------------------


def write_onnx(path: Path, data_type: int, *, raw: bytes = b"", sides: int = 1, location: str = "") -> Path:
    stored = TensorProto(name=f"network.{STEM}", data_type=data_type, dims=[sides])
    if location:
        stored.data_location = TensorProto.EXTERNAL
        stored.external_data.add(key="location", value=location)
    elif data_type == TensorProto.STRING:
        stored.string_data.append(b"x")
    else:
        stored.raw_data = raw
    path.write_bytes(helper.make_model(helper.make_graph([], "g", [], [], [stored])).SerializeToString())
    return path


def test_initialisers_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    path, stem = tmp_path / "odd.onnx", "network.encoder.stem.conv.weight"
    assert stem in refused(write_onnx(path, TensorProto.STRING))
    assert stem in refused(write_onnx(path, 99, raw=bytes(2)))
    assert stem in refused(write_onnx(path, TensorProto.FLOAT, raw=bytes(4), sides=9))
    for place in ("missing.bin", "../outside.bin", "/etc/hostname"):
        (tmp_path.parent / "outside.bin").write_bytes(bytes(64))
        assert "the file beside it that holds its weights" in refused(
            write_onnx(path, TensorProto.FLOAT, location=place)
        )


def test_bfloat16_and_weights_in_a_file_beside_are_read(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0, 0.25])
    raw = values.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    path = write_onnx(tmp_path / "half.onnx", TensorProto.BFLOAT16, raw=raw, sides=3)
    assert torch.equal(open_weights(path).tensors[f"network.{STEM}"], values)
    (tmp_path / "beside.bin").write_bytes(values.numpy().tobytes())
    path = write_onnx(tmp_path / "large.onnx", TensorProto.FLOAT, sides=3, location="beside.bin")
    assert torch.equal(open_weights(path).tensors[f"network.{STEM}"], values)
    assert onnx.load(path).graph.initializer[0].name == f"network.{STEM}"


# --- Caffe ----------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    digits = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def block(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


CAFFE = {
    "a shape of nothing times much": block(7, block(7, block(1, varint(0) + varint(2**63 - 1)))),
    "a side of more than 64 bits": block(7, block(7, block(1, varint(0) + varint(2**69)))),
    "a shape of millions of sides": block(7, block(7, block(1, b"\1" * 2_000_000))),
    "a padding of 64 bits": block(7, block(5, bytes(4))) + block(106, varint(3 << 3) + varint(2**64 - 1)),
}


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", CAFFE)
def test_forged_caffe_models_are_told(kind: str, tmp_path: Path) -> None:
    layer = block(1, b"conv1_1") + block(2, b"Convolution") + CAFFE[kind]
    (tmp_path / "forged.caffemodel").write_bytes(block(100, layer))
    assert "not a readable file of weights" in refused(tmp_path / "forged.caffemodel")
