"""MobileNetV2 as an encoder (Sandler et al. 2018, arXiv 1801.04381, table 2)."""

from __future__ import annotations

from torch import Tensor, nn

from engines.networks.encoder import Encoder, Features, trade_strides
from engines.networks.layers import ConvNorm

# Expansion, channels, repeats, stride of the first repeat.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM_CHANNELS = 32
LOW_BLOCK = 2
"""Last block at stride 4. Its wide inner features feed the decoder: the block's own output is
squeezed to 24 channels, and thin things are lost there first."""


def scaled(channels: int, width: float) -> int:
    """Channels times width, rounded to a multiple of 8 without losing more than a tenth."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


class InvertedResidual(nn.Module):
    """1×1 expansion → k×k depthwise → linear 1×1 projection, added to the input where shapes agree.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Step of the depthwise convolution.
        rate: Its atrous rate.
        kernel: Its side, odd.
        expansion: Inner channels per channel in; at 1 there is no expansion layer.
        residual: Whether the undilated block adds its input: decided by its own stride, which
            may be larger than `stride`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        rate: int,
        *,
        kernel: int = 3,
        expansion: int,
        residual: bool,
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = residual
        self.inner_channels = inner
        self.expand: nn.Module = ConvNorm(inputs, inner, activation=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(inner, inner, kernel, stride=stride, rate=rate, groups=inner, activation=nn.ReLU6)
        self.project = ConvNorm(inner, outputs, activation=None)

    def inner(self, features: Tensor) -> Tensor:
        """Features after the depthwise convolution, N×`inner_channels`×h×w."""
        inner: Tensor = self.depthwise(self.expand(features))
        return inner

    def close(self, features: Tensor, inner: Tensor) -> Tensor:
        """The block's output from its input and its inner features."""
        projected: Tensor = self.project(inner)
        return features + projected if self.residual else projected

    def forward(self, features: Tensor) -> Tensor:
        return self.close(features, self.inner(features))


class MobileNetV2(Encoder):
    """MobileNetV2 up to its last inverted residual (320 channels at width 1).

    Args:
        output_stride: Input pixels per output pixel: 8, 16 or 32.
        width: Multiplier of all channel counts.
    """

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(self, output_stride: int = 16, width: float = 1.0) -> None:
        super().__init__()
        self.output_stride = output_stride
        channels = scaled(STEM_CHANNELS, width)
        self.stem = ConvNorm(3, channels, 3, stride=2, activation=nn.ReLU6)
        strides = [
            stride if first else 1 for _, _, repeats, stride in STAGES for first in [True] + [False] * (repeats - 1)
        ]
        plan = iter(zip(strides, trade_strides(strides, output_stride, start=2), strict=True))
        blocks = []
        for expansion, base, repeats, _ in STAGES:
            outputs = scaled(base, width)
            for _ in range(repeats):
                original, (stride, rate) = next(plan)
                residual = original == 1 and channels == outputs
                blocks.append(InvertedResidual(channels, outputs, stride, rate, expansion=expansion, residual=residual))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.low_channels = blocks[LOW_BLOCK].inner_channels
        self.high_channels = channels

    def forward(self, image: Tensor) -> Features:
        features: Tensor = self.stem(image)
        low = features
        for index, block in enumerate(self.blocks):
            assert isinstance(block, InvertedResidual)
            inner = block.inner(features)
            if index == LOW_BLOCK:
                low = inner
            features = block.close(features, inner)
        return Features(low, features)
