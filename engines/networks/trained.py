"""A trained network in a file: what is needed to run or to export it, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.base import ModelError
from engines.labels import LabelSet
from engines.networks.registry import assemble
from engines.networks.segmenter import Segmenter
from engines.networks.spec import NetworkSpec

FORMAT = "deeplab-stream checkpoint 1"
KEY = "trained"
"""Where a checkpoint file keeps the trained network."""

UNFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What values of a wrong type or shape raise on their way into a network."""


@dataclass(frozen=True, slots=True)
class TrainedNetwork:
    """A network's shape, weights and meaning.

    Attributes:
        spec: shape of the network.
        output_stride: input pixels per pixel of its ASPP.
        labels: meaning of its score channels.
        size: preferred short side of the picture, in pixels.
        weights: its state, tensors by name.
        facts: anything worth knowing of how it was trained; JSON values only.
        class_weights: weight of each class in the cross-entropy that it was trained with; empty
            where all weighed the same.
    """

    spec: NetworkSpec
    output_stride: int
    labels: LabelSet
    size: int
    weights: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    class_weights: tuple[float, ...] = ()

    def restore(self) -> Segmenter:
        """The network with its weights, in eval mode, on the CPU; its scores are of the classes as they occur.

        A weighted cross-entropy is least where the scores are those of the weighted classes, so the
        logarithms of the weights are taken from them (Menon et al., arXiv 2007.07314, section 4.1).
        """
        with torch.device("meta"):  # what the file asks for takes no memory before it is known to be in it
            _demand_fit(assemble(self.spec, len(self.labels), self.output_stride).state_dict(), self.weights)
        network = assemble(self.spec, len(self.labels), self.output_stride)
        network.load_state_dict(self.weights)
        if self.class_weights:
            bias = network.classifier().bias
            assert bias is not None
            with torch.no_grad():
                bias -= torch.tensor(self.class_weights).log()
        return network.eval()

    def to_tree(self) -> dict[str, Any]:
        """Plain values and tensors, for `torch.save`."""
        return {
            "spec": asdict(self.spec),
            "output_stride": self.output_stride,
            "labels": asdict(self.labels),
            "size": self.size,
            "weights": self.weights,
            "facts": self.facts,
            "class_weights": list(self.class_weights),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> TrainedNetwork:
        """The inverse of `to_tree`."""
        labels = tree["labels"]
        if not isinstance(tree["size"], int) or not isinstance(tree["facts"], dict):
            raise TypeError("its size or its facts are of a wrong type")
        return cls(
            spec=NetworkSpec.from_tree(tree["spec"]),
            output_stride=tree["output_stride"],
            labels=LabelSet(tuple(labels["names"]), tuple(map(tuple, labels["palette"])), labels["background"]),
            size=tree["size"],
            weights=tree["weights"],
            facts=tree["facts"],
            class_weights=tuple(map(float, tree.get("class_weights", ()))),
        )


def read_tree(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint file, tensors on the CPU; no code in it is run.

    Raises:
        ModelError: there is no such file, or it is damaged or none of ours.
    """
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such checkpoint") from error
    except Exception as error:  # rubbish can lead the unpickler into any exception
        raise ModelError(f"{path}: not a readable checkpoint") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise ModelError(f"{path}: not a checkpoint of this program")
    return tree


def read_trained(path: Path) -> TrainedNetwork:
    """The trained network of a checkpoint file.

    Raises:
        ModelError: as `read_tree`, or the network in it does not fit this program.
    """
    tree = read_tree(path)
    try:
        trained = TrainedNetwork.from_tree(tree[KEY])
        trained.restore()
    except UNFIT as error:
        raise ModelError(f"{path}: its network does not fit this version: {first_line(error)}") from error
    return trained


def _demand_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """See that a state has the tensors of a network, plain ones of its shapes and kinds."""
    if wanted.keys() != given.keys():
        raise ValueError(f"{printable(min(wanted.keys() ^ given.keys(), key=str))} is missing or too much")
    for name, tensor in wanted.items():
        found = given[name]
        if kind := odd_kind(found):
            raise ValueError(f"{name} is no plain tensor ({kind})")
        if found.shape != tensor.shape or found.is_floating_point() != tensor.is_floating_point():
            raise ValueError(f"{name} is {spelled(found)} of shape {tuple(found.shape)}, not {tuple(tensor.shape)}")


def odd_kind(tensor: Tensor) -> str:
    """What keeps a tensor from being read number by number; empty if nothing."""
    if tensor.layout != torch.strided or tensor.is_nested:
        return str(tensor.layout).removeprefix("torch.")
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type}"
    return spelled(tensor) if tensor.is_quantized else ""


def spelled(tensor: Tensor) -> str:
    """The type of a tensor's numbers, for people."""
    return str(tensor.dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """What torch says in a line; it goes on with every tensor's name."""
    return printable(str(error).partition("\n")[0]) or type(error).__name__


def printable(text: str) -> str:
    """A text out of a file, for a terminal: what would move its cursor or its colours is spelled out."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
