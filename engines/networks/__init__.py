"""Segmentation networks in torch: encoder → ASPP → (decoder) → scores."""

from engines.networks.deeplab import DeepLab
from engines.networks.encoder import Encoder, Features
from engines.networks.registry import ENCODERS, NETWORKS, NetworkSpec, assemble, build

__all__ = [
    "ENCODERS",
    "NETWORKS",
    "DeepLab",
    "Encoder",
    "Features",
    "NetworkSpec",
    "assemble",
    "build",
]
