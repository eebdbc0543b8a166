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

    def mean_iou(self) -> float:
        """Mean of the classes that occur, in 0–1; NaN if none does."""
        iou = self.iou()
        return float(np.nanmean(iou)) if np.isfinite(iou).any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right, in 0–1; NaN if there are none."""
        total = self.counts.sum()
        return float(np.trace(self.counts) / total) if total else float("nan")
