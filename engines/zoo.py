"""Models by name: where they are, and how they get here.

A named model is looked for in the directory ``DEEPLAB_STREAM_WEIGHTS`` (for sites without a network),
then in this package, then in the user's cache, and fetched into that if it is nowhere. Of those that torch has
to make, the published file is fetched; ``python -m engines export NAME`` makes the model of it, once.
"""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import platformdirs

from engines.base import EngineError, Model, ModelError
from engines.catalogue import STREET, VOC_MOBILENET, ZOO, Download, ZooEntry
from engines.convert import convert
from engines.facts import ModelFacts
from engines.fetch import FetchError, Patience, fetch, shown
from engines.model_file import file_sha256, read_model
from engines.plausible import implausible

WEIGHTS_VARIABLE = "DEEPLAB_STREAM_WEIGHTS"
"""Environment variable: a directory that holds published weight files or converted models."""

AUTO_PATIENCE = Patience(silence_s=3.0, begin_s=4.0, finish_s=10.0)
"""How long ``auto`` tries to fetch the better model before it takes the embedded one.

After 4 s the speed seen so far must bring the rest within 10 s of the start; else what has arrived is kept, and
the next run goes on there.
"""

CONVERTER = 2
"""Part of a converted or exported file's name: raise it whenever the same source makes another file."""

_BUNDLED = Path(__file__).parent / "models"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listing:
    """A named model and where it is now.

    Attributes:
        entry: the model.
        place: ``"embedded"``, ``"in DIRECTORY"``, ``"cached"``, ``"not fetched"``; with ``", not exported"`` behind it
            where the published file alone is there and torch has to make the model.
        size: bytes on disk, or to be fetched.
        ready: it can be loaded without the network and without torch.
    """

    entry: ZooEntry
    place: str
    size: int
    ready: bool


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
        ModelError: no such model, its file is unusable, or it is not exported yet.
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
    if path.suffix.lower() != ".onnx" and path.is_file():
        raise ModelError(
            f"{path} is no ONNX file: of a checkpoint of `train` 'python -m engines export --checkpoint {path} "
            f"--output {path.stem}.onnx' makes one"
        )
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


def is_ready(entry: ZooEntry, *, weights_dir: Path | None = None) -> bool:
    """Whether a named model can be loaded without the network and without torch.

    Raises:
        ModelError: the weights directory does not exist.
    """
    return _listing(entry, _weights(weights_dir)).ready


def fetch_model(name: str, *, weights_dir: Path | None = None, progress: bool = True) -> Model:
    """See that a named model is here, ready to run.

    Raises:
        ModelError: no such model, its file is unusable, or it is not exported yet.
        FetchError: it cannot be downloaded.
    """
    return _load(find_entry(name), _weights(weights_dir), None, progress=progress)


def fetch_published(entry: ZooEntry, *, weights_dir: Path | None = None, progress: bool = True) -> Path:
    """The published file of a named model, from the weights directory, the cache, or the network into the cache.

    Raises:
        ModelError: the model is one of this package, or the file in the weights directory is another one.
        FetchError: it cannot be downloaded.
    """
    if entry.download is None:
        raise ModelError(f"{entry.name} is in the package: there is nothing to fetch")
    folder = _weights(weights_dir)
    if folder is not None and (source := folder / entry.download.file).is_file():
        return _checked(entry.download, source)
    return _fetch(entry, entry.download, None, progress=progress)


def exported_place(entry: ZooEntry) -> Path:
    """Where the stream looks for a model that was converted or exported: in the user's cache."""
    return model_cache() / f"{entry.name}-{CONVERTER}.onnx"


def find_entry(name: str) -> ZooEntry:
    """The entry of a named model.

    Raises:
        ModelError: there is none.
    """
    if name not in ZOO:
        raise ModelError(f"there is no model {name!r}: choose from {', '.join(ZOO)}")
    return ZOO[name]


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
            raw = entry.recipe is not None and path.suffix != ".onnx"
            return Listing(entry, f"{place}, not exported" if raw else place, path.stat().st_size, not raw)
    return Listing(entry, "not fetched", entry.download.expected if entry.download else 0, ready=False)


def _places(entry: ZooEntry, folder: Path | None) -> list[tuple[str, Path]]:
    """Where an entry may lie, best first, and how that is called."""
    places = []
    if folder is not None:
        places.append((f"in {folder}", folder / f"{entry.name}.onnx"))
    if entry.download is None:
        places.append(("embedded", _BUNDLED / f"{entry.name}.onnx"))
        return places
    published, converted = entry.download.file, ("cached", exported_place(entry))
    if entry.recipe is not None:
        places.append(converted)
    if folder is not None:
        places.append((f"in {folder}", folder / published))
    if entry.recipe is None:
        places.append(converted)
    places.append(("cached", model_cache() / published))
    return places


def _load(entry: ZooEntry, folder: Path | None, patience: Patience | None, *, progress: bool) -> Model:
    if folder is not None and (converted := folder / f"{entry.name}.onnx").is_file():
        return read_model(converted)
    if entry.download is None:
        return read_model(_BUNDLED / f"{entry.name}.onnx")
    if entry.recipe is None and folder is not None and (source := folder / entry.download.file).is_file():
        return _from_source(entry, entry.download, source)
    cached = _from_cache(entry)
    if cached is not None:
        return cached
    if entry.recipe is not None:
        raise ModelError(
            f"{entry.name} is not exported yet: run 'python -m engines export {entry.name}' once, which fetches it and "
            f"needs torch (pip install 'deeplab-stream[train]'), or put {entry.name}.onnx into a directory and name "
            f"that in {WEIGHTS_VARIABLE}"
        )
    return _from_source(entry, entry.download, _fetch(entry, entry.download, patience, progress=progress))


def _fetch(entry: ZooEntry, download: Download, patience: Patience | None, *, progress: bool) -> Path:
    """The published file in the cache."""
    try:
        return fetch(
            download.url,
            model_cache() / download.file,
            sha256=download.sha256,
            size=download.size,
            doubt=partial(implausible, download),
            patience=patience,
            progress=progress,
        )
    except FetchError as error:
        raise FetchError(
            f"{error}; give it another way: put {download.file} or {entry.name}.onnx into a directory "
            f"and name that in {WEIGHTS_VARIABLE}"
        ) from error


def _from_cache(entry: ZooEntry) -> Model | None:
    """The converted model; a damaged one is removed, since it can be made again."""
    path = exported_place(entry)
    if not path.is_file():
        return None
    try:
        return read_model(path)
    except ModelError as error:
        _log.warning("the cached model is unusable and is made again: %s", error)
        path.unlink(missing_ok=True)
        return None


def _from_source(entry: ZooEntry, download: Download, source: Path) -> Model:
    """Convert a published file, once."""
    cached = _from_cache(entry)
    if cached is not None:
        return cached
    _checked(download, source)
    facts = ModelFacts(entry.name, entry.labels, entry.size, entry.output_stride, entry.align_corners, entry.licence)
    try:
        data = convert(source.read_bytes(), facts)
    except ModelError as error:
        raise ModelError(f"cannot convert {source}: {error}") from error
    _write(exported_place(entry), data)
    return read_model(exported_place(entry))


def _checked(download: Download, source: Path) -> Path:
    """A published file whose hash is right, as far as one is known."""
    actual = file_sha256(source)
    if not actual.startswith(download.sha256 or ""):
        raise ModelError(f"{source} is not the published file: its SHA-256 is {actual}, not {shown(download.sha256)}")
    if actual != download.sha256 and (doubt := implausible(download, source)):
        raise ModelError(f"{source} is not the published file: it {doubt}")
    if download.sha256 is None:
        _log.warning("%s is not checked: nobody has published its hash (this one has %s)", source, actual)
    return source


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
