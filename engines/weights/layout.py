"""What a layout of weights is: the names that another program gives to the layers of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from engines.networks import NetworkSpec, Segmenter
from engines.networks.layers import ConvNorm

Part = Literal["encoder", "network"]
"""What is loaded: the encoder alone, or everything."""

COUNTER = ".num_batches_tracked"
"""Ending of torch's counters of batches, which mean nothing for a trained network."""

IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True, slots=True)
class Names:
    """What a layer is called in a file.

    Attributes:
        conv: The convolution.
        norm: The batch norm after it, empty where there is none or where it is folded away.
        scale: What holds the norm's weight and bias, where that is a layer of its own.
    """

    conv: str
    norm: str = ""
    scale: str = ""


class Layout(ABC):
    """One program's names and conventions."""

    name: str
    """What people call it."""

    own = False
    """Its files were written here: they hold the classes that they are loaded for."""

    bgr = False
    """Its first convolution wants blue, green, red."""

    optional_bias = False
    """It leaves out biases that are zero."""

    @abstractmethod
    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file with tensors of these names is of this layout."""

    @abstractmethod
    def layers(self, network: Segmenter, names: Collection[str]) -> Mapping[str, Names]:
        """The file's name of each layer (`ConvNorm` or convolution) of a network, by its path in the network.

        What the layout has no name for is left out.
        """

    def whole(self, names: Collection[str]) -> bool:
        """Whether a file holds a network, not an encoder alone."""
        return True

    @abstractmethod
    def in_encoder(self, name: str) -> bool:
        """Whether a tensor of the file belongs to its encoder."""

    def ignores(self, name: str, network: Segmenter) -> bool:
        """Whether a tensor of the file has no meaning for a network."""
        return name.endswith(COUNTER)

    def conventions(self, spec: NetworkSpec) -> Mapping[str, Any]:
        """The fields of `Conventions` that a whole network of this layout was trained with, where they matter."""
        return {}

    def epsilon(self, path: str, network: Segmenter) -> float:
        """What the batch norm of a layer adds to the variance."""
        return 1e-5

    def adapt(self, tensors: dict[str, Tensor], network: Segmenter) -> dict[str, Tensor]:
        """The tensors with channels in the order that they have here."""
        return tensors

    def contradiction(self, tensors: Mapping[str, Tensor], network: Segmenter) -> str:
        """What the file says of itself that the network is not; empty if nothing."""
        return ""


def imagenet_picture(spec: NetworkSpec) -> dict[str, Any]:
    """Mean and deviation of an encoder that has others by default, trained with torchvision's."""
    if spec.encoder.startswith("mobilenetv2"):
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {}


def loadable(network: Segmenter, part: Part) -> dict[str, nn.Module]:
    """The layers of a network that hold weights, by path; a convolution with its norm is one."""
    layers: dict[str, nn.Module] = {}
    for path, module in network.named_modules():
        if part == "encoder" and not path.startswith("encoder."):
            continue
        parent = path.rpartition(".")[0]
        if isinstance(module, ConvNorm) or (isinstance(module, nn.Conv2d) and parent not in layers):
            layers[path] = module
    return layers
