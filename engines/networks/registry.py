"""Networks by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from engines.networks.aspp import rates_at
from engines.networks.deeplab import DeepLab
from engines.networks.deeplab_v2 import PAPER_STRIDE, DeepLabV2
from engines.networks.efficientnet import EfficientNetLite
from engines.networks.encoder import Encoder
from engines.networks.mobilenet import MobileNetV2
from engines.networks.mobilenet_v3 import MobileNetV3Large
from engines.networks.resnet import ResNet
from engines.networks.segmenter import Segmenter
from engines.networks.spec import Conventions, NetworkSpec
from engines.networks.vgg import VGG16

RESNET50, RESNET101 = (3, 4, 6, 3), (3, 4, 23, 3)

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "mobilenetv2": MobileNetV2,
    "mobilenetv2-1280": partial(MobileNetV2, last_channels=1280),
    "mobilenetv2-unrounded": partial(MobileNetV2, divisor=1),
    "mobilenetv3-large": MobileNetV3Large,
    "efficientnet-lite0": EfficientNetLite,
    "efficientnet-lite2": partial(EfficientNetLite, depth=1.2),
    "resnet50": partial(ResNet, RESNET50),
    "resnet101": partial(ResNet, RESNET101),
    "resnet101-caffe": partial(ResNet, RESNET101, caffe=True),
    "vgg16": VGG16,
}
"""Encoders by name; each takes `output_stride`, `width` and those `Conventions` that concern it."""

CORNERS = Conventions(align_corners=True)
VGG_V2 = NetworkSpec("vgg16", decoder=False, version=2, aspp_channels=1024, rates=(12,), conventions=CORNERS)
RESNET_V2 = replace(VGG_V2, encoder="resnet101-caffe", aspp_channels=0)
RESNET_V3 = NetworkSpec(
    "resnet50", decoder=False, context_layers=1, separable=False, pooling_norm=True, low_inner=False
)
RESNET_V3_PLUS = replace(RESNET_V3, decoder=True, context_layers=0)
SMALL_V3_PLUS = NetworkSpec("mobilenetv2", decoder=True, aspp_channels=128, decoder_channels=128)

NETWORKS: dict[str, NetworkSpec] = {
    "deeplabv2-vgg16-largefov": VGG_V2,
    "deeplabv2-vgg16-aspp-s": replace(VGG_V2, rates=(2, 4, 8, 12)),
    "deeplabv2-vgg16-aspp-l": replace(VGG_V2, rates=(6, 12, 18, 24)),
    "deeplabv2-resnet101-largefov": RESNET_V2,
    "deeplabv2-resnet101-aspp": replace(RESNET_V2, rates=(6, 12, 18, 24)),
    "deeplabv3-resnet50": RESNET_V3,
    "deeplabv3-resnet101": replace(RESNET_V3, encoder="resnet101"),
    "deeplabv3-mobilenetv2": NetworkSpec("mobilenetv2", decoder=False),
    "deeplabv3-mobilenetv2-pooled": NetworkSpec("mobilenetv2", decoder=False, rates=(), conventions=CORNERS),
    "deeplabv3-mobilenetv3-large": replace(
        RESNET_V3, encoder="mobilenetv3-large", rates=(12, 24, 36), conventions=Conventions(plan="at once")
    ),
    "deeplabv3plus-resnet50": RESNET_V3_PLUS,
    "deeplabv3plus-resnet101": replace(RESNET_V3_PLUS, encoder="resnet101"),
    "deeplabv3plus-mobilenetv2": SMALL_V3_PLUS,
    "deeplabv3plus-mobilenetv3-large": replace(SMALL_V3_PLUS, encoder="mobilenetv3-large", low_inner=False),
    "deeplabv3plus-efficientnet-lite0": replace(SMALL_V3_PLUS, encoder="efficientnet-lite0"),
    "deeplabv3plus-efficientnet-lite2": replace(SMALL_V3_PLUS, encoder="efficientnet-lite2", width=1.1),
}
"""Networks by name; docs/networks.md has their tables."""

ENCODER_CONVENTIONS = ("plan", "grid", "block_padding", "stem_padding")
"""Fields of `Conventions` that an encoder may take."""


def build(name: str, classes: int, output_stride: int | None = None, **changes: object) -> Segmenter:
    """A network with fresh weights.

    Args:
        name: Key of `NETWORKS`.
        classes: Number of score channels.
        output_stride: 8, 16 or 32; the ASPP's atrous rates follow it. None for the paper's: 8 in version 2, else 16.
        **changes: Fields of `NetworkSpec` to change.

    Raises:
        ValueError: If there is no such network, field, encoder or output stride.
    """
    return assemble(spec_of(name, **changes), classes, output_stride)


def spec_of(name: str, **changes: object) -> NetworkSpec:
    """What a network is made from, with some fields changed; see `build`."""
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}")
    unknown = set(changes) - set(NetworkSpec.__dataclass_fields__)
    if unknown:
        raise ValueError(f"a network has no option {', '.join(sorted(unknown))}")
    return replace(NETWORKS[name], **changes)  # type: ignore[arg-type]


def assemble(spec: NetworkSpec, classes: int, output_stride: int | None = None) -> Segmenter:
    """A network of a spec, with fresh weights; see `build`."""
    if output_stride is None:
        output_stride = PAPER_STRIDE if spec.version == 2 else 16
    encoder = _encoder(spec, output_stride)
    network: Segmenter
    if spec.version == 2:
        network = DeepLabV2(spec, encoder, classes, rates_at(output_stride, spec.rates, PAPER_STRIDE))
    else:
        network = DeepLab(spec, encoder, classes)
    _initialise(network)
    return network


def _encoder(spec: NetworkSpec, output_stride: int) -> Encoder:
    if spec.encoder not in ENCODERS:
        raise ValueError(f"no encoder {spec.encoder!r}; there are {', '.join(ENCODERS)}")
    plain, wanted = Conventions(), spec.conventions
    options = {
        name: getattr(wanted, name) for name in ENCODER_CONVENTIONS if getattr(wanted, name) != getattr(plain, name)
    }
    if spec.encoder.startswith("mobilenetv2"):
        options["inner"] = spec.low_inner
    try:
        encoder = ENCODERS[spec.encoder](output_stride=output_stride, width=spec.width, **options)
    except TypeError as error:
        raise ValueError(f"encoder {spec.encoder} has no {' or '.join(options)}") from error
    encoder.mean, encoder.std = wanted.mean or encoder.mean, wanted.std or encoder.std
    return encoder


def _initialise(network: Segmenter) -> None:
    """He initialisation (arXiv 1502.01852); nearly equal scores for all classes at first."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2.0 * module.groups / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    scores = [network.classifier()]
    if isinstance(network, DeepLabV2):
        scores = [branch.get_submodule("scores") for branch in network.branches]  # type: ignore[misc]
    for layer in scores:
        nn.init.normal_(layer.weight, std=0.01)
