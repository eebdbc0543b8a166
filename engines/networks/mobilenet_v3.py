"""MobileNetV3-Large as an encoder (Howard et al., arXiv 1905.02244, table 1)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from engines.networks.encoder import Encoder, Features, trade_strides
from engines.networks.layers import ConvNorm
from engines.networks.mobilenet import scaled
from engines.networks.spec import RatePlan


@dataclass(frozen=True, slots=True)
class Row:
    """One block of the paper's table."""

    kernel: int
    inner: int
    outputs: int
    squeeze: bool
    hard_swish: bool
    stride: int


ROWS = (
    Row(3, 16, 16, False, False, 1),
    Row(3, 64, 24, False, False, 2),
    Row(3, 72, 24, False, False, 1),
    Row(5, 72, 40, True, False, 2),
    Row(5, 120, 40, True, False, 1),
    Row(5, 120, 40, True, False, 1),
    Row(3, 240, 80, False, True, 2),
    Row(3, 200, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 184, 80, False, True, 1),
    Row(3, 480, 112, True, True, 1),
    Row(3, 672, 112, True, True, 1),
    Row(5, 672, 160, True, True, 2),
    Row(5, 960, 160, True, True, 1),
    Row(5, 960, 160, True, True, 1),
)
STEM_CHANNELS = 16
LOW_BLOCK = 2
"""Last block at stride 4: the decoder sees its output."""

MIDDLE_BLOCK = 3
"""First block at stride 8: an auxiliary head sees its output."""

LAST_EXPANSION = 6
"""Channels of the last 1×1 convolution per channel of the last block."""


class SqueezeExcitation(nn.Module):
    """Channels weighed by what is in the whole picture (Hu et al., arXiv 1709.01507), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = scaled(channels // 4, 1.0)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.increase = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        weights = self.increase(functional.relu(self.reduce(features.mean((2, 3), keepdim=True))))
        # Written out: exporters know every part of it, and not all know the hard sigmoid.
        return features * (torch.clamp(weights + 3, 0, 6) / 6)


class InvertedBlock(nn.Module):
    """1×1 expansion → k×k depthwise → squeeze and excitation → linear 1×1 projection (+ input)."""

    def __init__(self, row: Row, width: float, inputs: int, stride: int, rate: int) -> None:
        super().__init__()
        inner, outputs = scaled(row.inner, width), scaled(row.outputs, width)
        kind = nn.Hardswish if row.hard_swish else nn.ReLU
        self.residual = row.stride == 1 and inputs == outputs
        self.expand: nn.Module = ConvNorm(inputs, inner, activation=kind) if inner != inputs else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, row.kernel, stride=stride, rate=rate, groups=inner, activation=kind)
        self.squeeze: nn.Module = SqueezeExcitation(inner) if row.squeeze else nn.Identity()
        self.project = ConvNorm(inner, outputs, activation=None)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.project(self.squeeze(self.depthwise(self.expand(features))))
        return features + projected if self.residual else projected


class MobileNetV3Large(Encoder):
    """MobileNetV3-Large up to its last 1×1 convolution (960 channels at width 1).

    Args:
        output_stride: Input pixels per output pixel: 8, 16 or 32.
        width: Multiplier of all channel counts.
        plan: Where rates begin that replace strides; published weights want ``"at once"``.
    """

    def __init__(self, output_stride: int = 16, width: float = 1.0, *, plan: RatePlan = "exact") -> None:
        super().__init__()
        self.output_stride = output_stride
        channels = scaled(STEM_CHANNELS, width)
        self.stem = ConvNorm(3, channels, 3, stride=2, activation=nn.Hardswish)
        blocks = []
        steps = trade_strides([row.stride for row in ROWS], output_stride, start=2, plan=plan)
        for row, (stride, rate) in zip(ROWS, steps, strict=True):
            blocks.append(InvertedBlock(row, width, channels, stride, rate))
            channels = scaled(row.outputs, width)
        self.blocks = nn.ModuleList(blocks)
        self.last = ConvNorm(channels, channels * LAST_EXPANSION, activation=nn.Hardswish)
        self.low_channels = scaled(ROWS[LOW_BLOCK].outputs, width)
        self.middle_channels = scaled(ROWS[MIDDLE_BLOCK].outputs, width)
        self.high_channels = channels * LAST_EXPANSION

    def forward(self, image: Tensor) -> Features:
        features: Tensor = self.stem(image)
        low = middle = features
        for index, block in enumerate(self.blocks):
            features = block(features)
            if index == LOW_BLOCK:
                low = features
            if index == MIDDLE_BLOCK:
                middle = features
        return Features(low, self.last(features), middle)
