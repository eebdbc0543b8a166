"""What every segmentation network promises, and multi-scale input for all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.encoder import Encoder
from engines.networks.spec import NetworkSpec


class Segmenter(nn.Module, ABC):
    """A segmentation network: normalised picture in, coarse scores (logits) out.

    With several scales the picture is seen at each of them by the same weights, and every class
    keeps its largest score (Chen et al., arXiv 1606.00915, section 4.1.2, "multi-scale inputs").

    Attributes:
        spec: What it was made from.
        encoder: The backbone.
        output_stride: Input pixels per pixel of the encoder's last features.
        score_stride: Input pixels per score.
        align_corners: Scores are to be upsampled corner to corner, or with half-pixel centres.
        scales: Sizes at which the picture is seen; the first one is 1.
    """

    def __init__(self, spec: NetworkSpec, encoder: Encoder, score_stride: int) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder
        self.output_stride = encoder.output_stride
        self.score_stride = score_stride
        self.align_corners = spec.conventions.align_corners
        self.scales = tuple(Fraction(scale).limit_denominator(64) for scale in spec.scales)

    @abstractmethod
    def single(self, image: Tensor) -> Tensor:
        """Scores of pictures at one scale, as `forward`."""

    @abstractmethod
    def classifier(self) -> nn.Conv2d:
        """The convolution whose bias is added to the scores (one of them, where several are summed)."""

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """Scores at every scale, each of its own size: what a loss on all scales wants."""
        return [self.single(self._scaled(image, scale)) for scale in self.scales]

    def forward(self, image: Tensor) -> Tensor:
        """N×3×H×W, normalised → N×classes×h×w at the score stride: ⌈H/s⌉×⌈W/s⌉, or (H - 1)/s + 1 where H = sk + 1."""
        return self.fuse(self.pyramid(image))

    def fuse(self, pyramid: list[Tensor]) -> Tensor:
        """The largest score of each class, at the size of the first scale's, of what `pyramid` gives."""
        fused, *others = pyramid
        for scores in others:
            larger = functional.interpolate(scores, fused.shape[2:], mode="bilinear", align_corners=self.align_corners)
            fused = torch.maximum(fused, larger)
        return fused

    def _scaled(self, image: Tensor, scale: Fraction) -> Tensor:
        if scale == 1:
            return image
        fixed = 1 if self.align_corners else 0
        height, width = (
            (side - fixed) * scale.numerator // scale.denominator + fixed for side in (image.shape[2], image.shape[3])
        )
        return functional.interpolate(image, (height, width), mode="bilinear", align_corners=self.align_corners)
