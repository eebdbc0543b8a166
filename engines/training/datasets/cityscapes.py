"""Cityscapes: street scenes of nineteen classes."""

from __future__ import annotations

from pathlib import Path

from engines.labels import CITYSCAPES, LabelSet
from engines.training.datasets.layout import demand, home_of, paired
from engines.training.datasets.reading import IGNORE, DataError, LabelCodes, Sample

REMEDY = (
    "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into ROOT (https://www.cityscapes-dataset.com)"
)

IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Label id of each train id (``labels.py`` of cityscapesScripts)."""

ID_CODES = LabelCodes(
    "Cityscapes' label ids (0 to 33, 255 for none)",
    dict.fromkeys([*range(34), 255], IGNORE) | {value: label for label, value in enumerate(IDS)},
)
TRAIN_ID_CODES = LabelCodes(
    "Cityscapes' train ids (0 to 18, 255 for none)", {**{i: i for i in range(len(IDS))}, 255: IGNORE}
)

IMAGE = "_leftImg8bit.png"


class Cityscapes:
    """Cityscapes (Cordts et al., CVPR 2016): leftImg8bit/SPLIT/CITY and gtFine/SPLIT/CITY.

    Labels are ``*_gtFine_labelIds.png``, mapped to train ids, or where there are none ``*_gtFine_labelTrainIds.png``.
    """

    labels: LabelSet | None = CITYSCAPES
    homes = (".", "cityscapes")

    def __init__(self, root: Path) -> None:
        home = home_of(root, self.homes, "leftImg8bit") or home_of(root, self.homes, "gtFine")
        if home is None:
            raise DataError(f"{root}: no leftImg8bit in it nor in {self.homes[1]}: {REMEDY}")
        self._images, self._labels = (demand(home, part, REMEDY) for part in ("leftImg8bit", "gtFine"))

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether there are its pictures or its labels."""
        return any(home_of(root, cls.homes, part) for part in ("leftImg8bit", "gtFine"))

    def splits(self) -> list[str]:
        """Names of the directories of cities."""
        return sorted(path.name for path in self._images.glob("*/"))

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a split, by city and name.

        Raises:
            DataError: there is no such split, or a file is missing.
        """
        if split == "test":
            raise DataError(f"{self._labels}: the labels of Cityscapes' test split are not published: take val")
        there = ", ".join(self.splits())
        images = demand(self._images, split, f"splits there are: {there}; else {REMEDY}" if there else REMEDY)
        pictures = {path.name.removesuffix(IMAGE): path for path in sorted(images.glob(f"*/*{IMAGE}"))}
        if not pictures:
            raise DataError(f"{images}: no pictures CITY/*{IMAGE}: {REMEDY}")

        def files(name: str, kind: str) -> tuple[Path, Path]:
            image = pictures[name]
            return image, self._labels / split / image.parent.name / f"{name}_gtFine_{kind}.png"

        first = next(iter(pictures))
        kind, codes = ("labelIds", ID_CODES)
        if not files(first, kind)[1].is_file() and files(first, "labelTrainIds")[1].is_file():
            kind, codes = ("labelTrainIds", TRAIN_ID_CODES)
        return paired(list(pictures), lambda name: files(name, kind), codes, REMEDY)
