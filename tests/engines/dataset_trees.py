"""Miniature copies of the trees that the makers of data sets publish, of random pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((24, 32), (20, 36), (32, 24))
"""Heights and widths of the pictures of a split, in turn."""


@dataclass(frozen=True)
class Tree:
    """A miniature.

    Attributes:
        root: what is given as --root.
        split: of which the rest speaks.
        names: its pictures in the order in which they are to come.
        truth: their labels as they are to be read: classes, 255 for none.
        labels: the file of a picture's labels.
        parts: files and directories that cannot be spared, with what is said where one is missing.
        wrong: a value that label files may not hold, and what is said of it.
    """

    root: Path
    split: str
    names: Sequence[str]
    truth: Sequence[np.ndarray]
    labels: Callable[[str], Path]
    parts: dict[str, str]
    wrong: tuple[int, str]


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mat":
        from scipy.io import savemat

        savemat(path, sbd_variables(values) if path.parent.name == "cls" else {"LabelMap": values}, do_compression=True)
        return
    picture = Image.fromarray(values)
    if path.parent.name in PALETTES and picture.mode == "L":
        picture.putpalette(bytes(range(256)) * 3)  # of any colours: numbers count
    picture.save(path)


PALETTES = ("SegmentationClass", "SegmentationClassAug", "pascal_person_part_gt")
"""Directories whose label pictures are published with a palette."""


def sbd_variables(labels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """What a file of SBD holds: boundaries by class, sparse, before the labels, and the classes after them."""
    from scipy.sparse import csc_matrix

    boundaries = np.empty((20, 1), object)
    for number in range(20):
        boundaries[number, 0] = csc_matrix(labels == number + 1)
    present = np.unique(labels[labels > 0]).astype(np.uint8)[:, None]
    return {"GTcls": {"Boundaries": boundaries, "Segmentation": labels, "CategoriesPresent": present}}


def save_list(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def painted(
    names: Sequence[str],
    image: Callable[[str], Path],
    labels: Callable[[str], Path],
    meaning: dict[int, int],
    dtype: type = np.uint8,
) -> list[np.ndarray]:
    """Write a picture and labels for each name; what the values mean comes back."""
    truths = []
    for index, name in enumerate(names):
        random = np.random.default_rng(sum(name.encode()))
        size = SIZES[index % len(SIZES)]
        save(image(name), random.integers(0, 256, (*size, 3), np.uint8))
        values = random.choice(list(meaning), size).astype(dtype)
        save(labels(name), values)
        truths.append(np.vectorize(meaning.__getitem__)(values).astype(np.uint8))
    return truths


def plain(classes: int) -> dict[int, int]:
    return {**{index: index for index in range(classes)}, 255: 255}


def voc(root: Path) -> Tree:
    """VOCdevkit/VOC2012 with its lists; pictures of another list lie among those of val."""
    home = root / "VOCdevkit" / "VOC2012"
    names = ["2008_000002", "2007_000033", "2010_000001"]

    def image(name: str) -> Path:
        return home / "JPEGImages" / f"{name}.jpg"

    def labels(name: str) -> Path:
        return home / "SegmentationClass" / f"{name}.png"

    truth = painted(names, image, labels, plain(21))
    painted(["2009_000005"], image, labels, plain(21))
    save_list(home / "ImageSets" / "Segmentation" / "val.txt", names)
    save_list(home / "ImageSets" / "Segmentation" / "train.txt", ["2009_000005"])
    said = "unpack VOCtrainval_11-May-2012.tar into ROOT"
    parts = {
        "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": said,
        "VOCdevkit/VOC2012/ImageSets": said,
        "VOCdevkit/VOC2012/SegmentationClass": said,
        "VOCdevkit/VOC2012/JPEGImages/2008_000002.jpg": said,
    }
    return Tree(root, "val", names, truth, labels, parts, (21, "21 is no label of VOC 2012 (0 to 20"))


def voc_converted(root: Path) -> Tree:
    """VOC with SBD's labels as pictures, and DeepLab's list of pairs of paths."""
    home = voc(root).root / "VOCdevkit" / "VOC2012"
    names = ["2009_000005", "2011_000077"]

    def labels(name: str) -> Path:
        return home / "SegmentationClassAug" / f"{name}.png"

    truth = painted(names, lambda name: home / "JPEGImages" / f"{name}.jpg", labels, plain(21))
    pairs = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in names]
    save_list(home / "ImageSets" / "Segmentation" / "trainaug.txt", pairs)
    parts = {
        "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt": "unpack SBD's benchmark.tgz",
        "VOCdevkit/VOC2012/SegmentationClassAug": "unpack SBD's benchmark.tgz",
    }
    return Tree(root, "trainaug", names, truth, labels, parts, (21, "21 is no label of VOC 2012"))


def sbd(root: Path) -> Tree:
    """VOC, and SBD's own archive: its train and val without VOC's val, and VOC's labels where it has some."""
    home = voc(root).root / "VOCdevkit" / "VOC2012"
    base = root / "benchmark_RELEASE" / "dataset"
    theirs = ["2011_000077", "2008_000002", "2009_000005", "2012_000003"]

    def labels(name: str) -> Path:
        return base / "cls" / f"{name}.mat"

    truth = dict(
        zip(theirs, painted(theirs, lambda name: base / "img" / f"{name}.jpg", labels, plain(21)), strict=True)
    )
    save_list(base / "train.txt", theirs[:3])
    save_list(base / "val.txt", theirs[3:])
    with Image.open(home / "SegmentationClass" / "2009_000005.png") as own:
        truth["2009_000005"] = np.array(own)
    names = ["2009_000005", "2011_000077", "2012_000003"]
    parts = {
        "benchmark_RELEASE/dataset/train.txt": "unpack SBD's benchmark.tgz",
        "benchmark_RELEASE": "unpack SBD's benchmark.tgz",
        "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt": "unpack VOCtrainval",
    }
    return Tree(root, "train", names, [truth[name] for name in names], labels, parts,
                (21, "21 is no label of VOC 2012"))  # fmt: skip


CONTEXT = {0: 0, 1: 0, 2: 1, 9: 2, 284: 37, 397: 50, 415: 51, 458: 59, 459: 0}
"""Some ids of the 459 that PASCAL-Context annotates, and their classes: aeroplane, bag, person, table, track, wood."""


def context(root: Path) -> Tree:
    """VOC 2010, and MATLAB's files of 459 classes."""
    home = root / "VOCdevkit" / "VOC2010"
    names = ["2008_000008", "2010_001111"]

    def labels(name: str) -> Path:
        return root / "trainval" / f"{name}.mat"

    truth = painted(names, lambda name: home / "JPEGImages" / f"{name}.jpg", labels, CONTEXT, np.uint16)
    save_list(home / "ImageSets" / "Main" / "val.txt", names)
    save_list(home / "ImageSets" / "Main" / "cat_val.txt", [f"{name} -1" for name in names])
    said = "unpack VOCtrainval_03-May-2010.tar and PASCAL-Context's trainval.tar.gz into ROOT"
    parts = {"trainval": said, "VOCdevkit/VOC2010/ImageSets/Main/val.txt": said, "VOCdevkit": said}
    return Tree(root, "val", names, truth, labels, parts, (460, "460 is no label of PASCAL-Context (0 to 459)"))


def context_by_name(root: Path) -> Tree:
    """VOC 2010, and pictures of 59 classes numbered by name."""
    names = ["2008_000008", "2010_001111"]

    def labels(name: str) -> Path:
        return root / "SegmentationClassContext" / f"{name}.png"

    truth = painted(names, lambda name: root / "JPEGImages" / f"{name}.jpg", labels, plain(60))
    save_list(root / "ImageSets" / "SegmentationContext" / "train.txt", names)
    return Tree(root, "train", names, truth, labels, {"SegmentationClassContext": "trainval.tar.gz into ROOT"},
                (60, "60 is no label of PASCAL-Context (0 to 59"))  # fmt: skip


def context_by_list(root: Path) -> Tree:
    """The same, numbered by ``59_labels.txt``, which calls three classes otherwise."""
    from engines.labels import PASCAL_CONTEXT

    others = {"table": "diningtable", "bedclothes": "bedcloth", "cloth": "clothes"}
    order = list(np.random.default_rng(5).permutation(range(1, 60)))
    lines = [
        f"{value}: {others.get(name := PASCAL_CONTEXT.names[label], name)}" for value, label in enumerate(order, 1)
    ]
    names = ["2008_000008"]

    def labels(name: str) -> Path:
        return root / "59_context_labels" / f"{name}.png"

    meaning = {0: 0, 255: 255, **{value: int(label) for value, label in enumerate(order, 1)}}
    truth = painted(names, lambda name: root / "VOC2010" / "JPEGImages" / f"{name}.jpg", labels, meaning)
    save_list(root / "59_labels.txt", lines)
    save_list(root / "VOC2010" / "ImageSets" / "Main" / "val.txt", names)
    parts = {"59_labels.txt": "no such file: put it beside 59_context_labels"}
    return Tree(root, "val", names, truth, labels, parts, (60, "60 is no label of PASCAL-Context"))


def person_part(root: Path) -> Tree:
    """The authors' archive beside VOC 2010."""
    names = ["2008_000026", "2008_000041", "2010_006070"]
    home = root / "pascal_person_part"

    def labels(name: str) -> Path:
        return home / "pascal_person_part_gt" / f"{name}.png"

    truth = painted(names, lambda name: root / "VOCdevkit/VOC2010/JPEGImages" / f"{name}.jpg", labels, plain(7))
    lists = home / "pascal_person_part_trainval_list"
    save_list(lists / "val.txt", [f"/JPEGImages/{name}.jpg /pascal_person_part_gt/{name}.png" for name in names])
    save_list(lists / "train_id.txt", names[:1])
    said = "unpack pascal_person_part.zip into ROOT"
    parts = {
        "pascal_person_part/pascal_person_part_gt": said,
        "pascal_person_part/pascal_person_part_trainval_list": said,
        "pascal_person_part/pascal_person_part_trainval_list/val.txt": said,
        "VOCdevkit": said,
    }
    return Tree(root, "val", names, truth, labels, parts, (7, "7 is no label of PASCAL-Person-Part (0 to 6"))


CITYSCAPES_IDS = {0: 255, 6: 255, 7: 0, 8: 1, 11: 2, 17: 5, 18: 255, 23: 10, 26: 13, 28: 15, 30: 255, 31: 16, 33: 18}


def cityscapes(root: Path, kind: str = "labelIds", meaning: dict[int, int] | None = None) -> Tree:
    """leftImg8bit and gtFine of two cities, the second with one picture."""
    names = ["aachen_000000_000019", "aachen_000001_000019", "ulm_000000_000019"]

    def labels(name: str) -> Path:
        return root / "gtFine" / "val" / name.split("_", maxsplit=1)[0] / f"{name}_gtFine_{kind}.png"

    def image(name: str) -> Path:
        return root / "leftImg8bit" / "val" / name.split("_", maxsplit=1)[0] / f"{name}_leftImg8bit.png"

    truth = painted(names, image, labels, meaning or CITYSCAPES_IDS)
    said = "unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into ROOT"
    wrong = (
        (34, "34 is no label of Cityscapes' label ids") if meaning is None else (19, "19 is no label of Cityscapes'")
    )
    shown = [f"{name}_leftImg8bit" for name in names]
    return Tree(root, "val", shown, truth, lambda name: labels(name.removesuffix("_leftImg8bit")),
                {"gtFine": said, "leftImg8bit": said, "leftImg8bit/val": said}, wrong)  # fmt: skip


def cityscapes_train_ids(root: Path) -> Tree:
    return cityscapes(root, "labelTrainIds", plain(19))


def folder(root: Path) -> Tree:
    """ROOT/SPLIT/images and ROOT/SPLIT/labels."""
    names = ["a_1", "a_2", "b_1"]

    def labels(name: str) -> Path:
        return root / "mine" / "labels" / f"{name}.png"

    truth = painted(names, lambda name: root / "mine" / "images" / f"{name}.jpg", labels, plain(11))
    parts = {"mine/labels": "no such directory", "mine/images": "no such directory"}
    return Tree(root, "mine", names, truth, labels, parts, (77, "label 77 of 11 classes"))


CAMVID = {**{index: index for index in range(11)}, 11: 255, 255: 255}


def camvid(root: Path) -> Tree:
    """CamVid in the plain layout, told by its drives' names."""
    names = ["0001TP_006690", "0016E5_00390"]

    def labels(name: str) -> Path:
        return root / "train" / "labels" / f"{name}.png"

    truth = painted(names, lambda name: root / "train" / "images" / f"{name}.png", labels, CAMVID)
    return Tree(root, "train", names, truth, labels, {"train/labels": "no such directory"},
                (12, "12 is no label of CamVid"))  # fmt: skip


def camvid_of_segnet(root: Path) -> Tree:
    """SegNet's layout."""
    names = ["0001TP_008550", "Seq05VD_f00000"]

    def labels(name: str) -> Path:
        return root / "testannot" / f"{name}.png"

    truth = painted(names, lambda name: root / "test" / f"{name}.png", labels, CAMVID)
    return Tree(root, "test", names, truth, labels, {"test": "no such directory"}, (12, "12 is no label of CamVid"))


CAMVID_COLOURS = {
    (0, 0, 0): 255, (128, 128, 128): 0, (192, 0, 128): 1, (0, 0, 64): 2, (128, 0, 192): 3, (64, 192, 128): 4,
    (192, 192, 0): 5, (0, 64, 64): 6, (64, 64, 128): 7, (192, 128, 192): 8, (64, 128, 64): 9, (192, 0, 192): 10,
}  # fmt: skip
"""Void, Sky, Archway, TrafficCone, LaneMkgsDriv, ParkingBlock, VegetationMisc, TrafficLight, Fence, Truck_Bus, Animal,
MotorcycleScooter."""


def camvid_of_its_makers(root: Path) -> Tree:
    """Stills and coloured labels, and SegNet's list of its own paths."""
    names, truths = ["Seq05VD_f00000", "0001TP_008550"], []

    def labels(name: str) -> Path:
        return root / "LabeledApproved_full" / f"{name}_L.png"

    for name in [*names, "0006R0_f00930"]:
        random = np.random.default_rng(sum(name.encode()))
        chosen = random.integers(0, len(CAMVID_COLOURS), (24, 32))
        save(root / "701_StillsRaw_full" / f"{name}.png", random.integers(0, 256, (24, 32, 3), np.uint8))
        save(labels(name), np.array(list(CAMVID_COLOURS), np.uint8)[chosen])
        truths.append(np.array(list(CAMVID_COLOURS.values()), np.uint8)[chosen])
    save_list(root / "test.txt", [f"/SegNet/CamVid/test/{n}.png /SegNet/CamVid/testannot/{n}.png" for n in names])
    save_list(root / "label_colors.txt", ["64 128 64\tAnimal"])
    said = "unpack 701_StillsRaw_full.zip and LabeledApproved_full.zip into ROOT"
    parts = {"701_StillsRaw_full": said, "test.txt": "put SegNet's train.txt"}
    return Tree(root, "test", names, truths[:2], labels, parts, (12, "not an 8 bit picture of three channels"))


TREES: dict[str, tuple[str, Callable[[Path], Tree]]] = {
    "voc": ("voc", voc),
    "voc-aug": ("voc-aug", voc_converted),
    "voc-aug of SBD's archive": ("voc-aug", sbd),
    "pascal-context": ("pascal-context", context),
    "pascal-context by name": ("pascal-context", context_by_name),
    "pascal-context by its list": ("pascal-context", context_by_list),
    "person-part": ("person-part", person_part),
    "cityscapes": ("cityscapes", cityscapes),
    "cityscapes of train ids": ("cityscapes", cityscapes_train_ids),
    "camvid": ("camvid", camvid),
    "camvid of SegNet": ("camvid", camvid_of_segnet),
    "camvid of its makers": ("camvid", camvid_of_its_makers),
    "folder": ("folder", folder),
}
"""By name the kind of data set and what writes it."""
