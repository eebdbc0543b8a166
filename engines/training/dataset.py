"""Pictures with labels on disk: ROOT/SPLIT/images and ROOT/SPLIT/labels, paired by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from engines.base import EngineError

UInt8 = npt.NDArray[np.uint8]
IGNORE = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


class DataError(EngineError):
    """A data set that cannot be used; the message is one line and names the file."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The files of one labelled picture."""

    image: Path
    labels: Path

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return self.image.stem

    @property
    def drive(self) -> str:
        """The recording it comes from: the part of the name before the first `_`."""
        return self.name.split("_")[0]


def find_samples(root: Path, split: str) -> list[Sample]:
    """The labelled pictures of a split, by name.

    Raises:
        DataError: If a directory is missing or empty, or a picture has no labels.
    """
    images, labels = root / split / "images", root / split / "labels"
    for directory in (images, labels):
        if not directory.is_dir():
            raise DataError(f"{directory}: no such directory (expected ROOT/SPLIT/images|labels)")
    samples = []
    for image in sorted(images.iterdir()):
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        path = labels / f"{image.stem}.png"
        if not path.is_file():
            raise DataError(f"{image}: its labels {path} are missing")
        samples.append(Sample(image, path))
    if not samples:
        raise DataError(f"{images}: no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return samples


def read_sample(sample: Sample, classes: int, ignore: Sequence[int] = ()) -> tuple[UInt8, UInt8]:
    """Read a picture and its labels.

    Args:
        sample: Its files.
        classes: Number of classes; labels run from 0 to `classes` − 1.
        ignore: Values in the file that mean "no label", besides 255.

    Returns:
        RGB picture, H×W×3, and labels, H×W with 255 where there is none.

    Raises:
        DataError: If a file cannot be read, the sizes differ or a label is out of range.
    """
    image = _read(sample.image, "RGB")
    return image, read_labels(sample.labels, image.shape[:2], classes, ignore)


def read_labels(path: Path, shape: tuple[int, ...], classes: int, ignore: Sequence[int] = ()) -> UInt8:
    """Read the labels of a picture of ``shape`` (height, width); else as `read_sample`."""
    labels = _read(path, None)
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"{path}: not an 8 bit picture of one channel")
    if labels.shape != shape:
        raise DataError(
            f"{path}: {labels.shape[1]}×{labels.shape[0]} pixels, but its picture has {shape[1]}×{shape[0]}"
        )
    mapping = np.arange(256, dtype=np.uint8)
    mapping[list(ignore)] = IGNORE
    mapped = mapping[labels]
    wrong = mapped[(mapped >= classes) & (mapped != IGNORE)]
    if wrong.size:
        raise DataError(f"{path}: label {wrong[0]} of {classes} classes")
    return mapped


def _read(path: Path, mode: str | None) -> UInt8:
    """The samples of a picture, converted to PIL's ``mode`` if one is given."""
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert(mode) if mode else picture)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise DataError(f"{path}: not a readable picture") from error
