"""Labelled pictures on disk: the data sets that DeepLab was measured on, and plain directories.

Each kind reads the directories as its makers published them, and all give the same (`Dataset`): class list and
palette, splits, and samples whose labels are read as class indices with 255 for none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engines.training.datasets.camvid import CamVid
from engines.training.datasets.cityscapes import Cityscapes
from engines.training.datasets.context import PascalContext
from engines.training.datasets.folder import Folder
from engines.training.datasets.layout import Dataset
from engines.training.datasets.pascal import PersonPart, Voc, VocAugmented
from engines.training.datasets.reading import (
    IGNORE,
    DataError,
    LabelCodes,
    Sample,
    UInt8,
    read_labels,
    read_sample,
)

__all__ = [
    "CHOICES",
    "DATASETS",
    "DATASET_HELP",
    "IGNORE",
    "DataError",
    "Dataset",
    "LabelCodes",
    "Sample",
    "UInt8",
    "find_samples",
    "open_dataset",
    "read_labels",
    "read_sample",
]

DATASETS: Mapping[str, type[Dataset]] = {
    "voc": Voc,
    "voc-aug": VocAugmented,
    "pascal-context": PascalContext,
    "person-part": PersonPart,
    "cityscapes": Cityscapes,
    "camvid": CamVid,
    "folder": Folder,
}
"""Kinds of data sets by name."""

CHOICES = ("auto", *DATASETS)

DATASET_HELP = "what --root holds (default: auto, by its directories; voc-aug is VOC with SBD's labels in train)"

logger = logging.getLogger(__name__)


def open_dataset(root: Path, kind: str = "auto") -> Dataset:
    """The data set in a directory.

    Args:
        root: the directory, its makers' own or the one that their archives are unpacked in.
        kind: of `CHOICES`.

    Raises:
        DataError: it is not there, or something is missing.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such directory")
    if kind != "auto":
        return DATASETS[kind](root)
    found = [name for name, each in DATASETS.items() if name != "voc-aug" and each.recognised(root)]
    if "camvid" in found:  # a folder, too
        found = [name for name in found if name != "folder"]
    if len(found) > 1:
        raise DataError(f"{root}: holds several data sets: choose one with --dataset {'|'.join(found)}")
    if not found:
        named = "|".join(name for name in DATASETS if name != "voc-aug")
        raise DataError(
            f"{root}: no data set is recognised there: name what it should be, by --dataset {named}, to learn what is "
            "missing"
        )
    return DATASETS[found[0]](root)


def find_samples(root: Path, split: str, dataset: str = "auto", classes: Sequence[str] = ()) -> list[Sample]:
    """The labelled pictures of a split, their labels being the given classes.

    Args:
        root: directory of the data set.
        split: its name.
        dataset: of `CHOICES`.
        classes: names of the classes that labels shall be, those of a model say; the data set's own where empty.

    Raises:
        DataError: the data set is not there, a file is missing, or its classes are others.
    """
    opened = open_dataset(root, dataset)
    samples = opened.samples(split)
    if not classes or opened.labels is None:
        return samples
    order = _order(opened.labels.names, classes, root)
    if order == list(range(len(order))):
        return samples
    return [replace(each, codes=each.codes.reordered(order) if each.codes else None) for each in samples]


def _order(own: Sequence[str], wanted: Sequence[str], root: Path) -> list[int]:
    """By class of a data set the one of a model: by name, else by number where there are as many."""
    mine, theirs = [_plain(name) for name in own], [_plain(name) for name in wanted]
    if mine != theirs and sorted(mine) == sorted(theirs):
        return [theirs.index(name) for name in mine]
    if len(own) != len(wanted):
        raise DataError(
            f"{root}: {len(own)} classes ({own[0]}, {own[1]}, …), but the model has {len(wanted)} ({wanted[0]}, "
            f"{wanted[1]}, …): take a model of these classes, or --dataset folder for labels of your own"
        )
    for number, (name, other) in enumerate(zip(mine, theirs, strict=True)):
        if name != other:
            said = (number, own[number], wanted[number])
            logger.warning("class %d is %s in the data and %s in the model: taken as the same", *said)
            break
    return list(range(len(own)))


def _plain(name: str) -> str:
    """A class name without case and punctuation."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())
