"""A picture and its labels, read from their files and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.base import EngineError
from engines.training.datasets.matlab import MatlabError, read_label_map

UInt8 = npt.NDArray[np.uint8]
Values = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

IGNORE = 255
"""Label of a pixel that has none."""


class DataError(EngineError):
    """A data set that cannot be used; the message is one line and names the file."""


@dataclass(frozen=True, slots=True)
class LabelCodes:
    """What the values in a data set's label files mean.

    Attributes:
        what: the data set, for messages.
        classes: by value its class, or `IGNORE`; any other value is an error.
        coloured: values are colours, 0xRRGGBB.
    """

    what: str
    classes: Mapping[int, int]
    coloured: bool = False

    def decode(self, values: Values, path: Path) -> UInt8:
        """Classes of an array of values: uint8, H×W, of values H×W or colours H×W×3.

        Raises:
            DataError: a value that the data set does not have.
        """
        if self.coloured:
            return self._decode_colours(values, path)
        unknown = 256
        table = np.full(1 << 8 * values.itemsize, unknown, np.uint16)
        table[list(self.classes)] = list(self.classes.values())
        classes = table[values]
        if classes.max(initial=0) == unknown:
            wrong = int(values[classes == unknown].min())
            raise DataError(f"{path}: {wrong} is no label of {self.what}: is it the file of another data set?")
        return classes.astype(np.uint8)

    def _decode_colours(self, values: Values, path: Path) -> UInt8:
        colours = values.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        known = np.array(sorted(self.classes), np.uint32)
        places = np.searchsorted(known, colours).clip(max=len(known) - 1)
        wrong = colours[known[places] != colours]
        if wrong.size:
            raise DataError(
                f"{path}: #{wrong.min():06x} is no label of {self.what}: is it the file of another data set?"
            )
        meaning: UInt8 = np.array([self.classes[int(colour)] for colour in known], np.uint8)
        return np.asarray(meaning[places])

    def reordered(self, order: Sequence[int]) -> LabelCodes:
        """The same for another order of the classes: ``order[old]`` is the new one."""
        places = {IGNORE: IGNORE, **dict(enumerate(order))}
        return replace(self, classes={value: places[label] for value, label in self.classes.items()})


@dataclass(frozen=True, slots=True)
class Sample:
    """The files of one labelled picture.

    Attributes:
        image: the picture.
        labels: a picture of one channel, or MATLAB's file in SBD and PASCAL-Context.
        codes: what its values mean; classes as they are where None.
    """

    image: Path
    labels: Path
    codes: LabelCodes | None = None

    @property
    def name(self) -> str:
        """File name without its suffix."""
        return self.image.stem

    @property
    def drive(self) -> str:
        """The recording it comes from: the part of the name before the first `_`."""
        return self.name.split("_")[0]


def read_sample(sample: Sample, classes: int, ignore: Sequence[int] = ()) -> tuple[UInt8, UInt8]:
    """Read a picture and its labels.

    Args:
        sample: Its files.
        classes: Number of classes; labels run from 0 to `classes` − 1.
        ignore: Labels that mean none, besides 255.

    Returns:
        RGB picture, H×W×3, and labels, H×W with 255 where there is none.

    Raises:
        DataError: If a file cannot be read, the sizes differ or a label is out of range.
    """
    image = _read_picture(sample.image, "RGB")
    return image, read_labels(sample.labels, image.shape[:2], classes, ignore, sample.codes)


def read_labels(
    path: Path, shape: tuple[int, ...], classes: int, ignore: Sequence[int] = (), codes: LabelCodes | None = None
) -> UInt8:
    """Read the labels of a picture of ``shape`` (height, width); else as `read_sample`."""
    values = _read_matlab(path) if path.suffix == ".mat" else _read_picture(path, None)
    channels, said = ((3,), "three channels") if codes is not None and codes.coloured else ((), "one channel")
    if values.dtype not in (np.uint8, np.uint16) or (values.shape[2:] != channels and values.shape[:2] == shape):
        raise DataError(f"{path}: not an 8 bit picture of {said}")
    if values.shape[:2] != shape:
        raise DataError(
            f"{path}: {values.shape[1]}×{values.shape[0]} pixels, but its picture has {shape[1]}×{shape[0]}"
        )
    if codes is not None:
        values = codes.decode(values, path)
    elif values.dtype != np.uint8:
        raise DataError(f"{path}: not an 8 bit picture of one channel")
    mapping = np.arange(256, dtype=np.uint8)
    mapping[list(ignore)] = IGNORE
    mapped = mapping[values]
    wrong = mapped[(mapped >= classes) & (mapped != IGNORE)]
    if wrong.size:
        raise DataError(f"{path}: label {wrong[0]} of {classes} classes")
    return mapped


def _read_picture(path: Path, mode: str | None) -> UInt8:
    """The samples of a picture, converted to PIL's ``mode`` if one is given."""
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert(mode) if mode else picture)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: larger than any picture") from error
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise DataError(f"{path}: not a readable picture") from error


def _read_matlab(path: Path) -> Values:
    try:
        return read_label_map(path)
    except (OSError, MatlabError) as error:
        raise DataError(f"{path}: no labels of SBD or PASCAL-Context: {error}") from error
