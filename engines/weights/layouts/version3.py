"""Programs of DeepLab V3 and V3+."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from engines.networks import DeepLab, NetworkSpec, Segmenter
from engines.networks.mobilenet import LOW_BLOCK, MobileNetV2
from engines.networks.resnet import ResNet
from engines.weights import encoders, heads
from engines.weights.encoders import Layers
from engines.weights.layout import Layout, Names, imagenet_picture
from engines.weights.layouts.alone import torchvision_epsilon, turned


class Torchvision(Layout):
    """torchvision.models.segmentation: V3, with or without its auxiliary head."""

    name = "torchvision"

    def recognises(self, names: Collection[str]) -> bool:
        return "classifier.0.convs.0.0.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        encoder = network.encoder
        layers = encoders.torch_encoder(encoder, "backbone.")
        if not isinstance(encoder, ResNet):  # there the backbone is the list of features itself
            layers = {path: rename(found, "backbone.features.", "backbone.") for path, found in layers.items()}
        layers |= heads.torch_aspp(network, "classifier.0.")
        layers |= {"context.0": Names("classifier.1", "classifier.2"), "head": Names("classifier.4")}
        auxiliary = {"auxiliary.layer": Names("aux_classifier.0", "aux_classifier.1")}
        return layers | auxiliary | {"auxiliary.scores": Names("aux_classifier.4")}

    def in_encoder(self, name: str) -> bool:
        return name.startswith("backbone.")

    def ignores(self, name: str, network: Segmenter) -> bool:
        unused = name.startswith("aux_classifier.") and not network.spec.auxiliary
        return unused or super().ignores(name, network)

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        plan = "at once" if spec.encoder == "mobilenetv3-large" else "exact"
        return {"align_corners": False, "plan": plan, **imagenet_picture(spec)}

    def epsilon(self, path: str, network: Segmenter) -> float:
        return torchvision_epsilon(path, network)


class VainF(Layout):
    """github.com/VainF/DeepLabV3Plus-Pytorch: V3 and V3+ on ResNets and MobileNetV2."""

    name = "VainF"

    def recognises(self, names: Collection[str]) -> bool:
        return not {"classifier.aspp.project.0.weight", "classifier.classifier.0.project.0.weight"}.isdisjoint(names)

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        encoder = network.encoder
        layers = encoders.torch_encoder(encoder, "backbone.")
        if isinstance(encoder, MobileNetV2):
            low = LOW_BLOCK + 1  # features count the stem
            layers = encoders.torch_mobilenet_v2(
                encoder,
                lambda index: f"backbone.{'low' if index <= low else 'high'}_level_features.{index}",
                nested=True,
            )
        if network.spec.decoder:
            layers |= heads.torch_aspp(network, "classifier.aspp.")
            layers |= {
                "decoder.reduce": Names("classifier.project.0", "classifier.project.1"),
                "decoder.refine.0": Names("classifier.classifier.0", "classifier.classifier.1"),
                "head": Names("classifier.classifier.3"),
            }
        else:
            layers |= heads.torch_aspp(network, "classifier.classifier.0.")
            layers |= {
                "context.0": Names("classifier.classifier.1", "classifier.classifier.2"),
                "head": Names("classifier.classifier.4"),
            }
        return layers

    def in_encoder(self, name: str) -> bool:
        return name.startswith("backbone.")

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        mobile = spec.encoder.startswith("mobilenetv2")
        padding = {"block_padding": True, "stem_padding": False} if mobile else {}
        return {"align_corners": False, "plan": "exact", "grid": (), **padding, **imagenet_picture(spec)}

    def adapt(self, tensors: dict[str, Tensor], network: Segmenter) -> dict[str, Tensor]:
        """The decoder sees details first, then the ASPP; here the other way round."""
        name = "classifier.classifier.0.weight"
        if network.spec.decoder and name in tensors:
            tensors[name] = turned(tensors[name], network.spec.low_channels)
        return tensors


class Jfzhang95(Layout):
    """github.com/jfzhang95/pytorch-deeplab-xception: V3+ on ResNet-101 and MobileNetV2."""

    name = "jfzhang95"

    def recognises(self, names: Collection[str]) -> bool:
        return "aspp.aspp1.atrous_conv.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        encoder = network.encoder
        layers = encoders.torch_encoder(encoder, "backbone.")
        if isinstance(encoder, MobileNetV2):
            layers = encoders.torch_mobilenet_v2(encoder, lambda index: f"backbone.features.{index}", nested=False)
        points = ["aspp.point"] + [f"aspp.atrous.{i}" for i in range(len(network.spec.rates))]
        layers |= {path: Names(f"aspp.aspp{i}.atrous_conv", f"aspp.aspp{i}.bn") for i, path in enumerate(points, 1)}
        # Since dropout came into the decoder its layers are counted otherwise.
        second, scores = (4, 8) if "decoder.last_conv.8.weight" in names else (3, 6)
        return layers | {
            "aspp.pooling.conv": Names("aspp.global_avg_pool.1", "aspp.global_avg_pool.2"),
            "aspp.project": Names("aspp.conv1", "aspp.bn1"),
            "decoder.reduce": Names("decoder.conv1", "decoder.bn1"),
            "decoder.refine.0": Names("decoder.last_conv.0", "decoder.last_conv.1"),
            "decoder.refine.1": Names(f"decoder.last_conv.{second}", f"decoder.last_conv.{second + 1}"),
            "head": Names(f"decoder.last_conv.{scores}"),
        }

    def in_encoder(self, name: str) -> bool:
        return name.startswith("backbone.")

    def ignores(self, name: str, network: Segmenter) -> bool:
        """The MobileNet's layers are there twice, as features and as low- or high-level features."""
        twice = name.startswith(("backbone.low_level_features.", "backbone.high_level_features."))
        return twice or super().ignores(name, network)

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        if spec.encoder.startswith("mobilenetv2"):
            own: dict[str, Any] = {"plan": "late", "block_padding": True, "grid": ()}
        else:
            own = {"plan": "at once", "grid": (1, 2, 4)}
        return {"align_corners": True, **own, **imagenet_picture(spec)}


class Smp(Layout):
    """segmentation_models.pytorch: V3 and V3+ on ResNet-50, -101 and MobileNetV2."""

    name = "segmentation_models.pytorch"

    def recognises(self, names: Collection[str]) -> bool:
        return "segmentation_head.0.weight" in names and any("convs.0.0.weight" in name for name in names)

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        layers = encoders.torch_encoder(network.encoder, "encoder.") | {"head": Names("segmentation_head.0")}
        if not isinstance(network, DeepLab):
            return layers
        if network.decoder is None:
            # Before 0.5 the decoder was a sequence.
            aspp, conv, norm = ("decoder.0.", "decoder.1", "decoder.2")
            if "decoder.conv.weight" in names:
                aspp, conv, norm = ("decoder.aspp.", "decoder.conv", "decoder.bn")
            context = {f"context.{i}": Names(conv, norm) for i in range(len(network.context))}
            return layers | heads.torch_aspp(network, aspp) | context
        layers |= heads.torch_aspp(network, "decoder.aspp.0.")
        for layer in network.context:
            layers |= heads.layer3x3("context.0", layer, "decoder.aspp.1", "decoder.aspp.2")
        layers["decoder.reduce"] = Names("decoder.block1.0", "decoder.block1.1")
        for layer in network.decoder.refine:
            layers |= heads.layer3x3("decoder.refine.0", layer, "decoder.block2.0", "decoder.block2.1")
        return layers

    def in_encoder(self, name: str) -> bool:
        return name.startswith("encoder.")

    def ignores(self, name: str, network: Segmenter) -> bool:
        return name.startswith("classification_head.") or super().ignores(name, network)

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return {"align_corners": True, "plan": "at once", "grid": (), **imagenet_picture(spec)}


def rename(names: Names, old: str, new: str) -> Names:
    """Names with another beginning."""
    return Names(*(new + name.removeprefix(old) if name else "" for name in (names.conv, names.norm, names.scale)))
