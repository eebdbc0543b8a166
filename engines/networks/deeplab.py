"""DeepLab V3 and V3+: encoder → ASPP → (decoder) → scores."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.aspp import ASPP, rates_at
from engines.networks.encoder import Encoder
from engines.networks.layers import ConvNorm, layer3x3
from engines.networks.segmenter import Segmenter
from engines.networks.spec import NetworkSpec

LOW_STRIDE = 4


def enlarge(features: Tensor, factor: int, like: Tensor, *, align_corners: bool = False) -> Tensor:
    """Bilinear upsampling by a whole factor, cut to the size of `like`; corner to corner on demand.

    With half-pixel centres a fixed factor keeps the grid where it is when the picture is no multiple
    of the stride, and is cheaper in exported graphs than a resize to a computed size.
    """
    if align_corners:
        return functional.interpolate(features, like.shape[2:], mode="bilinear", align_corners=True)
    if factor == 1:
        return features
    larger = functional.interpolate(features, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return larger[:, :, : like.shape[2], : like.shape[3]]


class Decoder(nn.Module):
    """The stride-4 decoder of V3+ (Chen et al. 2018, arXiv 1802.02611, figure 2).

    Args:
        spec: Its channels, layers and kind of convolution.
        low: Channels of the encoder's low-level features, which are reduced so that they do not
            outweigh the ASPP.
        factor: ASPP pixels to low-level pixels: output stride over 4.
    """

    def __init__(self, spec: NetworkSpec, low: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.align_corners = spec.conventions.align_corners
        self.reduce = ConvNorm(low, spec.low_channels)
        self.refine = layers3x3(
            spec, spec.aspp_channels + spec.low_channels, spec.decoder_channels, spec.decoder_layers
        )

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """N×`aspp_channels`×h×w and N×`low`×h'×w' → N×`decoder_channels`×h'×w'."""
        detail = self.reduce(low)
        larger = enlarge(high, self.factor, detail, align_corners=self.align_corners)
        refined: Tensor = self.refine(torch.cat([larger, detail], 1))
        return refined


class AuxiliaryHead(nn.Sequential):
    """3×3 convolution to a quarter of the channels → dropout → scores (Zhao et al., arXiv 1612.01105, section 3.3)."""

    layer: ConvNorm
    scores: nn.Conv2d

    def __init__(self, inputs: int, classes: int) -> None:
        inner = inputs // 4
        super().__init__()
        self.layer = ConvNorm(inputs, inner, 3)
        self.dropout = nn.Dropout(0.1)
        self.scores = nn.Conv2d(inner, classes, 1)


class DeepLab(Segmenter):
    """DeepLab V3, or V3+ with a decoder.

    Attributes:
        aspp: The context head.
        context: 3×3 layers after it, none by default.
        decoder: The stride-4 decoder of V3+, or None for V3.
        head: From features to scores.
        auxiliary: A second head on the encoder's middle features, or None; see `both`.
    """

    def __init__(self, spec: NetworkSpec, encoder: Encoder, classes: int) -> None:
        super().__init__(spec, encoder, LOW_STRIDE if spec.decoder else encoder.output_stride)
        if spec.auxiliary and not encoder.middle_channels:
            raise ValueError(f"encoder {spec.encoder} has no features for an auxiliary head")
        channels = spec.aspp_channels
        self.aspp = ASPP(
            encoder.high_channels,
            channels,
            rates_at(encoder.output_stride, spec.rates),
            separable=spec.separable,
            inner_norm=spec.separable_norm,
            pooling_norm=spec.pooling_norm,
        )
        self.context = layers3x3(spec, channels, channels, spec.context_layers)
        self.decoder = (
            Decoder(spec, encoder.low_channels, encoder.output_stride // LOW_STRIDE) if spec.decoder else None
        )
        self.head = nn.Conv2d(spec.decoder_channels if spec.decoder else channels, classes, 1)
        self.auxiliary = AuxiliaryHead(encoder.middle_channels, classes) if spec.auxiliary else None

    def single(self, image: Tensor) -> Tensor:
        low, high, _ = self.encoder(image)
        return self._scores(low, high)

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and those of the auxiliary head at its features' own stride: for a loss on both.

        Raises:
            ValueError: If there is no auxiliary head.
        """
        if self.auxiliary is None:
            raise ValueError("this network has no auxiliary head: make it with auxiliary=True")
        low, high, middle = self.encoder(image)
        return self._scores(low, high), self.auxiliary(middle)

    def classifier(self) -> nn.Conv2d:
        return self.head

    def _scores(self, low: Tensor, high: Tensor) -> Tensor:
        features = self.context(self.aspp(high))
        if self.decoder is not None:
            features = self.decoder(features, low)
        scores: Tensor = self.head(features)
        return scores


def layers3x3(spec: NetworkSpec, inputs: int, outputs: int, count: int) -> nn.Sequential:
    """So many 3×3 layers of a spec's kind."""
    widths = [inputs] + [outputs] * count
    return nn.Sequential(
        *(
            layer3x3(before, after, separable=spec.separable, inner_norm=spec.separable_norm)
            for before, after in itertools.pairwise(widths)
        )
    )
