"""EfficientNet-lite as an encoder: MobileNetV2's blocks, scaled by search (Tan and Le 2019, arXiv 1905.11946).

The lite variants leave out squeeze-and-excitation and put ReLU6 for swish, so that they quantise and
run well on CPUs; stem and last stage are not deepened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from engines.networks.encoder import Encoder, Features, trade_strides
from engines.networks.layers import ConvNorm
from engines.networks.mobilenet import InvertedResidual, run_blocks, scaled


@dataclass(frozen=True, slots=True)
class Stage:
    """Blocks of one width."""

    repeats: int
    kernel: int
    stride: int
    """Of the first block; the others keep the size."""

    expansion: int
    outputs: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM_CHANNELS = 32
LOW_STAGE = 1
"""The stage at stride 4; the wide inner features of its last block feed the decoder."""


class EfficientNetLite(Encoder):
    """EfficientNet-lite up to its last inverted residual (320 channels at width 1).

    Args:
        output_stride: Input pixels per output pixel: 8, 16 or 32.
        width: Multiplier of the blocks' channels: 1 for lite0 and lite1, 1.1 for lite2, 1.2 for lite3.
        depth: Multiplier of the repeats between first and last stage: 1, 1.1, 1.2, 1.4.
    """

    mean = (127.0, 127.0, 127.0)
    std = (128.0, 128.0, 128.0)

    def __init__(self, output_stride: int = 16, width: float = 1.0, depth: float = 1.0) -> None:
        super().__init__()
        self.output_stride = output_stride
        layout: list[tuple[Stage, int]] = []
        for index, stage in enumerate(STAGES):
            ends = index in {0, len(STAGES) - 1}
            repeats = stage.repeats if ends else math.ceil(depth * stage.repeats)
            layout += [(stage, stage.stride)] + [(stage, 1)] * (repeats - 1)
        self.low_block = max(index for index, (stage, _) in enumerate(layout) if stage is STAGES[LOW_STAGE])
        channels = STEM_CHANNELS
        self.stem = ConvNorm(3, channels, 3, stride=2, activation=nn.ReLU6)
        plan = trade_strides([stride for _, stride in layout], output_stride, start=2)
        blocks = []
        for (stage, original), (stride, rate) in zip(layout, plan, strict=True):
            outputs = scaled(stage.outputs, width)
            blocks.append(
                InvertedResidual(
                    channels,
                    outputs,
                    stride,
                    rate,
                    kernel=stage.kernel,
                    expansion=stage.expansion,
                    residual=original == 1 and channels == outputs,
                )
            )
            channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.low_channels = blocks[self.low_block].inner_channels
        self.high_channels = channels

    def forward(self, image: Tensor) -> Features:
        inner, _, high = run_blocks(self.blocks, self.stem(image), self.low_block)
        return Features(inner, high)
