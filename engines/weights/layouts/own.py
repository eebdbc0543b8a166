"""Files that were written here."""

from __future__ import annotations

from collections.abc import Collection

import torch

from engines.networks import Segmenter
from engines.weights.encoders import Layers
from engines.weights.layout import Layout, Names, loadable


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


def own_names(path: str, network: Segmenter) -> Names:
    """Names of a layer in our own state."""
    module = network.get_submodule(path)
    if isinstance(module, torch.nn.Conv2d):
        return Names(path)
    return Names(f"{path}.conv", f"{path}.norm")
