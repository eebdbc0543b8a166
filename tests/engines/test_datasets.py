"""Every kind of data set: the same is asked of all, on miniature copies of their makers' trees."""

from __future__ import annotations

import logging
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from engines.labels import CITYSCAPES, PASCAL_CONTEXT, PERSON_PART, VOC, LabelSet
from engines.training.datasets import (
    CHOICES,
    DATASETS,
    IGNORE,
    DataError,
    find_samples,
    open_dataset,
    read_labels,
    read_sample,
)
from engines.training.datasets.camvid import COLOURS
from engines.training.datasets.matlab import MatlabError, read_label_map
from engines.training.datasets.pictures import StoredPictures
from tests.engines.dataset_trees import (
    TREES,
    Tree,
    cityscapes,
    folder,
    person_part,
    save,
    save_list,
    sbd_variables,
    voc,
)

CLASSES = {
    "voc": 21,
    "voc-aug": 21,
    "pascal-context": 60,
    "person-part": 7,
    "cityscapes": 19,
    "camvid": 11,
    "folder": 11,
}


@pytest.fixture(params=TREES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Tree]:
    kind, write = TREES[request.param]
    pytest.importorskip("scipy", reason="files of MATLAB")
    return kind, write(tmp_path)


def damaged(whole: bytes, random: np.random.Generator, trial: int) -> bytes:
    """A file that is cut, or some of whose bytes are others."""
    if trial % 3 == 0:
        return whole[: int(random.integers(len(whole)))]
    changed = bytearray(whole)
    for place in random.integers(0, min(len(whole), 400), int(random.integers(1, 5))):
        changed[int(place)] = int(random.integers(256))
    return bytes(changed)


def refused(kind: str, tree: Tree) -> str:
    """What is said where a tree cannot be used."""
    with pytest.raises(DataError) as caught:
        for sample in find_samples(tree.root, tree.split, kind):
            read_sample(sample, CLASSES[kind])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _ in TREES.values()} == set(DATASETS)
    assert set(DATASETS) == {*CHOICES} - {"auto"} == set(CLASSES)


def test_it_is_read_as_its_makers_meant(made: tuple[str, Tree]) -> None:
    kind, tree = made
    samples = find_samples(tree.root, tree.split, kind)
    assert [sample.name for sample in samples] == list(tree.names)
    for sample, truth in zip(samples, tree.truth, strict=True):
        image, labels = read_sample(sample, CLASSES[kind])
        assert image.shape == (*truth.shape, 3)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels, truth)
        assert (labels != IGNORE).any()


def test_it_has_classes_and_colours(made: tuple[str, Tree]) -> None:
    kind, tree = made
    labels = open_dataset(tree.root, kind).labels
    if kind == "folder":
        assert labels is None
        return
    assert isinstance(labels, LabelSet)
    assert len(labels) == len(set(labels.palette)) == len(set(labels.names)) == CLASSES[kind]
    assert (labels.background is None) == (kind in ("cityscapes", "camvid"))


def test_auto_recognises_it(made: tuple[str, Tree]) -> None:
    kind, tree = made
    assert type(open_dataset(tree.root)) is DATASETS["voc" if kind == "voc-aug" else kind]


def test_its_splits_are_named_where_one_is_asked_for_that_there_is_not(made: tuple[str, Tree]) -> None:
    kind, tree = made
    if tree.split != "trainaug" and kind != "voc-aug":
        assert tree.split in open_dataset(tree.root, kind).splits()
    with pytest.raises(DataError, match=f"splits there are: .*{'val' if kind == 'voc-aug' else tree.split}"):
        find_samples(tree.root, "nonsense", kind)


def test_missing_labels_are_named_with_the_way_out(made: tuple[str, Tree]) -> None:
    kind, tree = made
    victim = tree.labels(tree.names[-1])
    victim.unlink()
    message = refused(kind, tree)
    assert f"its labels {victim} are missing: " in message
    assert message.split(": ")[-1].startswith(("unpack", "give", "put")) or "into ROOT" in message


def test_missing_parts_are_named_with_the_way_out(made: tuple[str, Tree], tmp_path: Path) -> None:
    kind, tree = made
    for part, said in tree.parts.items():
        moved = tree.root / f"{part}.moved"
        (tree.root / part).rename(moved)
        message = refused(kind, tree)
        assert said in message, part
        assert Path(part).name in message or kind == "voc-aug" or part == "VOCdevkit", message
        moved.rename(tree.root / part)
    assert find_samples(tree.root, tree.split, kind)


def test_wrong_values_are_named(made: tuple[str, Tree]) -> None:
    kind, tree = made
    value, said = tree.wrong
    victim = tree.labels(tree.names[-1])
    save(victim, np.full(tree.truth[-1].shape, value, np.uint16 if value > 255 else np.uint8))
    assert said in refused(kind, tree)
    assert str(victim) in refused(kind, tree)


def test_labels_of_another_size_are_named(made: tuple[str, Tree]) -> None:
    kind, tree = made
    victim = tree.labels(tree.names[-1])
    save(victim, np.zeros((5, 6), np.uint8))
    height, width = tree.truth[-1].shape
    assert f"{victim}: 6×5 pixels, but its picture has {width}×{height}" in refused(kind, tree)


def test_unreadable_labels_are_named(made: tuple[str, Tree]) -> None:
    kind, tree = made
    victim = tree.labels(tree.names[-1])
    victim.write_bytes(b"half a file")
    assert str(victim) in refused(kind, tree)


def test_pictures_beyond_all_sizes_are_told(tmp_path: Path) -> None:
    tree = folder(tmp_path)
    victim = tree.labels(tree.names[0])
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    blocks = (
        struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held)) for kind, held in parts
    )
    victim.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(blocks))
    assert f"{victim}: larger than any picture" in refused("folder", tree)


def test_damaged_pictures_are_told(tmp_path: Path) -> None:
    """Cut anywhere or with bytes changed: told by name, or read."""
    tree = folder(tmp_path)
    samples = find_samples(tmp_path, "mine")
    whole, random, told = samples[0].labels.read_bytes(), np.random.default_rng(0), 0
    for trial in range(100):
        samples[0].labels.write_bytes(damaged(whole, random, trial))
        try:
            read_sample(samples[0], 11)
        except DataError as error:
            told += 1
            assert str(tree.labels(tree.names[0])) in str(error)
    assert told > 50


def test_coloured_labels_are_refused(tmp_path: Path) -> None:
    tree = voc(tmp_path)
    save(tree.labels(tree.names[0]), np.zeros((*tree.truth[0].shape, 3), np.uint8))
    assert "not an 8 bit picture of one channel" in refused("voc", tree)


def test_a_home_is_found_from_wherever_it_is_given(tmp_path: Path) -> None:
    voc(tmp_path)
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        assert len(find_samples(root, "val")) == 3


def test_the_augmented_set_keeps_vocs_val(tmp_path: Path) -> None:
    tree = TREES["voc-aug"][1](tmp_path)
    assert [each.name for each in find_samples(tree.root, "val", "voc-aug")] == voc(tmp_path).names
    assert find_samples(tree.root, "train", "voc-aug") == find_samples(tree.root, "trainaug", "voc-aug")
    with pytest.raises(DataError, match="trainaug has SBD's labels, too: give --dataset voc-aug"):
        find_samples(tree.root, "trainaug")


def test_camvids_drives_are_splits_and_other_colours_are_told(tmp_path: Path) -> None:
    tree = TREES["camvid of its makers"][1](tmp_path)
    assert open_dataset(tmp_path).splits() == ["0001TP", "0006R0", "Seq05VD", "test"]
    assert [each.name for each in find_samples(tmp_path, "0006R0")] == ["0006R0_f00930"]
    with pytest.raises(DataError, match="no labels of the drive 0016E5"):
        find_samples(tmp_path, "0016E5")
    coloured = np.zeros((*tree.truth[0].shape, 3), np.uint8)
    coloured[3, 4] = 1, 2, 3
    save(tree.labels(tree.names[0]), coloured)
    assert "#010203 is no label of CamVid's 32 colours" in refused("camvid", tree)
    assert sum(map(len, COLOURS)) == 31, "and Void"


def test_labels_that_are_not_published_are_told(tmp_path: Path) -> None:
    save_list(voc(tmp_path).root / "VOCdevkit/VOC2012/ImageSets/Segmentation/test.txt", ["2012_1"])
    with pytest.raises(DataError, match="VOC's test split are not published: take val"):
        find_samples(tmp_path, "test")
    with pytest.raises(DataError, match="Cityscapes' test split are not published: take val"):
        find_samples(cityscapes(tmp_path / "streets").root, "test")


def test_what_is_not_recognised_says_how_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data set is recognised there: name what it should be, by --dataset voc\|"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="no such directory"):
        open_dataset(tmp_path / "none", "folder")
    voc(tmp_path)
    person_part(tmp_path)
    with pytest.raises(DataError, match=r"several data sets: choose one with --dataset voc\|person-part"):
        open_dataset(tmp_path)
    assert len(find_samples(tmp_path, "val", "person-part")) == 3


def test_an_empty_list_is_told(tmp_path: Path) -> None:
    tree = voc(tmp_path)
    save_list(tmp_path / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", ["", " "])
    assert "val.txt: names no pictures: unpack" in refused("voc", tree)
    shutil.rmtree(tmp_path)
    made = folder(tmp_path)
    for picture in (tmp_path / "mine" / "images").iterdir():
        picture.unlink()
    assert "images: no pictures (.jpg" in refused("folder", made)


def test_a_list_of_classes_must_be_whole(tmp_path: Path) -> None:
    tree = TREES["pascal-context by its list"][1](tmp_path)
    names = tmp_path / "59_labels.txt"
    lines = names.read_text().splitlines()
    for broken, said in (
        (lines[:-1], "58 classes of PASCAL-Context's 59"),
        ([*lines[:-1], "59: unicorn"], "no class unicorn"),
    ):
        save_list(names, broken)
        assert said in refused("pascal-context", tree)


# Classes of data and model


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    tree = cityscapes(tmp_path)
    names = tuple(reversed(CITYSCAPES.names))
    samples = find_samples(tmp_path, "val", classes=[name.title().replace(" ", "_") for name in names])
    for sample, truth in zip(samples, tree.truth, strict=True):
        expected = np.where(truth == IGNORE, IGNORE, 18 - truth)
        np.testing.assert_array_equal(read_sample(sample, 19)[1], expected)


def test_other_classes_are_refused_or_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    voc(tmp_path)
    with pytest.raises(
        DataError, match=r"21 classes \(background, aeroplane, …\), but the model has 7 \(background, head"
    ):
        find_samples(tmp_path, "val", classes=PERSON_PART.names)
    names = [*VOC.names[:3], "crow", *VOC.names[4:]]
    with caplog.at_level(logging.WARNING):
        plain = find_samples(tmp_path, "val", classes=names)
    assert plain == find_samples(tmp_path, "val")
    assert "class 3 is bird in the data and crow in the model" in caplog.text
    caplog.clear()
    find_samples(tmp_path, "val", classes=["__background__", *VOC.names[1:]])
    find_samples(folder(tmp_path / "mine").root, "mine", classes=names)
    assert not caplog.text


def test_contexts_classes_are_in_the_order_of_their_names() -> None:
    assert list(PASCAL_CONTEXT.names[1:]) == sorted(PASCAL_CONTEXT.names[1:])


def test_pictures_that_do_not_fit_are_read_again(tmp_path: Path) -> None:
    tree = voc(tmp_path)
    samples = find_samples(tmp_path, "val")
    room = tree.truth[0].size * 4
    pictures = StoredPictures(samples, 21, (), kept=room)
    first = [labels for _, labels in pictures]
    for found, truth in zip(first, tree.truth, strict=True):
        np.testing.assert_array_equal(found, truth)
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(pictures[0][1], tree.truth[0])
    with pytest.raises(DataError, match="not a readable picture"):
        pictures[1]


# MATLAB's files


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", ["LabelMap", "GTcls"])
def test_label_maps_are_those_that_scipy_reads(kind: str, compressed: bool, tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io", reason="writes and reads files of MATLAB")
    random, path = np.random.default_rng(7), tmp_path / "a.mat"
    for dtype, shape in ((np.uint8, (24, 32)), (np.uint8, (1, 3)), (np.uint16, (5, 7)), (np.uint16, (375, 500))):
        values = random.integers(0, 256 if dtype is np.uint8 else 60_000, shape).astype(dtype)
        variables = sbd_variables(values) if kind == "GTcls" else {"other": np.eye(3), "LabelMap": values}
        io.savemat(path, variables, do_compression=compressed)
        found = io.loadmat(path)
        expected = found["LabelMap"] if kind == "LabelMap" else found["GTcls"]["Segmentation"][0, 0]
        read = read_label_map(path)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_numbers_of_16_bits_are_read_where_they_are_stored_in_8(order: str, tmp_path: Path) -> None:
    """As MATLAB stores those that fit, and SciPy never; of either order of bytes."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)

    flags, sides = struct.pack(f"{order}II", 11, 0), struct.pack(f"{order}ii", 2, 3)
    matrix = element(6, flags) + element(5, sides) + element(1, b"LabelMap") + element(2, bytes(range(6)))
    ending = (b"\x00\x01IM" if order == "<" else b"\x01\x00MI") + element(14, matrix)
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + ending)
    found = read_label_map(tmp_path / "a.mat")
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 2, 4], [1, 3, 5]]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_label_maps_are_told(compressed: bool, tmp_path: Path) -> None:
    """Cut anywhere or with bytes changed: told, or read; never more."""
    io = pytest.importorskip("scipy.io", reason="writes files of MATLAB")
    random, path = np.random.default_rng(0), tmp_path / "a.mat"
    io.savemat(path, {"GTcls": {"Segmentation": random.integers(0, 21, (24, 32), np.uint8)}}, do_compression=compressed)
    whole, told = path.read_bytes(), 0
    for trial in range(500):
        path.write_bytes(damaged(whole, random, trial))
        try:
            read_labels(path, (24, 32), 21)
        except DataError as error:
            told += 1
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)
    assert told > 200


def test_label_maps_that_are_none_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    io = pytest.importorskip("scipy.io", reason="writes files of MATLAB")
    path = tmp_path / "a.mat"
    for variables, said in (
        ({"other": np.zeros((2, 2), np.uint8)}, "neither LabelMap nor GTcls"),
        ({"GTcls": {"Boundaries": np.zeros((2, 2), np.uint8)}}, "neither LabelMap nor GTcls"),
        ({"LabelMap": np.zeros((2, 2))}, "no matrix of bytes"),
        ({"LabelMap": np.zeros((2, 2, 2), np.uint8)}, "no matrix of bytes"),
    ):
        io.savemat(path, variables)
        with pytest.raises(MatlabError, match=said):
            read_label_map(path)
    io.savemat(path, {"LabelMap": np.zeros((2, 2), np.uint8)}, format="4")
    with pytest.raises(MatlabError, match="level 5"):
        read_label_map(path)
    io.savemat(path, {"LabelMap": np.zeros((1000, 1000), np.uint8)}, do_compression=True)
    assert path.stat().st_size < 5000
    monkeypatch.setattr("engines.training.datasets.matlab.MAX_BYTES", 100_000)
    with pytest.raises(MatlabError, match="unpacks into more"):
        read_label_map(path)
