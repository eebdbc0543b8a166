"""Starting weights whose batch norms were folded away get norms again."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.no_grad()
def calibrate(module: nn.Module, images: Tensor) -> None:
    """Give the batch norms of a module real statistics without changing what it computes.

    The statistics of what each norm sees are put in, and its scale and shift cancel them. After
    that batch statistics can be used in training from the first step on.

    Args:
        module: What `engines.weights.load_weights` has filled: a network, or its encoder.
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
