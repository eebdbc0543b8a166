"""How steady labels are from frame to frame.

Against true labels of every frame: video consistency (J. Miao et al., "VSPW: A Large-scale Dataset for Video Scene
Parsing in the Wild", CVPR 2021; counted here as the paper says, correct pixels alone) and flicker.  Along the
optical flow, without true labels: temporal consistency (Y. Liu et al., "Efficient Semantic Video Segmentation with
Per-frame Inference", ECCV 2020).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.base import EngineError
from engines.training.metrics import Confusion

UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

SETTLED = 5
"""Frames before and after a pair in which the truth must not change for the pair to count as settled."""


class Consistency:
    """VC_n: of the pixels whose true class does not change in n frames, the share labelled right in all of them."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._past: deque[tuple[UInt8, UInt8]] = deque(maxlen=frames)
        self._shares: list[float] = []

    def add(self, truth: UInt8, predicted: UInt8, valid: Bool) -> None:
        """The next frame: H×W true and predicted classes, and which of the true ones are any."""
        self._past.append((np.where(valid, truth, 255).astype(np.uint8), predicted))
        if len(self._past) < self._frames:
            return
        first = self._past[0][0]
        constant, right = first != 255, np.ones(first.shape, bool)
        for true, said in self._past:
            constant &= true == first
            right &= said == true
        if constant.any():
            self._shares.append(float(right[constant].mean()))

    @property
    def value(self) -> float:
        """Mean over all windows of n frames, in 0–1; NaN if there was none."""
        return float(np.mean(self._shares)) if self._shares else float("nan")


class Flicker:
    """Share of the pixels that change their class from one frame to the next though their true class does not.

    Where an outline moves, a label that follows it a frame early or late counts, too; ``settled`` leaves that out: it
    counts only pixels whose true class has not changed for `SETTLED` frames and does not for as many more.
    """

    def __init__(self) -> None:
        self._past: deque[tuple[UInt8, UInt8]] = deque(maxlen=2 * SETTLED + 2)
        self._changed = self._pixels = self._changed_settled = self._settled = 0
        self._seen: set[int] = set()

    def add(self, truth: UInt8, predicted: UInt8, valid: Bool) -> None:
        """As `Consistency.add`."""
        self._seen.update(np.unique(predicted).tolist())
        true = np.where(valid, truth, 255).astype(np.uint8)
        if self._past:
            before, said = self._past[-1]
            constant = (true == before) & valid
            self._pixels += int(constant.sum())
            self._changed += int((said != predicted)[constant].sum())
        self._past.append((true, predicted))
        if len(self._past) == self._past.maxlen:
            first = self._past[0][0]
            settled = first != 255
            for each, _ in self._past:
                settled &= each == first
            changed = self._past[SETTLED][1] != self._past[SETTLED + 1][1]
            self._settled += int(settled.sum())
            self._changed_settled += int(changed[settled].sum())

    @property
    def value(self) -> float:
        """In 0–1; NaN if nothing was counted, or all labels were of one class: that these are steady says nothing."""
        return self._changed / self._pixels if self._pixels and len(self._seen) > 1 else float("nan")

    @property
    def settled(self) -> float:
        """The same where outlines are far in time; NaN as ``value``."""
        return self._changed_settled / self._settled if self._settled and len(self._seen) > 1 else float("nan")


class FlowConsistency:
    """Labels of neighbouring frames compared along the flow of OpenCV's DIS, what is covered or leaves left out.

    Attributes:
        flicker: share of the compared pixels whose class changes; see `value`.
    """

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._before: tuple[UInt8, UInt8] | None = None
        self._shares: list[float] = []
        self._changed = self._pixels = 0
        self._seen: set[int] = set()
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise EngineError(
                "temporal consistency needs OpenCV's optical flow: pip install 'deeplab-stream[train]'"
            ) from error
        self._cv2: Any = cv2
        self._flow = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def add(self, luma: UInt8, predicted: UInt8) -> None:
        """The next frame: H×W grey levels and predicted classes."""
        before, self._before = self._before, (luma, predicted)
        self._seen.update(np.unique(predicted).tolist())
        if before is None or before[0].shape != luma.shape:
            return
        moved, visible = self._moved(before[0], luma, before[1])
        confusion = Confusion(self._classes)
        confusion.add(np.where(visible, moved, 255), predicted)
        # A class that covers all of both pictures has no outline that could move, so its steadiness says nothing.
        iou = confusion.iou()
        if np.isfinite(iou).sum() > 1:
            self._shares.append(float(np.nanmean(iou)))
        self._pixels += int(visible.sum())
        self._changed += int((moved != predicted)[visible].sum())

    def _moved(self, before: UInt8, now: UInt8, labels: UInt8) -> tuple[UInt8, Bool]:
        """Labels of the frame before, moved to this frame, and where that can be said."""
        cv2 = self._cv2
        there, back = self._flow.calc(now, before, None), self._flow.calc(before, now, None)
        y, x = np.mgrid[: now.shape[0], : now.shape[1]].astype(np.float32)
        at_x, at_y = x + there[..., 0], y + there[..., 1]
        returned = cv2.remap(back, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        # The bound of N. Sundaram, T. Brox, K. Keutzer, "Dense point trajectories by GPU-accelerated large
        # displacement optical flow", ECCV 2010.
        astray, length = ((there + returned) ** 2).sum(-1), (there**2).sum(-1) + (returned**2).sum(-1)
        inside = (at_x >= 0) & (at_x <= now.shape[1] - 1) & (at_y >= 0) & (at_y <= now.shape[0] - 1)
        moved = cv2.remap(labels, at_x, at_y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return moved, inside & (astray <= 0.01 * length + 0.5)

    @property
    def value(self) -> float:
        """TC: mean IoU of a frame's labels and the last one's, moved, over all pairs, in 0–1.

        NaN if no pair has two classes: labels that never change are perfectly steady and say nothing.
        """
        return float(np.mean(self._shares)) if self._shares else float("nan")

    @property
    def flicker(self) -> float:
        """In 0–1; NaN as ``value``, where there is but one class in all frames."""
        return self._changed / self._pixels if self._pixels and len(self._seen) > 1 else float("nan")
