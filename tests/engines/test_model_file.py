"""What an ONNX file and the YAML beside it say, and what is said of those that are wrong."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.base import Model, ModelError
from engines.labels import CAMVID, VOC, voc_palette
from engines.model_file import IMAGENET_MEAN, IMAGENET_STD, KEYS, read_model
from engines.onnx_metadata import Value, read_header
from tests.engines.support import LABELS, write_graph

pytestmark = pytest.mark.timeout(30)


def write_ends(
    path: Path, inputs: list[tuple[int, list[int | str] | None]], outputs: dict[str, tuple[int, int]]
) -> Path:
    """A graph of which only the ends matter: inputs by type and shape, outputs by type and rank."""
    constant = numpy_helper.from_array(np.zeros(1, np.float32), "constant")
    values = [helper.make_tensor_value_info(f"in{i}", kind, shape) for i, (kind, shape) in enumerate(inputs)]
    ends = [
        helper.make_tensor_value_info(name, kind, [1, 4, "h", "w"][:rank] if rank else None)
        for name, (kind, rank) in outputs.items()
    ]
    nodes = [helper.make_node("Identity", ["in0"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "net", values, ends, [constant])
    onnx.save(helper.make_model(graph), path)
    return path


# --- the header -----------------------------------------------------------------------------------


def test_the_header_agrees_with_the_onnx_package(models: dict[str, Model]) -> None:
    for model in models.values():
        header, whole = read_header(model.path), onnx.load(model.path)
        assert dict(header.properties) == {entry.key: entry.value for entry in whole.metadata_props}
        assert header.operators == {node.op_type for node in whole.graph.node}
        for mine, theirs in ((header.inputs, whole.graph.input), (header.outputs, whole.graph.output)):
            for value, info in zip(mine, theirs, strict=True):
                tensor = info.type.tensor_type
                assert value.name == info.name
                assert value.dtype == helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
                sides = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
                assert value.shape == sides


@pytest.mark.parametrize(
    ("operators", "told"),
    [
        (["Softmax"], True),
        (["Sigmoid", "Resize", "Cast"], True),
        (["Softmax", "Conv"], False),
        (["LogSoftmax"], False),
        (["Relu"], False),
    ],
)
def test_a_network_that_ends_in_probabilities_is_known(
    operators: list[str], told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_graph(tmp_path / "net.onnx")
    whole = onnx.load(path)
    whole.graph.node[-1].output[0] = "t"
    for number, operator in enumerate(operators, 1):
        last = number == len(operators)
        node = helper.make_node(operator, ["t" * number], ["logits" if last else "t" * (number + 1)])
        whole.graph.node.append(node)
    onnx.save(whole, path)
    assert read_model(path).probabilities == told
    assert (f"net.onnx ends in {operators[0]}: export it without" in caplog.text) == told


def test_initialisers_among_the_inputs_are_no_inputs(tmp_path: Path) -> None:
    """As files before ONNX IR 4 list them."""
    path = write_graph(tmp_path / "net.onnx")
    whole = onnx.load(path)
    whole.graph.input.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, [4, 3, 3, 3]))
    onnx.save(whole, path)
    assert read_header(path).inputs == (Value("picture", "float32", (1, 3, -1, -1)),)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello, world",
        b"\n\n",
        "Grüße".encode() * 39 + b"\xc3",
        b"\x00" * 64,
        b"\xff" * 64,
        b"\x3a\xff\xff\xff\x7f",
    ],
)
def test_other_files_are_refused_in_a_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"net\.onnx is ") as caught:
        read_model(tmp_path / "net.onnx")
    assert "\n" not in str(caught.value)


def test_cut_and_changed_files_are_refused_or_read(models: dict[str, Model], tmp_path: Path) -> None:
    whole = write_graph(tmp_path / "net.onnx").read_bytes()
    path = tmp_path / "changed.onnx"
    for length in range(1, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError):
            read_model(path)
    rng = np.random.default_rng(0)
    for _ in range(600):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read_model(path)
        except ModelError as error:
            assert "\n" not in str(error)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no model file"):
        read_model(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").mkdir()
    with pytest.raises(ModelError, match=r"cannot read the model .*: Is a directory"):
        read_model(tmp_path / "net.onnx")


# --- guesses --------------------------------------------------------------------------------------


def test_without_a_word_it_is_guessed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_graph(tmp_path / "net.onnx")
    model = read_model(path)
    assert model.name == "net"
    assert model.labels.names == ("class 0", "class 1", "class 2", "class 3")
    assert model.labels.palette == voc_palette(4)
    assert (model.layout, model.input_dtype, model.channels) == ("nchw", "float32", "rgb")
    assert (model.mean, model.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (model.size, model.output_stride, model.align_corners) == (512, 32, False)
    assert (model.input_name, model.output_name) == ("picture", "logits")
    assert model.licence == "unknown"
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert "net.yaml" in record.getMessage()
    assert "mean and std of ImageNet" in caplog.text


def test_bytes_are_not_normalised(tmp_path: Path) -> None:
    model = read_model(write_graph(tmp_path / "net.onnx", layout="nhwc", dtype="uint8"))
    assert (model.layout, model.input_dtype, model.mean, model.std) == ("nhwc", "uint8", None, None)


def test_of_several_outputs_the_scores_are_taken(tmp_path: Path) -> None:
    picture = [(TensorProto.FLOAT, [1, 3, "h", "w"])]
    ends = {"labels": (TensorProto.INT64, 3), "scores": (TensorProto.FLOAT, 4), "aux": (TensorProto.FLOAT, 4)}
    path = write_ends(tmp_path / "net.onnx", picture, ends)  # type: ignore[arg-type]
    assert read_model(path).output_name == "scores"
    (tmp_path / "net.yml").write_text("output: aux\n")
    assert read_model(path).output_name == "aux"
    (tmp_path / "net.yml").write_text("output: out\n")
    with pytest.raises(ModelError, match=r"net\.yml: output is 'out': it must be one of labels, scores, aux"):
        read_model(path)


FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
PICTURE = (FLOAT, [1, 3, "h", "w"])
SCORES = {"out": (FLOAT, 4)}


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([PICTURE], {"out": (INT64, 3)}, "'out' is int64 1×4×\\?: these are labels already; export .* without its"),
        ([PICTURE], {"out": (UINT8, 4)}, "these are labels already"),
        ([PICTURE], {"out": (FLOAT, 2)}, "'out' is float32 1×4: a segmentation network gives scores"),
        ([PICTURE, PICTURE], SCORES, "takes 2 inputs: a segmentation network takes one picture"),
        ([(INT64, [1, 3, "h", "w"])], SCORES, "'in0' is int64 1×3×\\?×\\?: a picture is N×3×H×W or N×H×W×3"),
        ([(FLOAT, [1, 3, "h"])], SCORES, "'in0' is float32 1×3×\\?: a picture is"),
        ([(FLOAT, None)], SCORES, "of unknown rank: a picture is"),
        ([(FLOAT, [1, 1, "h", "w"])], SCORES, "must take one picture of three channels"),
        ([(FLOAT, [4, 3, "h", "w"])], SCORES, "must take one picture of three channels"),
        ([(FLOAT, [1, 3, 512, "w"])], SCORES, "only one of height and width is fixed"),
    ],
)  # fmt: skip
def test_graphs_that_are_no_segmentation(
    inputs: list[tuple[int, list[int | str] | None]],
    outputs: dict[str, tuple[int, int]],
    words: str,
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        read_model(write_ends(tmp_path / "net.onnx", inputs, outputs))
    assert "net.onnx" in str(caught.value)


# --- the YAML -------------------------------------------------------------------------------------


def test_the_yaml_says_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_graph(tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("""
labels: [road, car, person, sky]
palette: ["#804080", [0, 0, 142], [220, 20, 60], "#4682B4"]
background: sky
mean: [0.5, 0.5, 0.5]
std: [0.25, 0.25, 0.5]
range: 1
layout: nchw
channels: bgr
size: 256
output_stride: 8
align_corners: true
output: logits
name: mine
licence: CC0
""")
    model = read_model(path)
    assert model.labels.names == LABELS.names
    assert model.labels.palette == ((128, 64, 128), (0, 0, 142), (220, 20, 60), (70, 130, 180))
    assert model.labels.background == 3
    assert (model.mean, model.std) == ((127.5, 127.5, 127.5), (63.75, 63.75, 127.5))
    assert (model.channels, model.size, model.output_stride, model.align_corners) == ("bgr", 256, 8, True)
    assert (model.name, model.licence) == ("mine", "CC0")
    assert not caplog.records


def test_the_yaml_wins_over_metadata(models: dict[str, Model], tmp_path: Path) -> None:
    shutil.copy(models["voc"].path, tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("size: 513\nname: bigger\nbackground: person\n")
    model = read_model(tmp_path / "net.onnx")
    assert (model.size, model.name, model.labels.background) == (513, "bigger", 15)
    assert (model.labels.names, model.align_corners, model.licence) == (VOC.names, True, "Apache-2.0")


def test_a_known_label_set(models: dict[str, Model], tmp_path: Path) -> None:
    shutil.copy(models["street"].path, tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("labels: camvid\n")
    assert read_model(tmp_path / "net.onnx").labels == CAMVID
    (tmp_path / "net.yaml").write_text("labels: voc\n")
    with pytest.raises(ModelError, match=r"net\.yaml: labels has 21 names, but net\.onnx scores 11 classes"):
        read_model(tmp_path / "net.onnx")


WRONG = [
    ("lables: [a, b]\n", "unknown key 'lables'; known are labels, palette"),
    (
        "labels: kitti\n",
        "labels is 'kitti': it must be camvid or voc or cityscapes or pascal-context or person-part",
    ),
    ("labels: [road, car]\n", r"net\.yaml: labels has 2 names, but net\.onnx scores 4 classes"),
    ("labels: [road, road, car, sky]\n", "labels is .*: it must be a list of 2 to 255 different class names"),
    ("labels: [1, 2, 3, 4]\n", "it must be a list of 2 to 255 different class names"),
    ("palette: [[0, 0, 0]]\n", "palette is .*: it must be a list of 4 colours"),
    ("palette: [red, '#00ff00', '#0000ff', '#ffffff']\n", "a list of 4 colours, each"),
    ("background: sea\n", "background is 'sea': it must be a class name or a number from 0 to 3"),
    ("mean: 0.5\n", "mean is 0.5: it must be three numbers"),
    ("mean: [0.485, 0.456, 0.406]\nstd: [0.2, 0.2, 0.2]\n", "range is missing: it must be given, 1 or 255"),
    ("mean: [1, 2, 3]\nstd: [1, 0, 1]\n", "std is .*: it must be three numbers above 0"),
    ("mean: [1, 2, 3]\nrange: 2\n", "range is 2: it must be 1 or 255"),
    ("range: 255\n", "range is 255: it must be given with mean, std or both"),
    ("layout: hwc\n", "layout is 'hwc': it must be nhwc or nchw"),
    ("layout: nhwc\n", r"is 1×3×\?×\?, read as layout nhwc: only one of height and width is fixed"),
    ("channels: gbr\n", "channels is 'gbr': it must be rgb or bgr"),
    ("size: 5\n", "size is 5: it must be a whole number from 16 to 8192"),
    ("size: true\n", "size is True: it must be a whole number"),
    ("output_stride: 1.5\n", "output_stride is 1.5: it must be a whole number"),
    ("align_corners: 1\n", "align_corners is 1: it must be true or false"),
    ("output: [1, 2]\n", "output is \\[1, 2\\]: it must be a text"),
    ("licence: 5\n", "licence is 5: it must be a text"),
    ("name: 5\n", "name is 5: it must be a text"),
    ('name: "a\\nb"\n', "name is .*: it must be a text of one line"),
    ('labels: [a, b, c, "d\\e[31m"]\n', "a list of 2 to 255 different class names"),
    ("size: 512\nchannels: rgb\nsize: 100\n", "is not YAML, line 3: 'size' is given twice"),
    ("size:\n", "size is empty: give a value or remove the line"),
    ("- a\n- b\n", "must hold 'key: value' lines"),
    ("labels: [a, b\nmean: 3\n", "net.yaml is not YAML, line 2"),
    ("mean: !!python/object/apply:os.getcwd []\n", "not YAML"),
]


@pytest.mark.parametrize(("yaml", "words"), WRONG)
def test_a_wrong_yaml_names_file_and_key(yaml: str, words: str, tmp_path: Path) -> None:
    path = write_graph(tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text(yaml)
    with pytest.raises(ModelError, match=words) as caught:
        read_model(path)
    assert "net." in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_yaml_cannot_divide_the_output_stride(models: dict[str, Model], tmp_path: Path) -> None:
    shutil.copy(models["street"].path, tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("output_stride: 7\n")
    with pytest.raises(ModelError, match=r"output_stride is 7: it must be a multiple of 16, which the network itself"):
        read_model(tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("output_stride: 32\n")
    assert read_model(tmp_path / "net.onnx").output_stride == 32
    (tmp_path / "net.yaml").write_text("output_stride: 14\n")
    assert read_model(write_graph(tmp_path / "net.onnx")).output_stride == 14, "of patches of 14 pixels"


def test_every_key_has_been_seen_wrong() -> None:
    assert set(KEYS) <= {word for yaml, _ in WRONG for word in re.findall(r"^(\w+):", yaml, re.MULTILINE)}


def test_mean_for_a_graph_of_bytes_is_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "net.onnx", dtype="uint8")
    (tmp_path / "net.yaml").write_text("mean: [1, 2, 3]\n")
    with pytest.raises(ModelError, match=r"net\.yaml: mean and std are given, but the graph takes bytes"):
        read_model(path)
