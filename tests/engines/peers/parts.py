"""Functional networks whose weights are made, under another program's names, when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

Naming = Callable[[int, int, str], tuple[str, str]]


@dataclass
class Weights:
    """Random weights by name; the same ones for every picture."""

    state: dict[str, Tensor] = field(default_factory=dict)
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(5))

    def get(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        if name not in self.state:
            self.state[name] = make()
        return self.state[name]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def conv(
        self, x: Tensor, name: str, outputs: int, kernel: int = 1, stride: int = 1, rate: int = 1,
        *, bias: bool = False, groups: int = 1, pad: int | None = None,
    ) -> Tensor:  # fmt: skip
        inputs = x.shape[1] // groups
        spread = (2 / (inputs * kernel * kernel)) ** 0.5
        weight = self.get(f"{name}.weight", lambda: spread * self.normal(outputs, inputs, kernel, kernel))
        shift = self.get(f"{name}.bias", lambda: 0.2 * self.normal(outputs)) if bias else None
        return F.conv2d(x, weight, shift, stride, rate * (kernel // 2) if pad is None else pad, rate, groups)

    def norm(self, x: Tensor, name: str, epsilon: float = 1e-5) -> Tensor:
        channels = x.shape[1]
        mean = self.get(f"{name}.running_mean", lambda: 0.3 * self.normal(channels))
        # Small variances too, where the epsilon shows.
        variance = self.get(f"{name}.running_var", lambda: 0.02 + self.normal(channels).abs())
        scale = self.get(f"{name}.weight", lambda: 0.4 + 0.2 * self.normal(channels).abs())
        shift = self.get(f"{name}.bias", lambda: 0.2 * self.normal(channels))
        self.get(f"{name}.num_batches_tracked", lambda: torch.tensor(7))
        return F.batch_norm(x, mean, variance, scale, shift, eps=epsilon)


@dataclass(frozen=True)
class Stage:
    """A stage of bottlenecks."""

    blocks: int
    stride: int
    rates: tuple[int, ...]


def stages(layers: Sequence[int], strides: Sequence[int], rates: Sequence[int | tuple[int, ...]]) -> list[Stage]:
    """One rate for a whole stage, or one a block."""
    return [
        Stage(n, stride, rate if isinstance(rate, tuple) else (rate,) * n)
        for n, stride, rate in zip(layers, strides, rates, strict=True)
    ]


@dataclass
class ResNet:
    """The features of a ResNet: after its first stage, its third, and its last."""

    weights: Weights
    naming: Naming
    stages: list[Stage]
    width: int
    stride_first: bool = False
    ceil_mode: bool = False

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self._layer(x, (0, 0, "stem"), self.width, 7, 2))
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=self.ceil_mode)
        kept = []
        for number, stage in enumerate(self.stages):
            inner = self.width << number
            for block in range(stage.blocks):
                stride = stage.stride if block == 0 else 1
                first, second = (stride, 1) if self.stride_first else (1, stride)
                y = F.relu(self._layer(x, (number, block, "a"), inner, 1, first))
                y = F.relu(self._layer(y, (number, block, "b"), inner, 3, second, stage.rates[block]))
                y = self._layer(y, (number, block, "c"), 4 * inner, 1)
                x = F.relu(y + (x if block else self._layer(x, (number, block, "side"), 4 * inner, 1, stride)))
            kept.append(x)
        return kept[0], kept[2], kept[3]

    def _layer(
        self, x: Tensor, where: tuple[int, int, str], outputs: int, kernel: int, stride: int = 1, rate: int = 1
    ) -> Tensor:
        conv, norm = self.naming(*where)
        return self.weights.norm(self.weights.conv(x, conv, outputs, kernel, stride, rate), norm)


def plain_names(prefix: str) -> Naming:
    """layerN.M.convK: torchvision's ResNet and its descendants."""

    def name(stage: int, block: int, part: str) -> tuple[str, str]:
        if part == "stem":
            return f"{prefix}conv1", f"{prefix}bn1"
        here = f"{prefix}layer{stage + 1}.{block}."
        if part == "side":
            return here + "downsample.0", here + "downsample.1"
        number = "abc".index(part) + 1
        return f"{here}conv{number}", f"{here}bn{number}"

    return name


def cbr(weights: Weights, x: Tensor, conv: str, norm: str, outputs: int, kernel: int = 1, rate: int = 1) -> Tensor:
    return F.relu(weights.norm(weights.conv(x, conv, outputs, kernel, rate=rate), norm))


def separable(weights: Weights, x: Tensor, name: str, norm: str, outputs: int, rate: int = 1) -> Tensor:
    """Two convolutions in a sequence, a norm after both."""
    x = weights.conv(x, f"{name}.0", x.shape[1], 3, rate=rate, groups=x.shape[1])
    return F.relu(weights.norm(weights.conv(x, f"{name}.1", outputs), norm))


def aspp(
    weights: Weights, x: Tensor, prefix: str, rates: Sequence[int], *, apart: bool = False, channels: int = 256
) -> Tensor:
    """convs.0 … convs.4, project."""
    maps = [cbr(weights, x, f"{prefix}convs.0.0", f"{prefix}convs.0.1", channels)]
    for number, rate in enumerate(rates, 1):
        here = f"{prefix}convs.{number}."
        if apart:
            maps.append(separable(weights, x, here + "0", here + "1", channels, rate))
        else:
            maps.append(cbr(weights, x, here + "0", here + "1", channels, 3, rate))
    last = f"{prefix}convs.{len(rates) + 1}."
    pooled = cbr(weights, F.adaptive_avg_pool2d(x, 1), last + "1", last + "2", channels)
    maps.append(F.interpolate(pooled, x.shape[2:], mode="bilinear", align_corners=False))
    return cbr(weights, torch.cat(maps, 1), f"{prefix}project.0", f"{prefix}project.1", channels)


# Expansion, channels, blocks, stride: MobileNetV2, table 2.
TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


@dataclass
class MobileNetV2:
    """The features of a MobileNetV2, after its second stage and its last.

    `steps` has stride and rate of the first block of each stage, and the rate of the others.
    """

    weights: Weights
    place: Callable[[int], str]
    steps: Sequence[tuple[int, int, int]]
    nested: bool = True
    pad_blocks: bool = False
    pad_stem: bool = True

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        w, place = self.weights, self.place
        x = w.conv(x, place(0) + ".0", 32, 3, 2, pad=1 if self.pad_stem else 0)
        x = low = F.relu6(w.norm(x, place(0) + ".1"))
        number = 0
        for stage, (expansion, outputs, blocks, wanted) in enumerate(TABLE):
            stride, first, others = self.steps[stage]
            for block in range(blocks):
                number += 1
                step, rate = (stride, first) if block == 0 else (1, others)
                y = self._inner(x, number, expansion, step, rate)
                y = self._project(y, number, expansion, outputs)
                # Blocks that only lost their stride still add nothing: channels change there.
                x = x + y if x.shape[1] == outputs and (block or wanted == 1) else y
            if stage == 1:
                low = x
        return low, x

    def _inner(self, x: Tensor, number: int, expansion: int, stride: int, rate: int) -> Tensor:
        w, here = self.weights, self.place(number) + ".conv."
        inner = x.shape[1] * expansion
        if self.pad_blocks:
            x = F.pad(x, (rate, rate, rate, rate))
        at = 0
        if expansion > 1:
            names = (here + "0.0", here + "0.1") if self.nested else (here + "0", here + "1")
            x = F.relu6(w.norm(w.conv(x, names[0], inner), names[1]))
            at = 1
        names = (f"{here}{at}.0", f"{here}{at}.1") if self.nested else (f"{here}{3 * at}", f"{here}{3 * at + 1}")
        x = w.conv(x, names[0], inner, 3, stride, rate, groups=inner, pad=0 if self.pad_blocks else rate)
        return F.relu6(w.norm(x, names[1]))

    def _project(self, x: Tensor, number: int, expansion: int, outputs: int) -> Tensor:
        w, here = self.weights, self.place(number) + ".conv."
        at = 1 if expansion == 1 else 2
        conv, norm = (f"{here}{at}", f"{here}{at + 1}") if self.nested else (f"{here}{3 * at}", f"{here}{3 * at + 1}")
        return w.norm(w.conv(x, conv, outputs), norm)


EXACT16 = ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 2), (1, 2, 2))
"""MobileNetV2 at output stride 16: the block that loses its stride keeps its rate."""

AT_ONCE16 = ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (1, 2, 2), (1, 2, 2))
LATE16 = ((1, 1, 1), (2, 1, 1), (2, 1, 1), (2, 1, 1), (1, 1, 1), (1, 1, 1), (1, 2, 2))


def twins(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """The first two weights of one shape."""
    seen: dict[tuple[int, ...], str] = {}
    for name, value in state.items():
        if value.ndim == 4 and tuple(value.shape) in seen:
            return name, seen[tuple(value.shape)]
        seen[tuple(value.shape)] = name
    raise AssertionError("no two weights have one shape")
