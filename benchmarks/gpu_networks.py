"""The networks of `benchmarks.gpu`: fresh weights, exported as any network of ours, and what they cost at the least."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import Model
from engines.model_file import read_model

if TYPE_CHECKING:
    from engines.networks import Segmenter

CLASSES = 21


@dataclass(frozen=True, slots=True)
class Network:
    """A network and the (height, width) of the inputs that it is measured at."""

    name: str
    sizes: tuple[tuple[int, int], ...]


NETWORKS = (
    Network("deeplabv2-resnet101-aspp", ((513, 513), (321, 321))),
    Network("deeplabv3-resnet101", ((513, 513),)),
    Network("deeplabv3plus-mobilenetv2", ((513, 513), (512, 1024))),
)


@dataclass(frozen=True)
class Exported:
    """A network as torch has it and as a file.

    Attributes:
        network: in eval mode, on the CPU, in float32.
        model: its ONNX file.
    """

    network: Segmenter
    model: Model

    def flops(self, size: tuple[int, int]) -> float:
        """Products and sums of one picture of (height, width), each counted."""
        return _flops(self.network, size)

    def least_bytes(self, size: tuple[int, int], batch: int) -> float:
        """What must be moved for a batch at the least: weights in half precision, pictures as bytes, float scores."""
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        scores = 4 * CLASSES * (size[0] // 8) * (size[1] // 8)
        return 2 * weights + batch * (3 * size[0] * size[1] + scores)


@cache
def _flops(network: Segmenter, size: tuple[int, int]) -> float:
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(network).to("meta")(torch.empty(1, 3, *size, device="meta"))
    return float(counter.get_total_flops())


def export_network(network: Network, folder: Path) -> Exported:
    """Make a network and its file."""
    import torch

    from engines.export import export
    from engines.labels import VOC
    from engines.networks import build
    from engines.networks.trained import TrainedNetwork

    torch.manual_seed(0)
    made = build(network.name, CLASSES).eval()
    path = folder / f"{network.name}.onnx"
    trained = TrainedNetwork(made.spec, made.output_stride, VOC, 512, made.state_dict())
    export(trained, path, name=network.name)
    return Exported(made, read_model(path))
