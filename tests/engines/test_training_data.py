"""Labelled pictures: how they are read, balanced and varied."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")

from engines.base import EngineError  # noqa: E402
from engines.training.augment import augment, draw_view  # noqa: E402
from engines.training.batches import draw_order, drive_weights  # noqa: E402
from engines.training.datasets import IGNORE, Sample, find_samples, read_sample  # noqa: E402
from engines.training.options import AugmentOptions  # noqa: E402
from tests.engines.camvid_like import paint  # noqa: E402

PLAIN = AugmentOptions(crop=64, scale=(1.0, 1.0), flip=0.0)


def test_samples_are_paired_and_mapped(root: Path) -> None:
    samples = find_samples(root, "train")
    assert [sample.name for sample in samples] == ["A_1", "A_2", "A_3", "B_0"]
    assert samples[0].drive == "A"
    image, labels = read_sample(samples[0], 11, [11])
    expected_image, expected_labels = paint(1)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(labels, np.where(expected_labels == 11, IGNORE, expected_labels))


def test_bad_data_is_named(root: Path) -> None:
    with pytest.raises(EngineError, match=r"test/images: no such directory: splits there are: train, val"):
        find_samples(root, "test")
    sample = find_samples(root, "train")[0]
    with pytest.raises(EngineError, match="label 8 of 8 classes"):
        read_sample(sample, 8, [11])
    Image.new("L", (10, 10)).save(sample.labels)
    with pytest.raises(EngineError, match="10×10 pixels, but its picture has 80×64"):
        read_sample(sample, 11)
    sample.image.write_bytes(b"no picture")
    with pytest.raises(EngineError, match="not a readable picture"):
        read_sample(sample, 11)
    sample.labels.unlink()
    with pytest.raises(EngineError, match="are missing"):
        find_samples(root, "train")


def test_drives_are_balanced() -> None:
    samples = [Sample(Path(name), Path(name)) for name in ["A_1.png"] * 9 + ["B_1.png"]]
    assert drive_weights(samples, 1.0) == pytest.approx(np.full(10, 0.1))
    weights = drive_weights(samples, 0.5)
    assert weights[-1] == pytest.approx(0.25)
    for seed in range(5):
        order = draw_order(weights, 24, np.random.default_rng(seed))
        assert len(order) == 24
        counts = np.bincount(order, minlength=10)
        assert np.all(np.abs(counts - weights * 24) < 1)


# Augmentation


def test_a_plain_view_is_the_picture() -> None:
    image, labels = paint(2, 64, 64)
    crop, target = augment(image, labels, PLAIN, 1, np.random.default_rng(0))
    np.testing.assert_array_equal(crop, image)
    np.testing.assert_array_equal(target, labels)


def test_labels_follow_the_picture() -> None:
    """A picture whose colour tells its label still does after turning, zooming and cropping."""
    image, labels = paint(1)
    options = AugmentOptions(crop=96, scale=(0.7, 2.0), rotate=20.0)
    colours = {0: (120, 160, 240), 3: (90, 90, 90), 8: (200, 30, 30), IGNORE: (127, 127, 127)}
    labels[labels == 11] = 3
    random = np.random.default_rng(0)
    for _ in range(8):
        crop, target = augment(image, labels, options, 1, random)
        agree = sum(
            (target == label) & np.all(np.abs(crop.astype(int) - colour) <= 1, -1) for label, colour in colours.items()
        )
        assert agree.mean() > 0.9


def test_coarse_labels_lie_between_their_pixels() -> None:
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    _, fine = augment(np.zeros((64, 64, 3), np.uint8), ramp, PLAIN, 1, np.random.default_rng(0))
    _, coarse = augment(np.zeros((64, 64, 3), np.uint8), ramp, PLAIN, 4, np.random.default_rng(0))
    assert fine.shape == (64, 64)
    assert coarse.shape == (16, 16)
    assert np.all(np.abs(coarse[0] - (4.0 * np.arange(16) + 1.5)) <= 0.5)


def test_small_pictures_are_surrounded_by_nothing() -> None:
    image, labels = paint(0, 64, 64)
    options = dataclasses.replace(PLAIN, crop=128)
    _, target = augment(image, labels, options, 1, np.random.default_rng(3))
    assert (target == IGNORE).sum() == 128 * 128 - 64 * 64
    view = draw_view(64, 64, options, np.random.default_rng(3))
    assert view[0, 0] == pytest.approx(1.0)


def test_light_changes_the_picture_within_bytes() -> None:
    image, labels = paint(0, 64, 64)
    options = dataclasses.replace(
        PLAIN, brightness=0.5, contrast=0.5, gamma=0.5, saturation=0.5, hue=0.1, channels=0.2, blur=1.0, noise=1.0
    )
    views = [augment(image, labels, options, 1, np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert views[0].dtype == np.uint8
    assert not np.array_equal(views[0], views[2])
