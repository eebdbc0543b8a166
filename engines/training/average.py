"""Moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class MovingAverage:
    """A copy of a network that follows it slowly; it is what is measured and exported.

    Args:
        network: The network in training.
        decay: Share of the average that each step keeps, in the long run.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval()
        self.network.requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Follow the network after its step of this number, faster in the beginning."""
        decay = min(self._decay, (1 + step) / (10 + step))
        average: list[Tensor] = []
        current: list[Tensor] = []
        pairs = zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        for mean, value in pairs:
            if mean.is_floating_point():
                average.append(mean)
                current.append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(average, current, 1 - decay)
