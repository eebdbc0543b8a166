"""The few layers that every network here is made of."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional

BATCH_NORM_MOMENTUM = 0.03
"""Share of a batch in the running statistics: small, for batches of about eight pictures."""

MAX_DEALT_RATE = 4
"""Beyond this rate the dealt maps are too small to be worth their making."""


class DepthwiseConv(nn.Conv2d):
    """Depthwise convolution whose atrous form also trains fast on a CPU.

    torch has no fast gradient for a depthwise convolution with a rate on a CPU. While training,
    the map is therefore dealt out into rate² maps of every rate-th pixel, convolved at rate 1 and
    put together again: the same sums, at a third of the time.
    """

    def forward(self, features: Tensor) -> Tensor:
        rate = self.dilation[0]
        if not self.training or features.is_cuda or not 1 < rate <= MAX_DEALT_RATE:
            return super().forward(features)
        batch, channels, height, width = features.shape
        rows, columns = -(-height // rate), -(-width // rate)
        padded = functional.pad(features, (0, columns * rate - width, 0, rows * rate - height))
        dealt = padded.permute(0, 2, 3, 1).reshape(batch, rows, rate, columns, rate, channels)
        dealt = dealt.permute(0, 2, 4, 1, 3, 5).reshape(-1, rows, columns, channels)
        dense = functional.conv2d(
            dealt.permute(0, 3, 1, 2), self.weight, None, 1, self.kernel_size[0] // 2, 1, self.groups
        )
        dense = dense.permute(0, 2, 3, 1).reshape(batch, rate, rate, rows, columns, channels)
        dense = dense.permute(0, 3, 1, 4, 2, 5).reshape(batch, rows * rate, columns * rate, -1)
        return dense.permute(0, 3, 1, 2)[:, :, :height, :width]


class ConvNorm(nn.Sequential):
    """Convolution without bias → batch norm → activation; padding keeps the size at stride 1.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the square kernel, odd.
        stride: Step in pixels.
        rate: Atrous rate (dilation).
        groups: Groups of channels; equal to `inputs` for a depthwise convolution.
        activation: Module class without arguments, or None for a linear layer.
    """

    conv: nn.Conv2d
    norm: nn.Module

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        rate: int = 1,
        groups: int = 1,
        activation: type[nn.Module] | None = nn.ReLU,
    ) -> None:
        padding = rate * (kernel // 2)
        kind = DepthwiseConv if groups == inputs else nn.Conv2d
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv=kind(inputs, outputs, kernel, stride, padding, rate, groups=groups, bias=False),
            norm=nn.BatchNorm2d(outputs, momentum=BATCH_NORM_MOMENTUM),
        )
        if activation is not None:
            layers["activation"] = activation()
        super().__init__(layers)


class SeparableConv(nn.Sequential):
    """Depthwise k×k → pointwise 1×1, each with batch norm and ReLU (Chollet, arXiv 1610.02357)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, rate: int = 1) -> None:
        super().__init__(
            OrderedDict(
                depthwise=ConvNorm(inputs, inputs, kernel, rate=rate, groups=inputs),
                pointwise=ConvNorm(inputs, outputs),
            )
        )
