"""Models by name: what they know, where they come from, on what terms.

A named model is looked for in the directory ``DEEPLAB_STREAM_WEIGHTS`` (for sites without a network),
then in this package, then in the user's cache, and fetched into that if it is nowhere.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from engines.base import EngineError, Model, ModelError
from engines.convert import convert
from engines.facts import ModelFacts
from engines.fetch import FetchError, Patience, fetch
from engines.labels import CAMVID, VOC, LabelSet
from engines.model_file import file_sha256, read_model

WEIGHTS_VARIABLE = "DEEPLAB_STREAM_WEIGHTS"
"""Environment variable: a directory that holds published weight files or converted models."""

AUTO_PATIENCE = Patience(silence_s=3.0, begin_s=4.0, finish_s=10.0)
"""How long ``auto`` tries to fetch the better model before it takes the embedded one.

After 4 s the speed seen so far must bring the rest within 10 s of the start; else what has arrived is kept, and
the next run goes on there.
"""

CONVERTER = 1
"""Part of a converted file's name: raise it whenever the same source converts to another file."""

_BUNDLED = Path(__file__).parent / "models"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Download:
    """A published file of weights.

    Attributes:
        url: where it is.
        file: what it is called here.
        sha256: its hash, None where nobody knows (then the first download's is recorded).
        size: its length, in bytes.
    """

    url: str
    file: str
    sha256: str | None
    size: int


@dataclass(frozen=True, slots=True)
class ZooEntry:
    """A named model.

    Attributes:
        name: what people type.
        about: the network and its data, in a line.
        labels: its classes.
        size: preferred short side of the input, in pixels.
        output_stride: input sides are multiples of this (plus one with ``align_corners``).
        align_corners: see `engines.base.Model`.
        licence: terms of the weights.
        accuracy: published or measured mean intersection over union, with its source; empty if unknown.
        download: what to fetch, None for a model in this package.
        int8: name of the same network quantised, which precision int8 takes in its place; empty if there is none.
    """

    name: str
    about: str
    labels: LabelSet
    size: int
    output_stride: int
    align_corners: bool
    licence: str
    accuracy: str
    download: Download | None = None
    int8: str = ""


STREET = ZooEntry(
    name="street",
    about="DeepLabV3+ on MobileNetV2, trained on CamVid: streets seen from a car",
    labels=CAMVID,
    size=384,
    output_stride=16,
    align_corners=False,
    licence="research use (CamVid)",
    accuracy="its recipe: 48, 55 and 57 mIoU on three drives, each kept from training (models/street.md)",
    int8="street-int8",
)

STREET_INT8 = replace(
    STREET,
    name="street-int8",
    about="street quantised to int8: for processors that multiply bytes faster (AVX-512 VNNI, AMX, ARM dot product)",
    accuracy="57.7 mIoU where float has 57.1 on a drive kept from training (models/street.md)",
    int8="",
)

VOC_MOBILENET = ZooEntry(
    name="voc",
    about="DeepLabV3 on MobileNetV2, trained on COCO and PASCAL VOC 2012: people, animals, vehicles, furniture",
    labels=VOC,
    # Trained at 513.  On 640×360 video 385 costs half the time and draws the same people (IoU 0.94 with
    # 513); below 321 furniture begins to appear where a cat sits.
    size=385,
    output_stride=16,
    align_corners=True,
    licence="Apache-2.0",
    accuracy="74.3 VOC 2012 val, the 8-bit network at 513 (tensorflow/models, deeplab/g3doc/quantize.md)",
    download=Download(
        url="https://github.com/google-coral/test_data/raw/master/deeplabv3_mnv2_pascal_quant.tflite",
        file="deeplabv3_mnv2_pascal_quant.tflite",
        # The publisher gives none: computed from a copy of the file.
        sha256="350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
        size=2_193_224,
    ),
)

ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in (STREET, STREET_INT8, VOC_MOBILENET)}
"""The named models."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A named model and where it is now.

    Attributes:
        entry: the model.
        place: ``"embedded"``, ``"in DIRECTORY"``, ``"cached"`` or ``"not fetched"``.
        size: bytes on disk, or to be fetched.
    """

    entry: ZooEntry
    place: str
    size: int


def model_cache() -> Path:
    """Directory of fetched and converted models, the user's own."""
    return Path(platformdirs.user_cache_path("deeplab-stream")) / "models"


def compiled_cache() -> Path:
    """Directory of compiled models (`engines.base.EngineOptions.cache`), the user's own."""
    return Path(platformdirs.user_cache_path("deeplab-stream")) / "compiled"


def load_model(
    name_or_path: str = "auto", precision: str = "auto", *, weights_dir: Path | None = None, progress: bool = True
) -> Model:
    """A model by name, or anybody's by its ONNX file.

    Args:
        name_or_path: a key of `ZOO`; a path that ends in ``.onnx`` (see `engines.model_file` for the YAML
            beside it); or ``"auto"``: ``voc`` where it is here or comes within a few seconds
            (`AUTO_PATIENCE`), else the embedded ``street`` with one warning.
        precision: as it shall run (`engines.base.EngineOptions`): of a named model that has one, ``"int8"`` takes
            the quantised one.
        weights_dir: where to look first; the directory in ``DEEPLAB_STREAM_WEIGHTS`` where None.
        progress: show a progress bar while fetching.

    Raises:
        ModelError: no such model, or its file is unusable.
        FetchError: it cannot be downloaded.
    """
    if name_or_path == "auto":
        return _automatic(_weights(weights_dir), progress=progress)
    if name_or_path in ZOO:
        entry = ZOO[name_or_path]
        if precision == "int8" and entry.int8:
            entry = ZOO[entry.int8]
        return _load(entry, _weights(weights_dir), None, progress=progress)
    path = Path(name_or_path).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ModelError(
            f"there is no model {name_or_path!r}: choose from auto, {', '.join(ZOO)}, or give an .onnx file"
        )
    return read_model(path)


def list_models(*, weights_dir: Path | None = None) -> tuple[Listing, ...]:
    """The named models and where each is now; nothing is fetched.

    Raises:
        ModelError: the weights directory does not exist.
    """
    folder = _weights(weights_dir)
    return tuple(_listing(entry, folder) for entry in ZOO.values())


def fetch_model(name: str, *, weights_dir: Path | None = None, progress: bool = True) -> Model:
    """See that a named model is here, ready to run.

    Raises:
        ModelError: no such model, or its file is unusable.
        FetchError: it cannot be downloaded.
    """
    if name not in ZOO:
        raise ModelError(f"there is no model {name!r}: choose from {', '.join(ZOO)}")
    return _load(ZOO[name], _weights(weights_dir), None, progress=progress)


def _weights(given: Path | None) -> Path | None:
    """The directory to look into first, None if there is none."""
    if given is None and os.environ.get(WEIGHTS_VARIABLE):
        given = Path(os.environ[WEIGHTS_VARIABLE]).expanduser()
    if given is not None and not given.is_dir():
        raise ModelError(f"the weights directory {given} does not exist (--weights-dir or {WEIGHTS_VARIABLE})")
    return given


def _automatic(folder: Path | None, *, progress: bool) -> Model:
    entry = VOC_MOBILENET
    try:
        return _load(entry, folder, AUTO_PATIENCE, progress=progress)
    except EngineError as error:
        _log.warning(
            "the model %s is not here and cannot be fetched: using the embedded %s, which knows streets only (%s)",
            entry.name, STREET.name, str(error).partition("; give it")[0],
        )  # fmt: skip
        return _load(STREET, folder, None, progress=progress)


def _listing(entry: ZooEntry, folder: Path | None) -> Listing:
    for place, path in _places(entry, folder):
        if path.is_file():
            return Listing(entry, place, path.stat().st_size)
    return Listing(entry, "not fetched", entry.download.size if entry.download else 0)


def _places(entry: ZooEntry, folder: Path | None) -> list[tuple[str, Path]]:
    """Where an entry may lie, best first, and how that is called."""
    places = []
    if folder is not None:
        places.append((f"in {folder}", folder / f"{entry.name}.onnx"))
        if entry.download:
            places.append((f"in {folder}", folder / entry.download.file))
    if entry.download is None:
        places.append(("embedded", _BUNDLED / f"{entry.name}.onnx"))
    else:
        places.append(("cached", _converted(entry)))
        places.append(("cached", model_cache() / entry.download.file))
    return places


def _converted(entry: ZooEntry) -> Path:
    return model_cache() / f"{entry.name}-{CONVERTER}.onnx"


def _load(entry: ZooEntry, folder: Path | None, patience: Patience | None, *, progress: bool) -> Model:
    if folder is not None:
        if (converted := folder / f"{entry.name}.onnx").is_file():
            return read_model(converted)
        if entry.download and (source := folder / entry.download.file).is_file():
            return _from_source(entry, source)
    if entry.download is None:
        return read_model(_BUNDLED / f"{entry.name}.onnx")
    cached = _from_cache(entry)
    if cached is not None:
        return cached
    source = model_cache() / entry.download.file
    try:
        fetch(
            entry.download.url,
            source,
            sha256=entry.download.sha256,
            size=entry.download.size,
            patience=patience,
            progress=progress,
        )
    except FetchError as error:
        raise FetchError(
            f"{error}; give it another way: put {entry.download.file} or {entry.name}.onnx into a directory "
            f"and name that in {WEIGHTS_VARIABLE}"
        ) from error
    return _from_source(entry, source)


def _from_cache(entry: ZooEntry) -> Model | None:
    """The converted model; a damaged one is removed, since it can be made again."""
    path = _converted(entry)
    if not path.is_file():
        return None
    try:
        return read_model(path)
    except ModelError as error:
        _log.warning("the cached model is unusable and is made again: %s", error)
        path.unlink(missing_ok=True)
        return None


def _from_source(entry: ZooEntry, source: Path) -> Model:
    """Convert a published file, once."""
    assert entry.download
    cached = _from_cache(entry)
    if cached is not None:
        return cached
    actual = file_sha256(source)
    if entry.download.sha256 not in (None, actual):
        raise ModelError(f"{source} is not the published file: its SHA-256 is {actual}, not {entry.download.sha256}")
    facts = ModelFacts(entry.name, entry.labels, entry.size, entry.output_stride, entry.align_corners, entry.licence)
    try:
        data = convert(source.read_bytes(), facts)
    except ModelError as error:
        raise ModelError(f"cannot convert {source}: {error}") from error
    _write(_converted(entry), data)
    return read_model(_converted(entry))


def _write(target: Path, data: bytes) -> None:
    """Write a whole file or none."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=target.name, delete=False) as file:
            part = Path(file.name)
            try:
                file.write(data)
                file.flush()
                part.chmod(0o644)
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ModelError(
            f"cannot write {target}: {error.strerror or error}; make room, or name another cache directory "
            "in XDG_CACHE_HOME"
        ) from error
