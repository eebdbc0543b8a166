"""PASCAL VOC 2012, its augmented training set, and PASCAL-Person-Part."""

from __future__ import annotations

from pathlib import Path

from engines.labels import PERSON_PART, VOC, LabelSet
from engines.training.datasets.layout import demand, home_of, listed_splits, paired, read_list
from engines.training.datasets.reading import IGNORE, DataError, LabelCodes, Sample

VOC_CODES = LabelCodes("VOC 2012 (0 to 20, 255 for none)", {**{i: i for i in range(21)}, 255: IGNORE})
PART_CODES = LabelCodes("PASCAL-Person-Part (0 to 6, 255 for none)", {**{i: i for i in range(7)}, 255: IGNORE})

LISTS = "ImageSets/Segmentation"

VOC_REMEDY = "unpack VOCtrainval_11-May-2012.tar into ROOT (http://host.robots.ox.ac.uk/pascal/VOC/voc2012)"
SBD_REMEDY = (
    "unpack SBD's benchmark.tgz into ROOT (benchmark_RELEASE/dataset), or put SegmentationClassAug and "
    f"{LISTS}/trainaug.txt beside SegmentationClass"
)
PART_REMEDY = (
    "unpack pascal_person_part.zip into ROOT (pascal_person_part_gt and pascal_person_part_trainval_list), and "
    "VOCtrainval_03-May-2010.tar beside it (JPEGImages)"
)


class Voc:
    """VOC 2012 (Everingham et al. 2010) as its archive is: VOCdevkit/VOC2012, which ROOT is, or holds."""

    labels: LabelSet | None = VOC
    homes = (".", "VOC2012", "VOCdevkit/VOC2012")

    def __init__(self, root: Path) -> None:
        home = home_of(root, self.homes, LISTS)
        if home is None:
            raise DataError(f"{root}: no {LISTS} in it nor in {' or '.join(self.homes[1:])}: {VOC_REMEDY}")
        for part in ("JPEGImages", "SegmentationClass"):
            demand(home, part, VOC_REMEDY)
        self._home = home

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether there are lists of pictures for segmentation."""
        return home_of(root, cls.homes, LISTS) is not None

    def splits(self) -> list[str]:
        """Names of the lists."""
        return listed_splits(self._home / LISTS)

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a list, in its order.

        Raises:
            DataError: there is no such list, or a file is missing.
        """
        if split == "test":
            raise DataError(f"{self._home}: the labels of VOC's test split are not published: take val")
        if split == "trainaug":
            raise DataError(f"{self._home}: trainaug has SBD's labels, too: give --dataset voc-aug")
        return paired(self._names(split), self._files, VOC_CODES, VOC_REMEDY)

    def _names(self, split: str) -> list[str]:
        return read_list(self._home / LISTS / f"{split}.txt", self.splits(), VOC_REMEDY)

    def _files(self, name: str) -> tuple[Path, Path]:
        return self._home / "JPEGImages" / f"{name}.jpg", self._home / "SegmentationClass" / f"{name}.png"


class VocAugmented(Voc):
    """VOC 2012 whose ``train`` (also called ``trainaug``) has SBD's labels, too (Hariharan et al., ICCV 2011).

    That is the training set of DeepLab, 10,582 pictures: all of SBD and of VOC's train, less VOC's val. Labels come
    from SegmentationClassAug by its own list, or from SBD's archive by the lists of both; VOC's own go first.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        homes = [root, self._home, self._home.parent, self._home.parent.parent]
        self._converted = self._home / "SegmentationClassAug"
        self._sbd = next((found for home in homes if (found := home / "benchmark_RELEASE" / "dataset").is_dir()), None)
        if not self._converted.is_dir() and self._sbd is None:
            raise DataError(f"{self._converted}: no such directory: {SBD_REMEDY}")

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a split, ``train`` being the augmented one.

        Raises:
            DataError: as of `Voc`.
        """
        if split not in ("train", "trainaug"):
            return super().samples(split)
        if self._converted.is_dir():
            names = read_list(self._home / LISTS / "trainaug.txt", [], SBD_REMEDY)
            return paired(names, self._converted_files, VOC_CODES, SBD_REMEDY)
        assert self._sbd is not None
        own = {*self._names("train")}
        held_out = {*self._names("val")}
        theirs = {name for part in ("train", "val") for name in read_list(self._sbd / f"{part}.txt", [], SBD_REMEDY)}
        files = {name: self._sbd_files(name) for name in theirs} | {name: self._files(name) for name in own}
        return paired(sorted({*files} - held_out), files.__getitem__, VOC_CODES, SBD_REMEDY)

    def _converted_files(self, name: str) -> tuple[Path, Path]:
        return self._home / "JPEGImages" / f"{name}.jpg", self._converted / f"{name}.png"

    def _sbd_files(self, name: str) -> tuple[Path, Path]:
        assert self._sbd is not None
        return self._sbd / "img" / f"{name}.jpg", self._sbd / "cls" / f"{name}.mat"


class PersonPart:
    """PASCAL-Person-Part as DeepLab's authors published it: labels and lists, and the pictures of VOC 2010."""

    labels: LabelSet | None = PERSON_PART
    homes = (".", "pascal_person_part")
    pictures = (".", "VOC2010", "VOCdevkit/VOC2010", "VOC2012", "VOCdevkit/VOC2012")

    def __init__(self, root: Path) -> None:
        home = home_of(root, self.homes, "pascal_person_part_gt")
        if home is None:
            raise DataError(f"{root}: no pascal_person_part_gt in it nor in {self.homes[1]}: {PART_REMEDY}")
        pictures = home_of(home, self.pictures, "JPEGImages") or home_of(root, self.pictures, "JPEGImages")
        if pictures is None:
            raise DataError(f"{root}: no JPEGImages in it nor in {' or '.join(self.pictures[1:])}: {PART_REMEDY}")
        self._images, self._labels = pictures / "JPEGImages", home / "pascal_person_part_gt"
        self._lists = demand(home, "pascal_person_part_trainval_list", PART_REMEDY)

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether there are its labels."""
        return home_of(root, cls.homes, "pascal_person_part_gt") is not None

    def splits(self) -> list[str]:
        """Names of the lists."""
        return sorted({split.removesuffix("_id") for split in listed_splits(self._lists)})

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a list, in its order.

        Raises:
            DataError: there is no such list, or a file is missing.
        """
        plain = self._lists / f"{split}_id.txt"
        path = plain if plain.is_file() else self._lists / f"{split}.txt"
        return paired(read_list(path, self.splits(), PART_REMEDY), self._files, PART_CODES, PART_REMEDY)

    def _files(self, name: str) -> tuple[Path, Path]:
        return self._images / f"{name}.jpg", self._labels / f"{name}.png"
