"""Networks as if they had been trained, and how far each of their scores sees."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from engines.base import Model
from engines.labels import VOC
from engines.model_file import read_model
from engines.networks import DeepLab, DeepLabV2, Segmenter, build
from engines.networks.trained import TrainedNetwork

NARROW = 0.125
"""Width of networks that are quick to run; their depth is the whole one."""


@torch.no_grad()
def settle(network: Segmenter, side: int = 97) -> Segmenter:
    """Give a fresh network batch norms with statistics and shifts of their own, and scores of some size."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
    mean, std = (torch.tensor(each)[:, None, None] for each in (network.encoder.mean, network.encoder.std))
    images = (torch.rand(4, 3, side, side) * 255 - mean) / std
    network.train()(images)
    network.eval()
    scores = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.out_channels == classes(network)]
    for layer in scores:
        layer.weight *= 3 / network(images).std()
    return network


def classes(network: Segmenter) -> int:
    return network.classifier().out_channels


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def receptive_field(network: Segmenter) -> tuple[int, int]:
    """Input pixels, in each direction, that the encoder's last features and the widest branch of the head see.

    Image pooling, which sees everything, is left out.
    """
    field, jump = 1, 1

    def record(module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        nonlocal field, jump
        assert isinstance(module, nn.Conv2d | nn.MaxPool2d)
        kernel, rate, stride = (
            value[0] if isinstance(value, tuple) else value
            for value in (module.kernel_size, module.dilation, module.stride)
        )
        field += (kernel - 1) * rate * jump
        jump *= stride

    layers = [
        module
        for name, module in network.encoder.named_modules()
        # A shortcut sees less than what it passes by.
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "shortcut" not in name and "squeeze" not in name
    ]
    hooks = [layer.register_forward_hook(record) for layer in layers]
    with torch.inference_mode():
        network.encoder(torch.zeros(1, 3, 65, 65))
    for hook in hooks:
        hook.remove()
    head: nn.Module = network
    if isinstance(network, DeepLab):
        head = network.aspp
    elif isinstance(network, DeepLabV2):
        head = network.branches
    widest = max(
        ((m.kernel_size[0] - 1) * m.dilation[0] for m in head.modules() if isinstance(m, nn.Conv2d)), default=0
    )
    return field, field + widest * jump


def export_network(name: str, folder: Path, *, narrow: bool, **changes: object) -> Model:
    """A network of the registry with statistics of its own, through `engines.export` (which compares it with torch)."""
    from engines import export as exporting

    torch.set_num_threads(1)
    changes = {"width": NARROW, **changes} if narrow else changes
    network = settle(build(name, len(VOC), **changes))
    trained = TrainedNetwork(network.spec, network.output_stride, VOC, 256, network.state_dict())
    path = folder / f"{name}{'-narrow' if narrow else ''}.onnx"
    exporting.export(trained, path, name=name)
    return read_model(path)
