"""Counts of what was and what was said, and the figures made of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Confusion:
    """Pixels by true class (rows) and predicted class (columns)."""

    def __init__(self, classes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((classes, classes), np.int64)

    def add(self, truth: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> None:
        """Count pixels; true labels outside the classes are left out.

        Args:
            truth: True labels, any shape.
            predicted: Predicted labels of the same shape, all within the classes.
        """
        classes = len(self.counts)
        valid = truth < classes
        pairs = truth[valid].astype(np.int64) * classes + predicted[valid]
        self.counts += np.bincount(pairs.ravel(), minlength=classes**2).reshape(classes, classes)

    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union by class in 0–1; NaN for a class that never occurs at all."""
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(0) + self.counts.sum(1) - hits
        with np.errstate(invalid="ignore"):
            return np.asarray(hits / union)

    def mean_iou(self, without: int | None = None) -> float:
        """Mean of the classes that occur, but for ``without``, in 0–1; NaN if none does."""
        iou = self.iou()
        if without is not None:
            iou[without] = np.nan
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, in 0–1; NaN if there are none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")


class Trimap:
    """Pixels by true and predicted class and by how near they are to the edge of a true label.

    The measure of boundaries in P. Krähenbühl, V. Koltun, "Efficient Inference in Fully Connected CRFs with
    Gaussian Edge Potentials", NIPS 2011: IoU within bands around the edges, their widths being in pixels.
    """

    def __init__(self, classes: int) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((len(WIDTHS), classes, classes), np.int64)
        """By distance from an edge in pixels, counted from 1, the pixels by true and predicted class."""

    def add(self, truth: npt.NDArray[np.uint8], predicted: npt.NDArray[np.uint8]) -> None:
        """Count a picture: H×W labels, those that are no class left out, though their edges count as edges."""
        near = edge_distance(truth, WIDTHS[-1])
        classes = self.counts.shape[1]
        inside = (near <= WIDTHS[-1]) & (truth < classes)
        rows = (near[inside] - np.int64(WIDTHS[0])) * classes + truth[inside]
        pairs = np.bincount(rows * classes + predicted[inside], minlength=self.counts.size)
        self.counts += pairs.reshape(self.counts.shape)

    def band(self, width: int) -> Confusion:
        """What was counted no further than ``width`` pixels from an edge."""
        total = Confusion(self.counts.shape[1])
        total.counts = self.counts[:width].sum(0)
        return total


WIDTHS = range(1, 41)
"""Widths of the bands, in pixels on either side of an edge."""


def edge_distance(labels: npt.NDArray[np.uint8], most: int) -> npt.NDArray[np.uint8]:
    """How far the nearest pixel of another label is, in steps of a chess king: H×W of 1 to ``most``, or 255 beyond.

    Pixels at most w away are those that a square of 2w + 1 pixels, laid around every pixel of another label, covers.
    """
    distance = np.full(labels.shape, 255, np.uint8)
    low = high = labels
    for step in range(1, most + 1):
        low, high = _spread(low, np.minimum), _spread(high, np.maximum)
        distance[(low != high) & (distance == 255)] = step
    return distance


def _spread(values: npt.NDArray[np.uint8], best: np.ufunc) -> npt.NDArray[np.uint8]:
    """The least or largest of each pixel and its eight neighbours."""
    for axis in (0, 1):
        line = np.moveaxis(values, axis, 0)
        widened = line.copy(order="K")
        best(widened[1:], line[:-1], out=widened[1:])
        best(widened[:-1], line[1:], out=widened[:-1])
        values = np.moveaxis(widened, 0, axis)
    return values
