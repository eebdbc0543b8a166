"""What a DeepLab head asks of an encoder, and how strides become atrous rates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from engines.networks.spec import RatePlan

OUTPUT_STRIDES = (8, 16, 32)


class Features(NamedTuple):
    """What an encoder makes of a picture N×3×H×W."""

    low: Tensor
    """N×`low_channels`×⌈H/4⌉×⌈W/4⌉: fine detail, for the decoder of V3+."""

    high: Tensor
    """N×`high_channels`×⌈H/S⌉×⌈W/S⌉ with S the output stride: meaning, for the ASPP."""

    middle: Tensor | None = None
    """N×`middle_channels`×h×w, in between, for an auxiliary head; None where there is none."""


class Encoder(nn.Module, ABC):
    """A backbone without its classifier: the contract between backbones and heads.

    A subclass sets the attributes and returns `Features` from `forward`. Its input is
    N×3×H×W float, normalised as `mean` and `std` say (in units of 0–255 RGB).
    """

    low_channels: int
    middle_channels: int = 0
    high_channels: int
    output_stride: int
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    @abstractmethod
    def forward(self, image: Tensor) -> Features:
        """Features of normalised pictures."""


class StrideRate(NamedTuple):
    """Stride and atrous rate of one layer."""

    stride: int
    rate: int


def trade_strides(
    strides: Sequence[int], output_stride: int, start: int = 1, plan: RatePlan = "exact"
) -> list[StrideRate]:
    """Replace the strides beyond `output_stride` by atrous rates.

    Once the wanted output stride is reached, a layer that would stride keeps stride 1 and the old
    rate, and the layers after it see their input `stride` times denser, so their rate grows by
    that factor (Chen et al. 2017, arXiv 1606.00915, section 3.1). Subsampled to the old grid the
    network computes the same values as before.

    Args:
        strides: Stride of each layer of the undilated network, in order.
        output_stride: Input pixels per output pixel that are wanted: 8, 16 or 32.
        start: Stride of the layers in front of these.
        plan: ``"exact"`` as above; ``"at once"`` gives the layer that would stride the new rate already,
            which is exact where its stride came before its 3×3 convolution, and else the way of
            several published networks. (``"late"`` is a matter of whole stages: `MobileNetV2`.)

    Raises:
        ValueError: If `output_stride` is none of `OUTPUT_STRIDES`.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output stride {output_stride} is none of {OUTPUT_STRIDES}")
    steps = []
    reached, rate = start, 1
    for stride in strides:
        if reached * stride <= output_stride:
            steps.append(StrideRate(stride, rate))
            reached *= stride
        else:
            steps.append(StrideRate(1, rate * stride if plan == "at once" else rate))
            rate *= stride
    return steps
