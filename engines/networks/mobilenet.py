"""MobileNetV2 as an encoder (Sandler et al. 2018, arXiv 1801.04381, table 2)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional

from engines.networks.encoder import Encoder, Features, StrideRate, trade_strides
from engines.networks.layers import ConvNorm
from engines.networks.spec import RatePlan

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


def scaled(channels: int, width: float, divisor: int = 8) -> int:
    """Channels times width, rounded to a multiple of a divisor without losing more than a tenth."""
    rounded = max(divisor, int(channels * width + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels * width else rounded


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
        pad_input: Pad before the expansion instead of before the depthwise convolution.
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
        pad_input: bool = False,
    ) -> None:
        super().__init__()
        inner = inputs * expansion
        self.residual = residual
        self.inner_channels = inner
        self.padding = rate * (kernel // 2) if pad_input else 0
        self.expand: nn.Module = ConvNorm(inputs, inner, activation=nn.ReLU6) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(
            inner,
            inner,
            kernel,
            stride=stride,
            rate=rate,
            groups=inner,
            padded=not pad_input,
            activation=nn.ReLU6,
        )
        self.project = ConvNorm(inner, outputs, activation=None)

    def inner(self, features: Tensor) -> Tensor:
        """Features after the depthwise convolution, N×`inner_channels`×h×w."""
        if self.padding:
            features = functional.pad(features, (self.padding,) * 4)
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
        inner: Low-level features are the wide inner ones of their block, or else its output.
        last_channels: Channels of a last 1×1 convolution; 0 leaves it out.
        divisor: Channels are multiples of it; 1 in Google's DeepLabs of other widths than 1.
        plan: Where rates begin that replace strides; ``"late"`` keeps a whole stage at the old rate.
        block_padding: Blocks pad their input instead of their inner features.
        stem_padding: The first convolution is padded.
    """

    mean = (127.5, 127.5, 127.5)
    std = (127.5, 127.5, 127.5)

    def __init__(
        self,
        output_stride: int = 16,
        width: float = 1.0,
        *,
        inner: bool = True,
        last_channels: int = 0,
        divisor: int = 8,
        plan: RatePlan = "exact",
        block_padding: bool = False,
        stem_padding: bool = True,
    ) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.low_inner = inner
        channels = scaled(STEM_CHANNELS, width, divisor)
        self.stem = ConvNorm(3, channels, 3, stride=2, padded=stem_padding, activation=nn.ReLU6)
        steps = plan_steps(output_stride, plan)
        blocks = []
        for expansion, base, repeats, first in STAGES:
            outputs = scaled(base, width, divisor)
            for index in range(repeats):
                stride, rate = next(steps)
                blocks.append(
                    InvertedResidual(
                        channels,
                        outputs,
                        stride,
                        rate,
                        expansion=expansion,
                        residual=(first == 1 or index > 0) and channels == outputs,
                        pad_input=block_padding,
                    )
                )
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.last: nn.Module = nn.Identity()
        self.low_channels = blocks[LOW_BLOCK].inner_channels if inner else scaled(STAGES[1][1], width, divisor)
        self.high_channels = channels
        if last_channels:
            self.high_channels = scaled(last_channels, max(1.0, width))
            self.last = ConvNorm(channels, self.high_channels, activation=nn.ReLU6)

    def forward(self, image: Tensor) -> Features:
        inner, low, high = run_blocks(self.blocks, self.stem(image), LOW_BLOCK)
        return Features(inner if self.low_inner else low, self.last(high))


def run_blocks(blocks: nn.ModuleList, features: Tensor, low_block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inner features and output of the block of a number, and the output of the last block."""
    inner = low = features
    for index, block in enumerate(blocks):
        assert isinstance(block, InvertedResidual)
        wide = block.inner(features)
        features = block.close(features, wide)
        if index == low_block:
            inner, low = wide, features
    return inner, low, features


def plan_steps(output_stride: int, plan: RatePlan) -> Iterator[StrideRate]:
    """Stride and rate of each block."""
    if plan == "late":
        stages = trade_strides([stride for *_, stride in STAGES], output_stride, start=2)
        for (_, _, repeats, _), (stride, rate) in zip(STAGES, stages, strict=True):
            yield StrideRate(stride, rate)
            yield from [StrideRate(1, rate)] * (repeats - 1)
        return
    strides = [stride if first else 1 for _, _, repeats, stride in STAGES for first in [True] + [False] * (repeats - 1)]
    yield from trade_strides(strides, output_stride, start=2, plan=plan)
