"""Whole networks of other programs: scores before they are enlarged, and the weights under the programs' names."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.engines.peers.parts import (
    AT_ONCE16,
    EXACT16,
    LATE16,
    MobileNetV2,
    ResNet,
    Weights,
    aspp,
    cbr,
    plain_names,
    separable,
    stages,
)

CLASSES = 21
RESNET50, RESNET101 = (3, 4, 6, 3), (3, 4, 23, 3)
NARROW = 8
"""Channels of the stem of a ResNet at an eighth of its width."""

V2_STAGES = stages(RESNET101, (1, 2, 1, 1), (1, 1, 2, 4))


def larger(x: Tensor, like: Tensor, *, corners: bool) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=corners)


# --- V2 -------------------------------------------------------------------------------------------


def kazuto(w: Weights, x: Tensor) -> Tensor:
    def name(stage: int, block: int, part: str) -> tuple[str, str]:
        if part == "stem":
            start = "base.layer1.conv1"
        else:
            called = {"a": "reduce", "b": "conv3x3", "c": "increase", "side": "shortcut"}[part]
            start = f"base.layer{stage + 2}.block{block + 1}.{called}"
        return start + ".conv", start + ".bn"

    _, _, x = ResNet(w, name, V2_STAGES, NARROW, stride_first=True, ceil_mode=True)(x)
    return sum(
        (w.conv(x, f"base.aspp.c{i}", CLASSES, 3, rate=rate, bias=True) for i, rate in enumerate((6, 12, 18, 24))),
        torch.zeros(()),
    )


def isht7(w: Weights, x: Tensor) -> Tensor:
    _, _, x = ResNet(w, plain_names("Scale."), V2_STAGES, NARROW, stride_first=True, ceil_mode=True)(x)
    out = torch.zeros(())
    for i in range(4):
        out = out + w.conv(x, f"Scale.layer5.conv2d_list.{i}", CLASSES, 3, rate=6 * (i + 1), bias=True)
    return out


def caffe_resnet(w: Weights, x: Tensor) -> Tensor:
    """conv and bn names; `tests.engines.peers.caffe` makes bn and scale layers of a norm."""

    def name(stage: int, block: int, part: str) -> tuple[str, str]:
        if part == "stem":
            return "conv1", "conv1"
        letter = "abc"[block] if stage in (0, 3) else ("a" if block == 0 else f"b{block}")
        branch = {"a": "branch2a", "b": "branch2b", "c": "branch2c", "side": "branch1"}[part]
        return f"res{stage + 2}{letter}_{branch}", f"{stage + 2}{letter}_{branch}"

    def naming(stage: int, block: int, part: str) -> tuple[str, str]:
        conv, rest = name(stage, block, part)
        return conv, f"norm of {rest}"

    _, _, x = ResNet(w, naming, V2_STAGES, NARROW, stride_first=True, ceil_mode=True)(x)
    out = torch.zeros(())
    for i, rate in enumerate((6, 12, 18, 24)):
        out = out + w.conv(x, f"fc1_voc12_c{i}", CLASSES, 3, rate=rate, bias=True)
    return out


def caffe_vgg(w: Weights, x: Tensor, rates: tuple[int, ...]) -> Tensor:
    for stage, (convs, channels) in enumerate(((2, 8), (2, 16), (3, 32), (3, 64), (3, 64)), 1):
        for i in range(1, convs + 1):
            x = F.relu(w.conv(x, f"conv{stage}_{i}", channels, 3, rate=2 if stage == 5 else 1, bias=True))
        x = F.max_pool2d(x, 3, 2 if stage < 4 else 1, 1, ceil_mode=True)
    out = torch.zeros(())
    for i, rate in enumerate(rates, 1):
        end = f"_{i}" if len(rates) > 1 else ""
        y = F.relu(w.conv(x, f"fc6{end}", 48, 3, rate=rate, bias=True))
        y = F.relu(w.conv(y, f"fc7{end}", 48, bias=True))
        out = out + w.conv(y, f"fc8_voc12{end}", CLASSES, bias=True)
    return out


# --- V3 and V3+ -----------------------------------------------------------------------------------


def torchvision_resnet(w: Weights, x: Tensor, layers: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Output stride 8; scores and those of the auxiliary head."""
    plan = stages(layers, (1, 2, 1, 1), (1, 1, (1,) + (2,) * (layers[2] - 1), (2, 4, 4)))
    _, middle, high = ResNet(w, plain_names("backbone."), plan, NARROW)(x)
    return torchvision_head(w, high), torchvision_auxiliary(w, middle)


def torchvision_head(w: Weights, x: Tensor) -> Tensor:
    x = aspp(w, x, "classifier.0.", (12, 24, 36))
    return w.conv(cbr(w, x, "classifier.1", "classifier.2", 256, 3), "classifier.4", CLASSES, bias=True)


def torchvision_auxiliary(w: Weights, x: Tensor) -> Tensor:
    x = cbr(w, x, "aux_classifier.0", "aux_classifier.1", x.shape[1] // 4, 3)
    return w.conv(x, "aux_classifier.4", CLASSES, bias=True)


# Kernel, inner channels, channels, squeeze, hard swish, stride, rate: MobileNetV3-Large, dilated from C4 on.
LARGE = (
    (3, 16, 16, 0, 0, 1, 1), (3, 64, 24, 0, 0, 2, 1), (3, 72, 24, 0, 0, 1, 1), (5, 72, 40, 1, 0, 2, 1),
    (5, 120, 40, 1, 0, 1, 1), (5, 120, 40, 1, 0, 1, 1), (3, 240, 80, 0, 1, 2, 1), (3, 200, 80, 0, 1, 1, 1),
    (3, 184, 80, 0, 1, 1, 1), (3, 184, 80, 0, 1, 1, 1), (3, 480, 112, 1, 1, 1, 1), (3, 672, 112, 1, 1, 1, 1),
    (5, 672, 160, 1, 1, 1, 2), (5, 960, 160, 1, 1, 1, 2), (5, 960, 160, 1, 1, 1, 2),
)  # fmt: skip
SQUEEZED = {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}


def torchvision_mobilenet(w: Weights, x: Tensor) -> tuple[Tensor, Tensor]:
    x, middle = mobilenet_v3(w, x, "backbone.")
    return torchvision_head(w, x), torchvision_auxiliary(w, middle)


def mobilenet_v3(w: Weights, x: Tensor, prefix: str, *, strided: bool = False) -> tuple[Tensor, Tensor]:
    """At output stride 16, or `strided` at 32."""
    x = F.hardswish(w.norm(w.conv(x, f"{prefix}0.0", 16, 3, 2), f"{prefix}0.1", 1e-3))
    middle = x
    for number, (kernel, inner, outputs, squeeze, swish, step, dilation) in enumerate(LARGE, 1):
        stride, rate = (2 if number == 13 else step, 1) if strided else (step, dilation)
        act = F.hardswish if swish else F.relu
        here, at, y = f"{prefix}{number}.block.", 0, x
        if inner != x.shape[1]:
            y, at = act(w.norm(w.conv(y, f"{here}0.0", inner), f"{here}0.1", 1e-3)), 1
        y = w.conv(y, f"{here}{at}.0", inner, kernel, stride, rate, groups=inner)
        y, at = act(w.norm(y, f"{here}{at}.1", 1e-3)), at + 1
        if squeeze:
            s = F.relu(w.conv(F.adaptive_avg_pool2d(y, 1), f"{here}{at}.fc1", SQUEEZED[inner], bias=True))
            y, at = y * F.hardsigmoid(w.conv(s, f"{here}{at}.fc2", inner, bias=True)), at + 1
        y = w.norm(w.conv(y, f"{here}{at}.0", outputs), f"{here}{at}.1", 1e-3)
        # C4 lost its stride to the rate, and changes its channels.
        x = x + y if stride == 1 and x.shape[1] == outputs else y
        if number == 4:
            middle = x
    return F.hardswish(w.norm(w.conv(x, f"{prefix}16.0", 960), f"{prefix}16.1", 1e-3)), middle


def vainf_resnet(w: Weights, x: Tensor, *, plus: bool) -> Tensor:
    """Output stride 16, V3 or V3+."""
    plan = stages(RESNET50, (1, 2, 2, 1), (1, 1, 1, (1, 2, 2)))
    low, _, high = ResNet(w, plain_names("backbone."), plan, NARROW)(x)
    return vainf_head(w, low, high, plus=plus)


def vainf_mobilenet(w: Weights, x: Tensor, *, plus: bool) -> Tensor:
    def place(number: int) -> str:
        return f"backbone.{'low' if number < 4 else 'high'}_level_features.{number}"

    low, high = MobileNetV2(w, place, EXACT16, pad_blocks=True, pad_stem=False)(x)
    return vainf_head(w, low, high, plus=plus)


def vainf_head(w: Weights, low: Tensor, high: Tensor, *, plus: bool) -> Tensor:
    if not plus:
        x = aspp(w, high, "classifier.classifier.0.", (6, 12, 18))
        x = cbr(w, x, "classifier.classifier.1", "classifier.classifier.2", 256, 3)
        return w.conv(x, "classifier.classifier.4", CLASSES, bias=True)
    low = cbr(w, low, "classifier.project.0", "classifier.project.1", 48)
    high = larger(aspp(w, high, "classifier.aspp.", (6, 12, 18)), low, corners=False)
    x = cbr(w, torch.cat([low, high], 1), "classifier.classifier.0", "classifier.classifier.1", 256, 3)
    return w.conv(x, "classifier.classifier.3", CLASSES, bias=True)


def jfzhang_resnet(w: Weights, x: Tensor, *, dropout: bool) -> Tensor:
    plan = stages(RESNET101, (1, 2, 2, 1), (1, 1, 1, (2, 4, 8)))
    low, _, high = ResNet(w, plain_names("backbone."), plan, NARROW)(x)
    return jfzhang_head(w, low, high, dropout=dropout)


def jfzhang_mobilenet(w: Weights, x: Tensor) -> Tensor:
    low, high = MobileNetV2(w, "backbone.features.{}".format, LATE16, nested=False, pad_blocks=True)(x)
    # The same modules are known by two names.
    for name in [name for name in w.state if name.startswith("backbone.features.")]:
        number = int(name.split(".")[2])
        twin = name.replace("features", "low_level_features" if number < 4 else "high_level_features")
        w.state[twin] = w.state[name]
    return jfzhang_head(w, low, high, dropout=True)


def jfzhang_head(w: Weights, low: Tensor, high: Tensor, *, dropout: bool) -> Tensor:
    maps = [cbr(w, high, "aspp.aspp1.atrous_conv", "aspp.aspp1.bn", 256)]
    for number, rate in ((2, 6), (3, 12), (4, 18)):
        maps.append(cbr(w, high, f"aspp.aspp{number}.atrous_conv", f"aspp.aspp{number}.bn", 256, 3, rate))
    pooled = cbr(w, high.mean((2, 3), keepdim=True), "aspp.global_avg_pool.1", "aspp.global_avg_pool.2", 256)
    maps.append(larger(pooled, high, corners=True))
    x = cbr(w, torch.cat(maps, 1), "aspp.conv1", "aspp.bn1", 256)
    low = cbr(w, low, "decoder.conv1", "decoder.bn1", 48)
    x = torch.cat([larger(x, low, corners=True), low], 1)
    a, b, c = (0, 4, 8) if dropout else (0, 3, 6)
    x = cbr(w, x, f"decoder.last_conv.{a}", f"decoder.last_conv.{a + 1}", 256, 3)
    x = cbr(w, x, f"decoder.last_conv.{b}", f"decoder.last_conv.{b + 1}", 256, 3)
    return w.conv(x, f"decoder.last_conv.{c}", CLASSES, bias=True)


def smp_v3(w: Weights, x: Tensor, *, old: bool) -> Tensor:
    """Output stride 8."""
    plan = stages(RESNET50, (1, 2, 1, 1), (1, 1, 2, 4))
    _, _, high = ResNet(w, plain_names("encoder."), plan, NARROW)(x)
    first, conv, norm = ("0", "1", "2") if old else ("aspp", "conv", "bn")
    x = aspp(w, high, f"decoder.{first}.", (12, 24, 36))
    x = cbr(w, x, f"decoder.{conv}", f"decoder.{norm}", 256, 3)
    return w.conv(x, "segmentation_head.0", CLASSES, bias=True)


def smp_v3plus(w: Weights, x: Tensor, *, mobile: bool) -> Tensor:
    """Output stride 16 with the rates of 8, as it has by default."""
    if mobile:
        low, high = MobileNetV2(w, "encoder.features.{}".format, AT_ONCE16)(x)
        high = F.relu6(w.norm(w.conv(high, "encoder.features.18.0", 1280), "encoder.features.18.1"))
    else:
        plan = stages(RESNET101, (1, 2, 2, 1), (1, 1, 1, 2))
        low, _, high = ResNet(w, plain_names("encoder."), plan, NARROW)(x)
    x = aspp(w, high, "decoder.aspp.0.", (12, 24, 36), apart=True)
    x = separable(w, x, "decoder.aspp.1", "decoder.aspp.2", 256)
    x = F.interpolate(x, scale_factor=4, mode="bilinear", align_corners=True)
    low = cbr(w, low, "decoder.block1.0", "decoder.block1.1", 48)
    x = separable(w, torch.cat([x, low], 1), "decoder.block2.0", "decoder.block2.1", 256)
    return w.conv(x, "segmentation_head.0", CLASSES, bias=True)
