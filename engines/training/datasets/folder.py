"""Pictures with labels in plain directories: ROOT/SPLIT/images and ROOT/SPLIT/labels, paired by name; CamVid so."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from engines.labels import CAMVID, LabelSet
from engines.training.datasets.layout import demand, paired
from engines.training.datasets.reading import IGNORE, DataError, LabelCodes, Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

REMEDY = "give every picture ROOT/SPLIT/images/NAME.jpg|png a label picture ROOT/SPLIT/labels/NAME.png"

CAMVID_CODES = LabelCodes(
    "CamVid (0 to 10, 11 and 255 for none)", {**{i: i for i in range(11)}, 11: IGNORE, 255: IGNORE}
)

_CAMVID_NAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_")


class Folder:
    """The plain layout. Labels are classes of whatever model they are used with."""

    labels: LabelSet | None = None
    codes: LabelCodes | None = None

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether some directory in it holds ``images`` or ``labels``."""
        return any(root.glob("*/images/")) or any(root.glob("*/labels/"))

    def splits(self) -> list[str]:
        """Names of the directories that hold ``images``."""
        return sorted(path.parent.name for path in self._root.glob("*/images/"))

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a split, by name.

        Raises:
            DataError: a directory is missing or empty, or a picture has no labels.
        """
        there = ", ".join(self.splits())
        remedy = f"splits there are: {there}; else {REMEDY}" if there else REMEDY
        images, labels = (demand(self._root / split, part, remedy) for part in ("images", "labels"))
        return _by_name(images, labels, self.codes, REMEDY)


class CamVid(Folder):
    """CamVid's eleven classes (Badrinarayanan et al. 2015), plainly laid out or as SegNet's: SPLIT and SPLITannot."""

    labels: LabelSet | None = CAMVID
    codes: LabelCodes | None = CAMVID_CODES

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether its pictures have the names of CamVid's drives."""
        pictures = itertools.chain(root.glob("*/images/*"), root.glob("*annot/*"))
        return any(_CAMVID_NAME.match(path.name) for path in pictures)

    def splits(self) -> list[str]:
        """Names of the splits, of either layout."""
        annotated = [path.name.removesuffix("annot") for path in self._root.glob("*annot/")]
        return sorted({*super().splits(), *annotated})

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a split, by name; errors as of `Folder`."""
        annotated = self._root / f"{split}annot"
        if not annotated.is_dir():
            return super().samples(split)
        remedy = "give every picture ROOT/SPLIT/NAME.png a label picture ROOT/SPLITannot/NAME.png"
        return _by_name(demand(self._root, split, remedy), annotated, self.codes, remedy)


def _by_name(images: Path, labels: Path, codes: LabelCodes | None, remedy: str) -> list[Sample]:
    """The pictures of one directory with the label pictures of the same names in another."""
    pictures = {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    if not pictures:
        raise DataError(f"{images}: no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return paired(list(pictures), lambda name: (pictures[name], labels / f"{name}.png"), codes, remedy)
