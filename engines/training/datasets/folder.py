"""Pictures with labels in plain directories: ROOT/SPLIT/images and ROOT/SPLIT/labels, paired by name."""

from __future__ import annotations

from pathlib import Path

from engines.labels import LabelSet
from engines.training.datasets.layout import demand, paired
from engines.training.datasets.reading import DataError, LabelCodes, Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

REMEDY = "give every picture ROOT/SPLIT/images/NAME.jpg|png a label picture ROOT/SPLIT/labels/NAME.png"


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
        return by_name(images, labels, self.codes, REMEDY)


def by_name(images: Path, labels: Path, codes: LabelCodes | None, remedy: str) -> list[Sample]:
    """The pictures of one directory with the label pictures of the same names in another."""
    pictures = {path.stem: path for path in sorted(images.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    if not pictures:
        raise DataError(f"{images}: no pictures ({', '.join(IMAGE_SUFFIXES)})")
    return paired(list(pictures), lambda name: (pictures[name], labels / f"{name}.png"), codes, remedy)
