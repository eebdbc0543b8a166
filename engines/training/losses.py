"""Losses of coarse scores against labels, 255 meaning "no label"."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.training.datasets import IGNORE, UInt8
from engines.training.options import LossOptions
from engines.training.processes import ALONE, Processes


class SegmentationLoss(nn.Module):
    """Weighted cross-entropy plus Lovász-softmax.

    Args:
        weights: Weight of each class in the cross-entropy, `classes`.
        options: Weight of the Lovász term, and the stride of the labels.
        align_corners: How the network's scores lie in the picture.
        processes: Those that share a batch, over all of which the cross-entropy is a mean; the Lovász term is of each
            one's own pictures.
    """

    weights: Tensor

    def __init__(
        self,
        weights: Tensor,
        options: LossOptions,
        align_corners: bool = False,
        processes: Processes = ALONE,
    ) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.lovasz = options.lovasz
        self.align_corners = align_corners
        self.processes = processes

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores N×C×h×w, labels N×H×W int64 with H ≥ h → a scalar."""
        scores = enlarge_scores(scores, labels, self.align_corners)
        total = functional.cross_entropy(scores, labels, self.weights, ignore_index=IGNORE, reduction="sum")
        weight = self.processes.mean(self.weights[labels[labels != IGNORE]].sum())
        loss = total / weight.clamp_min(1e-6)  # a batch without labels teaches nothing
        if self.lovasz:
            # A quarter of the pixels says the same at a quarter of the sorting.
            loss = loss + self.lovasz * lovasz_softmax(scores[:, :, ::2, ::2], labels[:, ::2, ::2])
        return loss


def enlarge_scores(scores: Tensor, labels: Tensor, align_corners: bool = False) -> Tensor:
    """Scores N×C×h×w in float32 at the size of labels N×H×W, bilinear, half-pixel centres or corner to corner."""
    return functional.interpolate(scores.float(), size=labels.shape[-2:], mode="bilinear", align_corners=align_corners)


def lovasz_softmax(scores: Tensor, labels: Tensor) -> Tensor:
    """Convex surrogate of 1 − mIoU over the classes present (Berman et al., arXiv 1705.08790).

    Args:
        scores: N×C×H×W.
        labels: N×H×W, 255 is left out.
    """
    classes = scores.shape[1]
    valid = labels != IGNORE
    truth = labels[valid]
    probabilities = scores.softmax(1).permute(0, 2, 3, 1)[valid]
    losses = []
    for index in range(classes):
        hit = (truth == index).float()
        positives = hit.sum()
        if positives == 0:
            continue
        errors, order = (hit - probabilities[:, index]).abs().sort(descending=True)
        hit = hit[order]
        intersection = positives - hit.cumsum(0)
        union = positives + (1 - hit).cumsum(0)
        jaccard = 1 - intersection / union
        # Gradient of the Lovász extension: what each further mistake costs in Jaccard loss.
        steps = torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
        losses.append(errors @ steps)
    return torch.stack(losses).mean() if losses else scores.sum() * 0


def class_weights(labels: Iterable[UInt8], classes: int, log_weight: float) -> Tensor:
    """Weight of each class from its frequency, float32, mean 1 over pixels; all 1 if 0 is asked."""
    if not log_weight:
        return torch.ones(classes)
    counts = sum(np.bincount(each.ravel(), minlength=256)[:classes] for each in labels)
    frequency: npt.NDArray[np.float64] = np.asarray(counts / np.sum(counts))
    weights = 1 / np.log(log_weight + frequency)
    return torch.from_numpy(weights / (weights @ frequency)).float()
