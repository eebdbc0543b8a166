"""The networks of `benchmarks.gpu`: fresh weights, exported as any network of ours, and what they cost at the least."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True)
class Exported:
    """A network's ONNX file and what it costs; JSON can tell it.

    Attributes:
        name: of the network.
        path: of the file.
        weights: how many there are.
        flops: products and sums, each counted, of one picture of each of the network's sizes, in their order.
    """

    name: str
    path: str
    weights: int
    flops: list[float]

    @property
    def model(self) -> Model:
        """What the file says of itself."""
        return read_model(Path(self.path))

    def network(self) -> Segmenter:
        """What was exported, in eval mode, on the CPU, in float32."""
        return _made(self.name)

    def least_bytes(self, size: tuple[int, int], batch: int) -> float:
        """What must be moved for a batch at the least: weights in half precision, pictures as bytes, float scores."""
        scores = 4 * CLASSES * (size[0] // 8) * (size[1] // 8)
        return 2 * self.weights + batch * (3 * size[0] * size[1] + scores)


def export_all(folder: str) -> Iterator[dict[str, Any]]:
    """The part that exports all of `NETWORKS`; finds each as `Exported`."""
    for network in NETWORKS:
        yield asdict(export_network(network, Path(folder)))


def export_network(network: Network, folder: Path) -> Exported:
    """Write a network's file."""
    from engines.export import export
    from engines.labels import VOC
    from engines.networks.trained import TrainedNetwork

    made = _made(network.name)
    path = folder / f"{network.name}.onnx"
    trained = TrainedNetwork(made.spec, made.output_stride, VOC, 512, made.state_dict())
    export(trained, path, name=network.name)
    weights = sum(parameter.numel() for parameter in made.parameters())
    return Exported(network.name, str(path), weights, [_flops(made, size) for size in network.sizes])


def _made(name: str) -> Segmenter:
    import torch

    from engines.networks import build

    torch.manual_seed(0)
    return build(name, CLASSES).eval()


def _flops(network: Segmenter, size: tuple[int, int]) -> float:
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        copy.deepcopy(network).to("meta")(torch.empty(1, 3, *size, device="meta"))
    return float(counter.get_total_flops())
