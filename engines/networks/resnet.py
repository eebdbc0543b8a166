"""ResNet-50 and -101 as encoders (He et al., arXiv 1512.03385), in the two placements of the stride."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from engines.networks.encoder import Encoder, Features, trade_strides
from engines.networks.layers import ConvNorm
from engines.networks.spec import RatePlan
from engines.networks.vgg import CAFFE_MEAN, CAFFE_STD

WIDTHS = (64, 128, 256, 512)
"""Inner channels of the four stages; their outputs are four times as wide."""

EXPANSION = 4
STEM_CHANNELS = 64


class Bottleneck(nn.Module):
    """1×1 reduction → 3×3 → linear 1×1 expansion, added to the (projected) input; ReLU.

    Args:
        inputs: Channels in.
        inner: Channels of the 3×3 convolution; four times as many come out.
        stride: Step, of the 1×1 reduction with `stride_first` (Caffe), else of the 3×3 convolution.
        rate: Atrous rate of the 3×3 convolution.
        project: Whether the input is projected: in the first block of a stage.
        stride_first: Where the stride is.
    """

    def __init__(
        self, inputs: int, inner: int, stride: int, rate: int, *, project: bool, stride_first: bool = False
    ) -> None:
        super().__init__()
        outputs = inner * EXPANSION
        first, second = (stride, 1) if stride_first else (1, stride)
        self.reduce = ConvNorm(inputs, inner, stride=first)
        self.middle = ConvNorm(inner, inner, 3, stride=second, rate=rate)
        self.increase = ConvNorm(inner, outputs, activation=None)
        self.shortcut: nn.Module = (
            ConvNorm(inputs, outputs, stride=stride, activation=None) if project else nn.Identity()
        )

    def forward(self, features: Tensor) -> Tensor:
        inner: Tensor = self.increase(self.middle(self.reduce(features)))
        return functional.relu(inner + self.shortcut(features))


class ResNet(Encoder):
    """ResNet of bottlenecks up to its last block (2048 channels at width 1).

    Args:
        layers: Blocks of each stage: (3, 4, 6, 3) for ResNet-50, (3, 4, 23, 3) for ResNet-101.
        output_stride: Input pixels per output pixel: 8, 16 or 32.
        width: Multiplier of all channel counts.
        plan: Where rates begin that replace strides. With `caffe` the exact plan has the rate in the
            block that lost its stride, since the 3×3 convolution comes after the stride.
        grid: Factors of the rates of the last stage's blocks.
        caffe: The original model: stride in the 1×1 reduction, a pool that rounds up, and pictures
            of 0–255 less their mean.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        output_stride: int = 16,
        width: float = 1.0,
        *,
        plan: RatePlan = "exact",
        grid: tuple[int, ...] = (),
        caffe: bool = False,
    ) -> None:
        super().__init__()
        if grid and len(grid) != layers[-1]:
            raise ValueError(f"a grid of {len(grid)} rates for {layers[-1]} blocks")
        if caffe:
            self.mean, self.std = CAFFE_MEAN, CAFFE_STD
        self.output_stride = output_stride
        self.layers = layers
        self.pool = nn.MaxPool2d(3, 2, 1, ceil_mode=caffe)
        channels = max(1, round(STEM_CHANNELS * width))
        self.stem = ConvNorm(3, channels, 7, stride=2)
        firsts = [sum(layers[:stage]) for stage in range(len(layers))]
        strides = [2 if index in firsts[1:] else 1 for index in range(sum(layers))]
        steps = iter(trade_strides(strides, output_stride, start=4, plan="at once" if caffe else plan))
        blocks = []
        for stage, repeats in enumerate(layers):
            inner = max(1, round(WIDTHS[stage] * width))
            factors = grid if grid and stage == len(layers) - 1 else (1,) * repeats
            for index in range(repeats):
                stride, rate = next(steps)
                blocks.append(
                    Bottleneck(channels, inner, stride, rate * factors[index], project=index == 0, stride_first=caffe)
                )
                channels = inner * EXPANSION
        self.blocks = nn.ModuleList(blocks)
        self.low_channels = max(1, round(WIDTHS[0] * width)) * EXPANSION
        self.middle_channels = max(1, round(WIDTHS[2] * width)) * EXPANSION
        self.high_channels = channels

    def forward(self, image: Tensor) -> Features:
        features = self.pool(self.stem(image))
        low = middle = features
        for index, block in enumerate(self.blocks, 1):
            features = block(features)
            if index == self.layers[0]:
                low = features
            if index == sum(self.layers[:3]):
                middle = features
        return Features(low, features, middle)
