"""Encoders with the heads of ImageNet: last features at stride 32, and the weights under the programs' names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engines.peers.parts import MobileNetV2, ResNet, Weights, plain_names, stages
from tests.engines.peers.published import NARROW, RESNET50, mobilenet_v3

# Repeats, kernel, stride, expansion, channels: EfficientNet-B0 (arXiv 1905.11946, table 1).
LITE0 = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
STRIDE32 = ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1))


def efficientnet_lite0(w: Weights, x: Tensor) -> Tensor:
    x = F.relu6(w.norm(w.conv(x, "_conv_stem", 32, 3, 2), "_bn0", 1e-3))
    number = 0
    for repeats, kernel, stride, expansion, outputs in LITE0:
        for repeat in range(repeats):
            here, y = f"_blocks.{number}.", x
            if expansion > 1:
                y = F.relu6(w.norm(w.conv(y, here + "_expand_conv", 6 * x.shape[1]), here + "_bn0", 1e-3))
            step = 1 if repeat else stride
            y = w.conv(y, here + "_depthwise_conv", y.shape[1], kernel, step, groups=y.shape[1])
            y = F.relu6(w.norm(y, here + "_bn1", 1e-3))
            y = w.norm(w.conv(y, here + "_project_conv", outputs), here + "_bn2", 1e-3)
            x = x + y if repeat else y
            number += 1
    head = w.norm(w.conv(x, "_conv_head", 1280), "_bn1", 1e-3)
    w.get("_fc.weight", lambda: torch.zeros(1000, head.shape[1]))
    w.get("_fc.bias", lambda: torch.zeros(1000))
    return x


def resnet50(w: Weights, x: Tensor) -> Tensor:
    _, _, high = ResNet(w, plain_names(""), stages(RESNET50, (1, 2, 2, 2), (1, 1, 1, 1)), NARROW)(x)
    w.get("fc.weight", lambda: torch.zeros(1000, high.shape[1]))
    w.get("fc.bias", lambda: torch.zeros(1000))
    return high


def mobilenet_v2(w: Weights, x: Tensor) -> Tensor:
    _, high = MobileNetV2(w, "features.{}".format, STRIDE32)(x)
    w.norm(w.conv(high, "features.18.0", 1280), "features.18.1")
    w.get("classifier.1.weight", lambda: torch.zeros(1000, 1280))
    w.get("classifier.1.bias", lambda: torch.zeros(1000))
    return high


def mobilenet_v3_large(w: Weights, x: Tensor) -> Tensor:
    high, _ = mobilenet_v3(w, x, "features.", strided=True)
    w.get("classifier.0.weight", lambda: torch.zeros(1280, 960))
    w.get("classifier.3.bias", lambda: torch.zeros(1000))
    return high
