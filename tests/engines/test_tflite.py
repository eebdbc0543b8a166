"""TFLite files into ONNX: the weights, the function, and what the network sees on photographs."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from engines.backends import open_engine
from engines.base import EngineOptions, Model, ModelError
from engines.bench import input_size
from engines.convert import convert
from engines.facts import ModelFacts
from engines.labels import CAMVID, VOC
from engines.model_file import read_model
from tests.engines.peers.tensorflow import reference
from tests.engines.support import open_engine_for, picture, score

pytestmark = pytest.mark.timeout(60)

FACTS = ModelFacts("voc", VOC, 385, 16, True, "Apache-2.0")
FILES = {
    "quantised": ("deeplabv3_mnv2_pascal_quant.tflite", "deeplabv3_mnv2_dm10_voc_dequant_os16", 16),
    "float": ("deeplabv3_257_mv_gpu.tflite", "deeplabv3_mnv2_dm05_voc_float_os8", 8),
}


@pytest.fixture(scope="session")
def converted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("converted")

    def get(kind: str) -> Path:
        path = folder / f"{kind}.onnx"
        if not path.exists():
            path.write_bytes(convert((data / "weights" / FILES[kind][0]).read_bytes(), FACTS))
        return path

    return get


@pytest.mark.parametrize("kind", FILES)
def test_the_file_is_valid_and_says_what_it_is(kind: str, converted: Callable[[str], Path]) -> None:
    onnx.checker.check_model(str(converted(kind)), full_check=True)
    model = read_model(converted(kind))
    assert (model.name, model.labels, model.size, model.output_stride) == ("voc", VOC, 385, 16)
    assert (model.align_corners, model.licence, model.mean, model.fixed_size) == (True, "Apache-2.0", None, None)
    assert (model.layout, model.input_dtype, model.input_name, model.output_name) == (
        "nhwc",
        "uint8",
        "image",
        "scores",
    )


@pytest.mark.parametrize("kind", FILES)
def test_weights_equal_the_published_tables(kind: str, converted: Callable[[str], Path], data: Path) -> None:
    graph = onnx.load(converted(kind)).graph
    constants = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    mine = [[constants[name] for name in node.input[1:]] for node in graph.node if node.op_type == "Conv"]
    # The projection of the concatenation is two convolutions here: pooled picture first, then the rest.
    first, second = mine[-3], mine[-2]
    mine[-3:-1] = [[np.concatenate([first[0], second[0]], 1), first[1]]]
    tables = np.load(data / "weights" / f"{FILES[kind][1]}.npz")
    with (data / "weights" / f"{FILES[kind][1]}.tsv").open() as file:
        names = [row[0] for row in csv.reader(file, delimiter="\t")]
    assert len(names) == len(mine)
    for name, (weights, bias) in zip(names, mine, strict=True):
        np.testing.assert_allclose(weights, tables[f"{name}.weight"], rtol=1e-6, atol=1e-7, err_msg=name)
        np.testing.assert_allclose(bias, tables[f"{name}.bias"], rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("size", [(97, 97), (65, 161)])
@pytest.mark.parametrize("kind", FILES)
def test_the_function_is_deeplab(
    kind: str, size: tuple[int, int], converted: Callable[[str], Path], data: Path
) -> None:
    tables = dict(np.load(data / "weights" / f"{FILES[kind][1]}.npz"))
    image = picture(size)
    middle, scale = (128, 1 / 128) if kind == "quantised" else (127.5, 1 / 127.5)
    truth = reference(tables, image, FILES[kind][2], middle, scale)
    with open_engine_for(read_model(converted(kind)), "openvino") as engine:
        scores = score(engine.session(*size), image)
    assert scores.shape == (21, (size[0] - 1) // FILES[kind][2] + 1, (size[1] - 1) // FILES[kind][2] + 1)
    np.testing.assert_allclose(scores, truth, rtol=0, atol=1e-4 * np.abs(truth).max())


def shares(model: Model, path: Path, short_side: int) -> dict[str, float]:
    """Which part of a photograph each class covers, at the scores' own resolution."""
    with Image.open(path) as photo:
        height, width = input_size(model, (photo.height, photo.width), short_side)
        image = np.array(photo.convert("RGB").resize((width, height), Image.Resampling.BILINEAR))
    engine = open_engine(model, "openvino", EngineOptions(threads=1))
    labels = score(engine.session(height, width), image).argmax(0)
    engine.close()
    counts = np.bincount(labels.ravel(), minlength=len(model.labels)) / labels.size
    return {name: float(count) for name, count in zip(model.labels.names, counts, strict=True) if count > 0.01}


@dataclass(frozen=True)
class Photo:
    file: str
    shows: str
    least: float
    most: float


PHOTOS = [
    Photo("cat.bmp", "cat", 0.35, 0.55),
    Photo("bird_segmentation.bmp", "bird", 0.14, 0.26),
    Photo("grace_hopper.bmp", "person", 0.5, 0.8),
]


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.shows)
@pytest.mark.parametrize(("kind", "side"), [("quantised", 385), ("quantised", 513), ("float", 257)])
def test_the_cat_is_a_cat(kind: str, side: int, photo: Photo, converted: Callable[[str], Path], data: Path) -> None:
    seen = shares(read_model(converted(kind)), data / "photos" / photo.file, side)
    assert photo.least < seen.pop(photo.shows) < photo.most
    assert seen.pop("background") > 0.2
    assert sum(seen.values()) < 0.03, f"and what else? {seen}"


# --- what is refused ------------------------------------------------------------------------------


def test_other_files_are_refused(data: Path) -> None:
    weights = data / "weights"
    with pytest.raises(ModelError, match="no TFL3 file"):
        convert((weights / "LICENSE").read_bytes(), FACTS)
    with pytest.raises(ModelError, match="no TFL3 file"):
        convert(b"", FACTS)
    with pytest.raises(ModelError, match="which no DeepLab has"):
        convert((weights / "tf2_mobilenet_v2_1.0_224_ptq.tflite").read_bytes(), FACTS)
    with pytest.raises(ModelError, match="scores 21 classes, not 11"):
        convert((weights / FILES["float"][0]).read_bytes(), ModelFacts("street", CAMVID, 360, 16, False, ""))


def test_damaged_files_are_refused_in_a_line(data: Path) -> None:
    """Cut anywhere or with bytes changed: refused with a message, or (a changed weight) converted."""
    whole = (data / "weights" / FILES["float"][0]).read_bytes()
    rng = np.random.default_rng(0)
    cuts = [whole[: int(length)] for length in rng.integers(8, len(whole), 25)]
    # The structure lies at the end and at the beginning, the weights between.
    places = np.concatenate([rng.integers(8, 400, 20), rng.integers(len(whole) - 40_000, len(whole), 100)])
    flips = []
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        flips.append(bytes(changed))
    refused = 0
    for damaged in cuts + flips:
        try:
            convert(damaged, FACTS)
        except ModelError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 25
