"""Networks by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from engines.networks.aspp import ASPP, RATES, rates_at
from engines.networks.deeplab import LOW_STRIDE, Decoder, DeepLab
from engines.networks.efficientnet import EfficientNetLite
from engines.networks.encoder import Encoder
from engines.networks.mobilenet import MobileNetV2

ENCODERS: dict[str, Callable[..., Encoder]] = {
    "mobilenetv2": MobileNetV2,
    "efficientnet-lite0": EfficientNetLite,
    "efficientnet-lite2": partial(EfficientNetLite, depth=1.2),
}
"""Encoders by name; each takes `output_stride` and `width`."""


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that decides a network's shape but its classes and output stride."""

    encoder: str
    """Key of `ENCODERS`."""

    decoder: bool
    """V3+ (scores at stride 4) or V3 (scores at the output stride)."""

    width: float = 1.0
    """Multiplier of the encoder's channels."""

    aspp_channels: int = 256
    rates: tuple[int, ...] = RATES
    """Atrous rates at output stride 16."""

    separable: bool = True
    """Separable 3×3 convolutions in the ASPP."""

    low_channels: int = 48
    """Low-level features after their reduction, V3+ only."""

    decoder_channels: int = 256


NETWORKS: dict[str, NetworkSpec] = {
    "deeplabv3-mobilenetv2": NetworkSpec("mobilenetv2", decoder=False),
    "deeplabv3plus-mobilenetv2": NetworkSpec("mobilenetv2", decoder=True, aspp_channels=128, decoder_channels=128),
    "deeplabv3plus-efficientnet-lite0": NetworkSpec(
        "efficientnet-lite0", decoder=True, aspp_channels=128, decoder_channels=128
    ),
    "deeplabv3plus-efficientnet-lite2": NetworkSpec(
        "efficientnet-lite2", decoder=True, width=1.1, aspp_channels=128, decoder_channels=128
    ),
}
"""Networks by name."""


def build(name: str, classes: int, output_stride: int = 16, **changes: object) -> DeepLab:
    """A network with fresh weights.

    Args:
        name: Key of `NETWORKS`.
        classes: Number of score channels.
        output_stride: 8, 16 or 32; the ASPP's atrous rates follow it.
        **changes: Fields of `NetworkSpec` to change.

    Raises:
        ValueError: If there is no such network, field, encoder or output stride.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}")
    unknown = set(changes) - set(NetworkSpec.__dataclass_fields__)
    if unknown:
        raise ValueError(f"a network has no option {', '.join(sorted(unknown))}")
    return assemble(replace(NETWORKS[name], **changes), classes, output_stride)  # type: ignore[arg-type]


def assemble(spec: NetworkSpec, classes: int, output_stride: int = 16) -> DeepLab:
    """A network of a spec, with fresh weights; see `build`."""
    if spec.encoder not in ENCODERS:
        raise ValueError(f"no encoder {spec.encoder!r}; there are {', '.join(ENCODERS)}")
    encoder = ENCODERS[spec.encoder](output_stride=output_stride, width=spec.width)
    aspp = ASPP(
        encoder.high_channels,
        spec.aspp_channels,
        rates_at(output_stride, spec.rates),
        separable=spec.separable,
    )
    decoder = None
    features = spec.aspp_channels
    if spec.decoder:
        decoder = Decoder(
            spec.aspp_channels,
            encoder.low_channels,
            spec.low_channels,
            spec.decoder_channels,
            output_stride // LOW_STRIDE,
        )
        features = spec.decoder_channels
    network = DeepLab(encoder, aspp, decoder, nn.Conv2d(features, classes, 1))
    _initialise(network)
    return network


def _initialise(network: DeepLab) -> None:
    """He initialisation (arXiv 1502.01852); nearly equal scores for all classes at first."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2.0 * module.groups / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(network.head.weight, std=0.01)
