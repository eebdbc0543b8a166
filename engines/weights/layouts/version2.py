"""Programs of DeepLab V2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from engines.networks import NetworkSpec, Segmenter
from engines.networks.deeplab_v2 import PAPER_STRIDE
from engines.networks.resnet import ResNet
from engines.networks.vgg import VGG16
from engines.weights import encoders, heads
from engines.weights.encoders import Layers
from engines.weights.layout import Layout, loadable


class Caffe(Layout):
    """The official models of V2, as `engines.weights.caffe` reads them."""

    name = "Caffe"
    bgr = True

    def recognises(self, names: Collection[str]) -> bool:
        return {"conv1.weight", "scale_conv1.weight"} <= set(names) or "conv1_1.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        encoder = network.encoder
        layers: Layers = {}
        if isinstance(encoder, ResNet):
            layers = encoders.caffe_resnet(encoder)
        elif isinstance(encoder, VGG16):
            layers = encoders.caffe_vgg()
        return layers | heads.caffe_branches(network, names)

    def in_encoder(self, name: str) -> bool:
        return not name.startswith("fc")

    def ignores(self, name: str, network: Segmenter) -> bool:
        return name.endswith(".pad")

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return {"align_corners": True}

    def contradiction(self, tensors: Mapping[str, Tensor], network: Segmenter) -> str:
        """A convolution with another rate, which has the same weights: a padding tells it."""
        if network.output_stride != PAPER_STRIDE:
            return ""  # rates of the file are for the paper's
        modules = loadable(network, "network")
        wrong = []
        for path, found in self.layers(network, tensors).items():
            conv = next(module for module in modules[path].modules() if isinstance(module, torch.nn.Conv2d))
            pad = tensors.get(f"{found.conv}.pad")
            if pad is not None and conv.kernel_size[0] > 1 and int(pad) != conv.padding[0]:
                wrong.append(f"{found.conv} is padded by {int(pad)}, not {conv.padding[0]}")
        return ", ".join(wrong)


class Kazuto(Layout):
    """github.com/kazuto1011/deeplab-pytorch: V2 on ResNet-101."""

    name = "kazuto1011"
    bgr = True

    def recognises(self, names: Collection[str]) -> bool:
        return any(name.endswith("layer1.conv1.conv.weight") for name in names)

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        # The multi-scale network keeps the other one under "base."; alone, it has no prefix.
        prefix = "base." if any(name.startswith("base.") for name in names) else ""
        layers = encoders.kazuto_resnet(network.encoder, prefix) if isinstance(network.encoder, ResNet) else {}
        return layers | heads.branches(network, prefix + "aspp.c{}")

    def in_encoder(self, name: str) -> bool:
        return name.removeprefix("base.").startswith("layer")

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return {"align_corners": False}


class Isht7(Layout):
    """github.com/isht7/pytorch-deeplab-resnet: V2 on ResNet-101."""

    name = "isht7"
    bgr = True

    def recognises(self, names: Collection[str]) -> bool:
        return "Scale.conv1.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        layers = encoders.torch_resnet(network.encoder, "Scale.") if isinstance(network.encoder, ResNet) else {}
        return layers | heads.branches(network, "Scale.layer5.conv2d_list.{}")

    def in_encoder(self, name: str) -> bool:
        return not name.startswith("Scale.layer5.")

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return {"align_corners": True}
