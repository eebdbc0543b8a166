"""From an ONNX file to a `Model`: our own by its metadata, anybody's by a YAML file beside it.

``net.onnx`` may have a ``net.yaml`` (or ``net.yml``) next to it; whatever it says wins over the
file's own metadata and over what is guessed from the graph:

    labels: [road, car, person]      # or voc, camvid, cityscapes, pascal-context, person-part, coco-stuff
    palette: [[128, 64, 128], …]     # or "#804080"; PASCAL VOC's colours if left out
    background: road                 # the class drawn transparent, by name or number
    mean: [123.675, 116.28, 103.53]  # subtracted from the picture, in the graph's channel order
    std: [58.395, 57.12, 57.375]     # divided into it
    range: 255                       # 1 if mean and std are given for pictures of 0 to 1
    layout: nchw                     # or nhwc
    channels: rgb                    # or bgr
    size: 512                        # preferred short side of the input, in pixels
    output_stride: 32                # input sides are multiples of this
    align_corners: false
    output: logits                   # name of the output to read, where there are several
    name: my network
    licence: CC-BY-4.0
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import Model, ModelError
from engines.facts import MAX_CLASSES, MAX_STRIDE, PREFIX, SIZES, Checker, ModelFacts
from engines.labels import CAMVID, CITYSCAPES, COCO_STUFF, PASCAL_CONTEXT, PERSON_PART, VOC, LabelSet, voc_palette
from engines.onnx_metadata import OnnxHeader, Value, read_header
from engines.yaml_text import parse_yaml

LABEL_SETS = {
    "camvid": CAMVID,
    "voc": VOC,
    "cityscapes": CITYSCAPES,
    "pascal-context": PASCAL_CONTEXT,
    "person-part": PERSON_PART,
    "coco-stuff": COCO_STUFF,
}
"""Label sets that a YAML file may name."""

KEYS = (
    "labels", "palette", "background", "mean", "std", "range", "layout", "channels", "size",
    "output_stride", "align_corners", "output", "name", "licence",
)  # fmt: skip
"""Keys of the YAML file."""

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
"""Of ImageNet's pictures in 0–255 RGB: what nearly every published network was trained with."""

DEFAULT_SIZE = 512
DEFAULT_STRIDE = 32
"""Of a network that says nothing: every common encoder halves at most five times."""

PICTURE_TYPES = ("uint8", "float16", "float32")
SCORE_TYPES = ("float16", "float32")

ACTIVATIONS = ("Softmax", "Sigmoid")
"""Operators that make probabilities of logits."""

UNCHANGED = ("Identity", "Cast", "Transpose", "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear")
"""Operators behind which probabilities still are some."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Picture:
    """The graph's input and what must be done to a picture before it."""

    layout: str
    channels: str
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    fixed_size: tuple[int, int] | None
    batches: bool


def read_model(path: Path) -> Model:
    """The model of an ONNX file.

    Args:
        path: the file; ``path`` with the ending .yaml or .yml is read too where it exists.

    Raises:
        ModelError: the file or its YAML is missing, damaged, or no segmentation network.
    """
    header = read_header(path)
    notes = _read_yaml(path)
    if len(header.inputs) != 1:
        raise ModelError(f"{path} takes {len(header.inputs)} inputs: a segmentation network takes one picture")
    own = PREFIX + "labels" in header.properties
    facts = ModelFacts.from_properties(header.properties, str(path)) if own else None
    source = header.inputs[0]
    picture = _picture(path, source, notes, trusted=own)
    output = _output(path, header, notes)
    labels = _labels(path, output, notes, facts)
    return Model(
        name=notes.text("name") if "name" in notes.values else (facts.name if facts else path.stem),
        path=path,
        labels=labels,
        size=_size(notes, facts, picture.fixed_size),
        output_stride=_output_stride(notes, facts),
        align_corners=notes.flag("align_corners")
        if "align_corners" in notes.values
        else bool(facts and facts.align_corners),
        licence=notes.text("licence") if "licence" in notes.values else (facts.licence if facts else "unknown"),
        sha256=file_sha256(path),
        mean=picture.mean,
        std=picture.std,
        layout=picture.layout,
        input_dtype=source.dtype,
        channels=picture.channels,
        input_name=source.name,
        output_name=output.name,
        fixed_size=picture.fixed_size,
        quantised="DequantizeLinear" in header.operators,
        half=bool(facts and facts.half),
        batches=picture.batches and output.shape is not None and output.shape[0] == -1,
        probabilities=_ends_in_probabilities(path, header, output),
    )


def demand_same_file(model: Model) -> None:
    """See that a model's file is still the one that it was read from.

    Raises:
        ModelError: it is not, or cannot be read.
    """
    if file_sha256(model.path) != model.sha256:
        raise ModelError(f"{model.path} is another file than its model was read from: read it anew")


def file_sha256(path: Path) -> str:
    """Hash of a file, hexadecimal.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error


def notes_beside(path: Path) -> Path | None:
    """The YAML file beside an ONNX file that is read with it, if there is one."""
    return next((p for ending in (".yaml", ".yml") if (p := path.with_suffix(ending)).is_file()), None)


def _read_yaml(path: Path) -> Checker:
    """The YAML file beside a model, empty where there is none."""
    beside = notes_beside(path)
    if beside is None:
        return Checker({}, f"{path.with_suffix('.yaml')}: ")
    try:
        values: Any = parse_yaml(beside.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot read {beside}: {error.strerror or error}") from error
    except ValueError as error:
        raise ModelError(f"{beside} {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ModelError(f"{beside} must hold 'key: value' lines")
    for key in values:
        if key not in KEYS:
            raise ModelError(f"{beside}: unknown key {key!r}; known are {', '.join(KEYS)}")
        if values[key] is None:
            raise ModelError(f"{beside}: {key} is empty: give a value or remove the line")
    return Checker(values, f"{beside}: ")


def _whole(notes: Checker, key: str, lowest: int, highest: int, default: int) -> int:
    return notes.whole(key, lowest, highest) if key in notes.values else default


def _output_stride(notes: Checker, facts: ModelFacts | None) -> int:
    own = facts.output_stride if facts else 1
    stride = _whole(notes, "output_stride", 1, MAX_STRIDE, facts.output_stride if facts else DEFAULT_STRIDE)
    if stride % own:
        raise notes.fail("output_stride", f"a multiple of {own}, which the network itself says")
    return stride


def _size(notes: Checker, facts: ModelFacts | None, fixed: tuple[int, int] | None) -> int:
    if fixed:
        return min(fixed)
    return _whole(notes, "size", *SIZES, facts.size if facts else DEFAULT_SIZE)


def _picture(path: Path, source: Value, notes: Checker, *, trusted: bool) -> _Picture:
    """How the graph wants its picture; guessed with a warning where neither file tells."""
    if source.dtype not in PICTURE_TYPES or source.shape is None or len(source.shape) != 4:
        raise ModelError(
            f"{path}: input {source.name!r} is {source.dtype} {_spelled(source.shape)}: "
            f"a picture is N×3×H×W or N×H×W×3 of {', '.join(PICTURE_TYPES)}"
        )
    guessed: list[str] = []
    if "layout" in notes.values:
        layout = notes.choice("layout", "nhwc", "nchw")
    else:
        layout = "nhwc" if source.shape[3] == 3 and source.shape[1] != 3 else "nchw"
        if 3 not in (source.shape[1], source.shape[3]):
            guessed.append(f"layout: {layout}")
    batch, depth, height, width = source.shape if layout == "nchw" else (source.shape[i] for i in (0, 3, 1, 2))
    if depth not in (3, -1) or batch not in (1, -1):
        raise ModelError(
            f"{path}: input {source.name!r} is {_spelled(source.shape)}, read as layout {layout}: "
            "it must take one picture of three channels at a time"
        )
    if (height == -1) != (width == -1):
        raise ModelError(
            f"{path}: input {source.name!r} is {_spelled(source.shape)}, read as layout {layout}: "
            "only one of height and width is fixed"
        )
    mean, std = _normalisation(notes, source, guessed, trusted=trusted)
    if guessed:
        _log.warning(
            "%s says nothing of its input; guessed: %s. Put what is right into %s",
            path.name, "; ".join(guessed), path.with_suffix(".yaml"),
        )  # fmt: skip
    channels = notes.choice("channels", "rgb", "bgr") if "channels" in notes.values else "rgb"
    return _Picture(layout, channels, mean, std, (height, width) if height > 0 else None, batch == -1)


def _normalisation(
    notes: Checker, source: Value, guessed: list[str], *, trusted: bool
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """Mean and deviation in 0–255, or (None, None) where the graph normalises by itself."""
    if "mean" not in notes.values and "std" not in notes.values:
        if "range" in notes.values:
            raise notes.fail("range", "given with mean, std or both: it says for which pictures they are")
        if source.dtype == "uint8" or trusted:
            return None, None
        guessed.append("mean and std of ImageNet")
        return IMAGENET_MEAN, IMAGENET_STD
    if source.dtype == "uint8":
        raise ModelError(f"{notes.where}mean and std are given, but the graph takes bytes and must normalise itself")
    mean = notes.triple("mean") if "mean" in notes.values else (0.0, 0.0, 0.0)
    std = notes.triple("std") if "std" in notes.values else (1.0, 1.0, 1.0)
    if min(std) <= 0:
        raise notes.fail("std", "three numbers above 0")
    if "range" in notes.values:
        unit = notes.whole("range", 1, 255)
        if unit not in (1, 255):
            raise notes.fail("range", "1 or 255")
    elif max(map(abs, (*mean, *std))) <= 1:
        raise notes.fail("range", "given, 1 or 255, since mean and std look like those of pictures of 0 to 1")
    else:
        unit = 255
    factor = 255 / unit
    return (mean[0] * factor, mean[1] * factor, mean[2] * factor), (std[0] * factor, std[1] * factor, std[2] * factor)


def _output(path: Path, header: OnnxHeader, notes: Checker) -> Value:
    """The output that holds scores."""
    candidates = header.outputs
    if "output" in notes.values:
        name = notes.text("output")
        candidates = tuple(value for value in header.outputs if value.name == name)
        if not candidates:
            raise notes.fail("output", "one of " + ", ".join(value.name for value in header.outputs))
    for value in candidates:
        if value.dtype in SCORE_TYPES and (value.shape is None or len(value.shape) == 4):
            return value
    value = candidates[0]
    what = f"{path}: output {value.name!r} is {value.dtype} {_spelled(value.shape)}"
    if value.dtype.startswith(("int", "uint")) or value.dtype == "bool":
        raise ModelError(f"{what}: these are labels already; export the network without its ArgMax, scores out")
    raise ModelError(f"{what}: a segmentation network gives scores, N×classes×h×w of float32 or float16")


def _ends_in_probabilities(path: Path, header: OnnxHeader, output: Value) -> bool:
    """Whether an activation makes the output, with nothing but a change of place, size or type behind it."""
    name, met = output.name, set[str]()
    while name in header.made_by and name not in met:
        met.add(name)
        operator, name = header.made_by[name]
        if operator in ACTIVATIONS:
            _log.warning(
                "%s ends in %s: export it without, since --refine takes what comes out for logits", path.name, operator
            )
            return True
        if operator not in UNCHANGED:
            break
    return False


def _labels(path: Path, output: Value, notes: Checker, facts: ModelFacts | None) -> LabelSet:
    """Names and colours of the score channels."""
    channels = output.shape[1] if output.shape else -1
    known = facts.labels if facts else None
    if "labels" in notes.values:
        named = notes.values["labels"]
        if isinstance(named, str):
            known = LABEL_SETS[notes.choice("labels", *LABEL_SETS)]
        else:
            names = notes.names("labels")
            known = LabelSet(names, voc_palette(len(names)))
    elif known is None:
        if channels == -1:
            raise ModelError(f"{path} tells neither its classes nor their number: {_write_labels(path)}")
        _log.warning("%s names none of its %d classes: %s", path.name, channels, _write_labels(path))
        known = LabelSet(tuple(f"class {i}" for i in range(channels)), voc_palette(channels))
    if not 2 <= len(known) <= MAX_CLASSES:
        raise ModelError(f"{path}: {len(known)} score channels: labels need 2 to {MAX_CLASSES}, one a class")
    if channels not in (-1, len(known)):
        told = f"{notes.where}labels" if "labels" in notes.values else f"{path}: metadata {PREFIX}labels"
        raise ModelError(f"{told} has {len(known)} names, but {path.name} scores {channels} classes")
    palette = notes.palette("palette", len(known)) if "palette" in notes.values else known.palette
    background = notes.background("background", known.names) if "background" in notes.values else known.background
    return LabelSet(known.names, palette, background)


def _write_labels(path: Path) -> str:
    """The way out for a network without labels."""
    beside = notes_beside(path)
    where = f"a new file {path.with_suffix('.yaml')}" if beside is None else str(beside)
    return f"name all of them in {where}, as labels: [road, car, …]"


def _spelled(shape: tuple[int, ...] | None) -> str:
    return (
        "of unknown rank"
        if shape is None
        else "×".join("?" if side == -1 else str(side) for side in shape) or "a scalar"
    )
