"""A small DeepLab V3+ with statistics of its own, and its export."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from engines import export as exporting
from engines import export_command
from engines.labels import CAMVID
from engines.networks import DeepLab, NetworkSpec, assemble
from engines.networks.trained import FORMAT, KEY, TrainedNetwork

SPEC = NetworkSpec("mobilenetv2", decoder=True, width=0.25, aspp_channels=16, decoder_channels=16)


@dataclass(frozen=True, slots=True)
class Exported:
    """A network, and the file that `python -m engines export` writes of it."""

    trained: TrainedNetwork
    file: Path

    def network(self) -> DeepLab:
        """The network that the file holds: batch norms folded, then weights rounded to half precision."""
        network = exporting.fold_batch_norm(self.trained.restore())
        exporting.round_weights(network)
        return network


def with_statistics() -> DeepLab:
    """Batch norms with statistics and shifts of their own, so that folding has something to fold."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = assemble(SPEC, len(CAMVID))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
            torch.nn.init.normal_(module.bias, std=0.1)
    network.train()(torch.randn(4, 3, 64, 64))
    return network.eval()


def export_small(folder: Path) -> Exported:
    """Write checkpoint and export into a folder."""
    trained = TrainedNetwork(SPEC, 16, CAMVID, 448, with_statistics().state_dict(), {"epochs": 3, "splits": ["train"]})
    torch.save({"format": FORMAT, KEY: trained.to_tree()}, folder / "last.pt")
    parser = argparse.ArgumentParser()
    export_command.add_arguments(parser)
    places = ["--checkpoint", str(folder / "last.pt"), "--output", str(folder / "street.onnx")]
    assert export_command.run(parser.parse_args([*places, "--licence", "research use", "--precision", "fp16"])) == 0
    assert {path.name for path in folder.iterdir()} == {"last.pt", "street.onnx"}
    return Exported(trained, folder / "street.onnx")
