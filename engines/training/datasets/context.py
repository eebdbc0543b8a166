"""PASCAL-Context: 59 classes and background on the pictures of VOC 2010."""

from __future__ import annotations

from pathlib import Path

from engines.labels import PASCAL_CONTEXT, LabelSet
from engines.training.datasets.layout import home_of, listed_splits, paired, read_list
from engines.training.datasets.reading import IGNORE, DataError, LabelCodes, Sample

REMEDY = (
    "unpack VOCtrainval_03-May-2010.tar and PASCAL-Context's trainval.tar.gz into ROOT (VOCdevkit/VOC2010 and "
    "trainval; https://cs.stanford.edu/~roozbeh/pascal-context)"
)

IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158, 159,
    162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360, 366, 368, 397,
    415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""Ids of the 59 classes among the 459 that are annotated (its ``labels.txt``), in the order of `PASCAL_CONTEXT`."""

CODES_459 = LabelCodes(
    "PASCAL-Context (0 to 459)",
    dict.fromkeys(range(460), 0) | {value: label for label, value in enumerate(IDS, 1)},
)
CODES_59 = LabelCodes("PASCAL-Context (0 to 59, 255 for none)", {**{i: i for i in range(60)}, 255: IGNORE})

OTHER_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""How ``59_labels.txt`` calls classes that ``labels.txt`` calls otherwise."""

LABELS = ("trainval", "SegmentationClassContext", "59_context_labels")
"""The annotations of 459 classes, and two ways in which they are passed on reduced to 59."""


class PascalContext:
    """PASCAL-Context (Mottaghi et al., CVPR 2014): MATLAB files of 459 classes as published, or pictures of 59.

    In ``SegmentationClassContext`` classes are numbered by name, in ``59_context_labels`` as ``59_labels.txt`` says.
    """

    labels: LabelSet | None = PASCAL_CONTEXT
    homes = (".", "VOC2010", "VOCdevkit/VOC2010")

    def __init__(self, root: Path) -> None:
        home = home_of(root, self.homes, "JPEGImages")
        if home is None:
            raise DataError(f"{root}: no JPEGImages in it nor in {' or '.join(self.homes[1:])}: {REMEDY}")
        found = _labels_of(root, home)
        if found is None:
            raise DataError(f"{root}: no {' or '.join(LABELS)} in it nor in {home}: {REMEDY}")
        self._home, self._labels = home, found
        lists = ("ImageSets/SegmentationContext", "ImageSets/Main")
        self._lists = home_of(home, (each for each in lists), ".") or home / lists[-1]

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether there are its labels beside pictures."""
        home = home_of(root, cls.homes, "JPEGImages")
        return home is not None and _labels_of(root, home) is not None

    def splits(self) -> list[str]:
        """Names of the lists of both kinds of classes; VOC's lists of single classes are left out."""
        return [split for split in listed_splits(self._lists) if "_" not in split]

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a list, in its order.

        Raises:
            DataError: there is no such list, or a file is missing.
        """
        suffix = ".mat" if self._labels.name == "trainval" else ".png"

        def files(name: str) -> tuple[Path, Path]:
            return self._home / "JPEGImages" / f"{name}.jpg", self._labels / f"{name}{suffix}"

        names = read_list(self._lists / f"{split}.txt", self.splits(), REMEDY)
        return paired(names, files, self._codes(), REMEDY)

    def _codes(self) -> LabelCodes:
        if self._labels.name == "trainval":
            return CODES_459
        return CODES_59 if self._labels.name == "SegmentationClassContext" else _named_codes(self._labels)


def _labels_of(root: Path, home: Path) -> Path | None:
    return next((base / name for base in (root, home) for name in LABELS if (base / name).is_dir()), None)


def _named_codes(labels: Path) -> LabelCodes:
    """Values of pictures of 59 classes by ``59_labels.txt``, in their directory or beside it.

    Raises:
        DataError: there is no such file, or it does not name the 59 classes.
    """
    path = next((each for each in (labels, labels.parent) if (each / "59_labels.txt").is_file()), labels.parent)
    path /= "59_labels.txt"
    try:
        pairs = [line.split(":") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        names = {int(value): name.replace(" ", "") for value, name in pairs}
    except OSError as error:
        raise DataError(f"{path}: no such file: put it beside {labels.name} ({REMEDY})") from error
    except ValueError as error:
        raise DataError(f"{path}: not a list of classes as 1: aeroplane, a line each ({REMEDY})") from error
    known = {name: label for label, name in enumerate(PASCAL_CONTEXT.names)}
    known |= {other: known[name] for other, name in OTHER_NAMES.items()}
    if unknown := set(names.values()) - set(known):
        raise DataError(f"{path}: PASCAL-Context has no class {min(unknown)} ({REMEDY})")
    order = {value: known[name] for value, name in names.items()}
    if sorted(order.values()) != list(range(1, 60)):
        raise DataError(f"{path}: {len(order)} classes of PASCAL-Context's 59, or some twice: {REMEDY}")
    return LabelCodes(CODES_59.what, {0: 0, IGNORE: IGNORE, **order})
