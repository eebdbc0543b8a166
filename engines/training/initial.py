"""Starting weights with batch norm folded away: of a published encoder, or of an exported network."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engines.base import ModelError
from engines.networks import DeepLab
from engines.networks.layers import ConvNorm
from engines.networks.mobilenet import InvertedResidual, MobileNetV2

EXPORTED = "network."
"""What the names of a network's weights begin with in its export."""


def load_encoder(network: DeepLab, path: Path) -> None:
    """Put folded weights into the encoder; each batch norm becomes its layer's bias.

    Args:
        network: A network on MobileNetV2.
        path: NPZ file with `Conv.{weight,bias}` and
            `expanded_conv[_N]/{expand,depthwise,project}.{weight,bias}` in PyTorch's layout.

    Raises:
        ModelError: If the file is missing, damaged or of another network.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: not an NPZ file of weights") from error
    if not isinstance(network.encoder, MobileNetV2):
        raise ModelError(f"{path}: weights of MobileNetV2, but the encoder is another")
    for name, layer in named_layers(network.encoder):
        weight, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        norm = layer.norm
        assert isinstance(norm, nn.BatchNorm2d)
        if weight is None or bias is None or weight.shape != layer.conv.weight.shape:
            raise ModelError(f"{path}: no weights of a fitting shape for {name}")
        with torch.no_grad():
            layer.conv.weight.copy_(weight)
            reset_norm(norm)
            norm.bias.copy_(bias)


def load_exported(network: DeepLab, path: Path) -> None:
    """Put the weights of an export of this very network into it; each batch norm becomes its layer's bias.

    Args:
        network: A network of the shape that was exported.
        path: ONNX file as `engines.export` writes it.

    Raises:
        ModelError: If the file is missing, damaged or of another network.
    """
    import onnx
    from google.protobuf import message
    from onnx import numpy_helper

    try:
        graph = onnx.load(path).graph
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, message.DecodeError) as error:
        raise ModelError(f"{path}: not a readable ONNX file") from error
    tensors = {
        each.name.removeprefix(EXPORTED): torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in graph.initializer
        if each.name.startswith(EXPORTED)
    }
    for name, module in network.named_modules():
        if isinstance(module, ConvNorm):
            reset_norm(module.get_submodule("norm"))
            if f"{name}.conv.bias" in tensors:
                tensors[f"{name}.norm.bias"] = tensors.pop(f"{name}.conv.bias")
    for name, target in network.named_parameters():
        if name.endswith(".norm.weight"):
            continue
        # The exporter leaves out a bias of zeros.
        missing = torch.zeros_like(target) if name.endswith(".bias") else torch.empty(0)
        source = tensors.get(name, missing)
        if source.shape != target.shape:
            raise ModelError(f"{path}: no weights of a fitting shape for {name}")
        with torch.no_grad():
            target.copy_(source)


@torch.no_grad()
def reset_norm(norm: nn.Module) -> None:
    """Make a batch norm the identity but for its bias."""
    assert isinstance(norm, nn.BatchNorm2d)
    norm.reset_running_stats()
    norm.weight.fill_((1 + norm.eps) ** 0.5)


def named_layers(encoder: MobileNetV2) -> Iterator[tuple[str, ConvNorm]]:
    """The encoder's layers under the names that TensorFlow's checkpoints give them."""
    yield "Conv", encoder.stem
    for index, block in enumerate(encoder.blocks):
        assert isinstance(block, InvertedResidual)
        prefix = f"expanded_conv_{index}" if index else "expanded_conv"
        if isinstance(block.expand, ConvNorm):
            yield f"{prefix}/expand", block.expand
        yield f"{prefix}/depthwise", block.depthwise
        yield f"{prefix}/project", block.project


@torch.no_grad()
def calibrate(module: nn.Module, images: Tensor) -> None:
    """Give the batch norms of a module real statistics without changing what it computes.

    The statistics of what each norm sees are put in, and its scale and shift cancel them. After
    that batch statistics can be used in training from the first step on.

    Args:
        module: An encoder filled by `load_encoder`, or a network filled by `load_exported`.
        images: Normalised pictures, N×3×H×W.
    """
    seen: dict[nn.BatchNorm2d, tuple[Tensor, Tensor]] = {}

    def record(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        seen[norm] = (inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3), unbiased=False))

    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    was_training = module.training
    try:
        module.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        module.train(was_training)
    for norm, (mean, variance) in seen.items():
        if norm.running_mean is None or norm.running_var is None:
            continue
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias.add_(scale * (mean - norm.running_mean))
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
