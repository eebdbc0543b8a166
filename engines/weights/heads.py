"""What the layers of heads are called in other programs, by their paths here."""

from __future__ import annotations

import re
from collections.abc import Collection

from engines.networks import DeepLab, DeepLabV2, Segmenter
from engines.networks.layers import SeparableConv
from engines.weights.encoders import Layers
from engines.weights.layout import Names


def torch_aspp(network: Segmenter, prefix: str) -> Layers:
    """As in torchvision, and wherever its ASPP was taken from: convs.N, project."""
    if not isinstance(network, DeepLab):
        return {}
    layers = {"aspp.point": Names(f"{prefix}convs.0.0", f"{prefix}convs.0.1")}
    for index, branch in enumerate(network.aspp.atrous):
        layers |= layer3x3(
            f"aspp.atrous.{index}", branch, f"{prefix}convs.{index + 1}.0", f"{prefix}convs.{index + 1}.1"
        )
    pooling = f"{prefix}convs.{len(network.aspp.atrous) + 1}"
    layers["aspp.pooling.conv"] = Names(f"{pooling}.1", f"{pooling}.2")
    layers["aspp.project"] = Names(f"{prefix}project.0", f"{prefix}project.1")
    return layers


def layer3x3(path: str, layer: object, conv: str, norm: str) -> Layers:
    """A 3×3 layer; a separable one is a sequence of two convolutions with one norm."""
    if isinstance(layer, SeparableConv):
        return {f"{path}.depthwise": Names(f"{conv}.0"), f"{path}.pointwise": Names(f"{conv}.1", norm)}
    return {path: Names(conv, norm)}


def branches(network: Segmenter, name: str) -> Layers:
    """The branches of V2 whose 3×3 convolutions are scores; `name` has a place for the number."""
    if not isinstance(network, DeepLabV2):
        return {}
    return {f"branches.{i}.scores": Names(name.format(i)) for i in range(len(network.branches))}


def caffe_branches(network: Segmenter, names: Collection[str]) -> Layers:
    """As in Caffe's models: fc6_1, fc7_1, fc8_X_1 … of VGG, fc1_X_c0 … of ResNet; no number where there is one branch.

    X is the data set, which the file tells.
    """
    if not isinstance(network, DeepLabV2):
        return {}
    count = len(network.branches)
    kind = "fc8" if network.spec.aspp_channels else "fc1"
    found = {match[1] for name in names if (match := re.fullmatch(rf"{kind}_(.+?)(_c?\d)?\.weight", name))}
    data = min(found, default="voc12")
    layers = {}
    for index in range(count):
        if kind == "fc8":
            end = f"_{index + 1}" if count > 1 else ""
            layers[f"branches.{index}.fc6"] = Names(f"fc6{end}")
            layers[f"branches.{index}.fc7"] = Names(f"fc7{end}")
        else:
            end = f"_c{index}" if count > 1 else ""
        layers[f"branches.{index}.scores"] = Names(f"{kind}_{data}{end}")
    return layers
