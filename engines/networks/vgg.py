"""VGG-16 as DeepLab's first encoder (arXiv 1606.00915, section 4.1; Simonyan and Zisserman, arXiv 1409.1556)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from engines.networks.encoder import Encoder, Features, trade_strides

STAGES = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
"""Convolutions and channels of each stage; a pool follows each."""

LOW_STAGE = 2
"""The stage whose output has stride 4."""

CAFFE_MEAN = (122.675, 116.669, 104.008)
CAFFE_STD = (1.0, 1.0, 1.0)


class VGG16(Encoder):
    """VGG-16 up to pool5, with 3×3 pools.

    The pools beyond the output stride keep stride 1, and the convolutions after them take the rate;
    the pools themselves have none, as in the paper's models.

    Args:
        output_stride: Input pixels per output pixel: 8, 16 or 32.
        width: Multiplier of all channel counts.
    """

    mean = CAFFE_MEAN
    std = CAFFE_STD

    def __init__(self, output_stride: int = 8, width: float = 1.0) -> None:
        super().__init__()
        self.output_stride = output_stride
        steps = trade_strides([2] * len(STAGES), output_stride)
        self.pools = nn.ModuleList(nn.MaxPool2d(3, stride, 1, ceil_mode=True) for stride, _ in steps)
        layers: list[nn.Conv2d] = []
        channels = 3
        for (repeats, base), (_, rate) in zip(STAGES, steps, strict=True):
            for _ in range(repeats):
                outputs = max(1, round(base * width))
                layers.append(nn.Conv2d(channels, outputs, 3, padding=rate, dilation=rate))
                channels = outputs
        self.stem = layers[0]
        self.blocks = nn.ModuleList(layers[1:])
        self.low_channels = max(1, round(STAGES[LOW_STAGE][1] * width))
        self.high_channels = channels

    def forward(self, image: Tensor) -> Features:
        layers = iter((self.stem, *self.blocks))
        features = low = image
        for stage, ((repeats, _), pool) in enumerate(zip(STAGES, self.pools, strict=True)):
            for _ in range(repeats):
                features = functional.relu(next(layers)(features))
            if stage == LOW_STAGE:
                low = features
            features = pool(features)
        return Features(low, features)
