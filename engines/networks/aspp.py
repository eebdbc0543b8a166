"""Atrous spatial pyramid pooling of DeepLab V3 (Chen et al. 2017, arXiv 1706.05587, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engines.networks.layers import ConvNorm, layer3x3

REFERENCE_STRIDE = 16
"""The output stride that the rates of a `NetworkSpec` are for."""


def rates_at(output_stride: int, rates: Sequence[int], reference: int = REFERENCE_STRIDE) -> tuple[int, ...]:
    """Rates that see the same part of the picture at another output stride than `reference`: doubled at half of it."""
    return tuple(max(1, rate * reference // output_stride) for rate in rates)


class ImagePooling(nn.Module):
    """Mean of the whole map → 1×1 convolution → ReLU, to be spread over the map again.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        norm: Batch norm, as published weights have it, instead of a bias: one value per picture is
            few for batch statistics.
    """

    def __init__(self, inputs: int, outputs: int, *, norm: bool = False) -> None:
        super().__init__()
        self.conv: nn.Module = ConvNorm(inputs, outputs, activation=None) if norm else nn.Conv2d(inputs, outputs, 1)
        self.activation = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """N×`inputs`×h×w → N×`outputs`×1×1."""
        pooled: Tensor = self.activation(self.conv(features.mean((2, 3), keepdim=True)))
        return pooled


class ASPP(nn.Module):
    """1×1, 3×3 at each rate, and image pooling, concatenated and projected.

    Args:
        inputs: Channels in.
        outputs: Channels of each branch and out.
        rates: Atrous rates of the 3×3 branches.
        separable: Depthwise separable 3×3 branches (V3+, arXiv 1802.02611), or dense ones (V3).
        inner_norm: Batch norm and ReLU inside the separable ones.
        pooling_norm: Batch norm in the image pooling.
        dropout: Share of the projected features that is dropped in training.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rates: Sequence[int],
        *,
        separable: bool,
        inner_norm: bool = True,
        pooling_norm: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.point = ConvNorm(inputs, outputs)
        self.atrous = nn.ModuleList(
            layer3x3(inputs, outputs, rate=rate, separable=separable, inner_norm=inner_norm) for rate in rates
        )
        self.pooling = ImagePooling(inputs, outputs, norm=pooling_norm)
        self.project = ConvNorm(outputs * (2 + len(rates)), outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """N×`inputs`×h×w → N×`outputs`×h×w."""
        pooled = self.pooling(features)
        branches = [self.point(features), *(branch(features) for branch in self.atrous)]
        branches.append(pooled.expand(-1, -1, features.shape[2], features.shape[3]))
        projected: Tensor = self.dropout(self.project(torch.cat(branches, 1)))
        return projected
