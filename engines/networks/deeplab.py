"""DeepLab V3 and V3+: encoder → ASPP → (decoder) → scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.aspp import ASPP
from engines.networks.encoder import Encoder
from engines.networks.layers import ConvNorm, SeparableConv

LOW_STRIDE = 4


def enlarge(features: Tensor, factor: int, like: Tensor) -> Tensor:
    """Bilinear upsampling by a whole factor (half-pixel centres), cut to the size of `like`.

    A fixed factor keeps the grid where it is when the picture is no multiple of the stride, and
    is cheaper in exported graphs than a resize to a computed size.
    """
    if factor == 1:
        return features
    larger = functional.interpolate(features, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return larger[:, :, : like.shape[2], : like.shape[3]]


class Decoder(nn.Module):
    """The stride-4 decoder of V3+ (Chen et al. 2018, arXiv 1802.02611, figure 2).

    Args:
        high: Channels from the ASPP.
        low: Channels of the encoder's low-level features.
        low_projected: What these are reduced to, so that they do not outweigh the ASPP.
        outputs: Channels out.
        factor: ASPP pixels to low-level pixels: output stride over 4.
    """

    def __init__(self, high: int, low: int, low_projected: int, outputs: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.reduce = ConvNorm(low, low_projected)
        self.refine = nn.Sequential(SeparableConv(high + low_projected, outputs), SeparableConv(outputs, outputs))

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """N×`high`×h×w and N×`low`×h'×w' → N×`outputs`×h'×w'."""
        detail = self.reduce(low)
        refined: Tensor = self.refine(torch.cat([enlarge(high, self.factor, detail), detail], 1))
        return refined


class DeepLab(nn.Module):
    """A segmentation network: normalised picture in, coarse scores (logits) out.

    Attributes:
        encoder: The backbone.
        aspp: Its context head.
        decoder: The stride-4 decoder of V3+, or None for V3.
        output_stride: Input pixels per pixel of the ASPP.
        score_stride: Input pixels per score. Scores are to be upsampled with half-pixel
            centres (align_corners=False).
    """

    def __init__(self, encoder: Encoder, aspp: ASPP, decoder: Decoder | None, head: nn.Conv2d):
        super().__init__()
        self.encoder = encoder
        self.aspp = aspp
        self.decoder = decoder
        self.head = head
        self.output_stride = encoder.output_stride
        self.score_stride = encoder.output_stride if decoder is None else LOW_STRIDE

    def forward(self, image: Tensor) -> Tensor:
        """N×3×H×W, normalised → N×classes×⌈H/s⌉×⌈W/s⌉ with s the score stride."""
        low, high = self.encoder(image)
        features = self.aspp(high)
        if self.decoder is not None:
            features = self.decoder(features, low)
        scores: Tensor = self.head(features)
        return scores
