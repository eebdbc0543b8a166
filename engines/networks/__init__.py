"""Segmentation networks in torch: encoder → ASPP → (decoder) → scores."""

from engines.networks.deeplab import DeepLab
from engines.networks.deeplab_v2 import DeepLabV2
from engines.networks.encoder import Encoder, Features
from engines.networks.registry import ENCODERS, NETWORKS, assemble, build, spec_of
from engines.networks.segmenter import Segmenter
from engines.networks.spec import Conventions, NetworkSpec

__all__ = [
    "ENCODERS",
    "NETWORKS",
    "Conventions",
    "DeepLab",
    "DeepLabV2",
    "Encoder",
    "Features",
    "NetworkSpec",
    "Segmenter",
    "assemble",
    "build",
    "spec_of",
]
