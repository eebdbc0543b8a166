"""COCO's run lengths against a decoder written from its definition, and against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from pipeline.sinks import rle

pytestmark = pytest.mark.timeout(60)


def straightforward_decode(text: str, size: list[int]) -> NDArray[np.bool_]:
    """A mask from compressed counts, one character and one run at a time."""
    counts: list[int] = []
    position = 0
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            group = ord(text[position]) - 48
            value |= (group & 0x1F) << shift
            shift += 5
            more = bool(group & 0x20)
            position += 1
            if not more and group & 0x10:
                value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    flat: list[bool] = []
    for number, count in enumerate(counts):
        flat += [number % 2 == 1] * count
    assert len(flat) == size[0] * size[1]
    return np.array(flat).reshape(size[1], size[0]).T


some_labels = arrays(
    np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.sampled_from([0, 1, 2, 7, 255])
)


@given(some_labels)
@settings(max_examples=200, deadline=None)
@example(np.zeros((1, 1), np.uint8))
@example(np.full((7, 3), 255, np.uint8))
def test_every_class_is_decoded_to_its_pixels(labels: NDArray[np.uint8]) -> None:
    encoded = rle.encode(labels)
    assert list(encoded) == sorted(set(labels.ravel().tolist()))
    for index, text in encoded.items():
        np.testing.assert_array_equal(straightforward_decode(text, list(labels.shape)), labels == index)
        assert rle.runs(labels)[index].sum() == labels.size


def test_long_runs_and_great_differences() -> None:
    labels = np.zeros((3000, 2000), np.uint8)
    labels[:, 1000] = 1
    labels[5, 7] = labels[2999, 1999] = 1
    np.testing.assert_array_equal(straightforward_decode(rle.encode(labels)[1], [3000, 2000]), labels == 1)


def test_a_picture_that_is_not_contiguous() -> None:
    labels = np.arange(48, dtype=np.uint8).reshape(6, 8)[::2, ::2] % 3
    np.testing.assert_array_equal(straightforward_decode(rle.encode(labels)[1], [3, 4]), labels == 1)


def test_pycocotools_writes_the_same_and_reads_it() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    noise = np.random.default_rng(5)
    for height, width in ((1, 1), (13, 17), (360, 640)):
        labels = np.repeat(noise.integers(0, 4, (height, -(-width // 5))), 5, 1)[:, :width].astype(np.uint8)
        for index, text in rle.encode(labels).items():
            theirs = coco.encode(np.asfortranarray((labels == index).astype(np.uint8)))
            assert theirs["counts"] == text.encode()
            decoded = coco.decode({"size": [height, width], "counts": text})
            np.testing.assert_array_equal(decoded, labels == index)
