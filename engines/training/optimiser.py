"""Which parameters learn, how fast, and by what rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engines.networks import Segmenter
from engines.training.options import ModelOptions, TrainingOptions


def freeze(network: Segmenter, options: ModelOptions) -> list[nn.Module]:
    """Fix stem and first blocks of the encoder, and batch norms, as asked; returns them, to be kept in eval mode."""
    frozen: list[nn.Module] = []
    if options.freeze:
        stem, body = network.encoder.get_submodule("stem"), network.encoder.get_submodule("blocks")
        frozen += [stem, *list(body.children())[: options.freeze]]
    if options.freeze_norms:
        frozen += [each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def make_optimiser(network: Segmenter, options: TrainingOptions) -> torch.optim.Optimizer:
    """AdamW or SGD: encoder and head at their own rates; no decay for norms, biases and depthwise."""
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim == 4 and parameter.shape[1] > 1
            groups.setdefault((name.startswith("encoder."), decays, name.endswith("bias")), []).append(parameter)
    optimiser = options.optimiser
    trees: list[dict[str, Any]] = [
        {
            "params": parameters,
            "initial_lr": (optimiser.backbone_rate if encoder else optimiser.head_rate)
            * (optimiser.bias_factor if bias else 1),
            "weight_decay": optimiser.decay if decays else 0.0,
        }
        for (encoder, decays, bias), parameters in groups.items()
    ]
    if optimiser.kind == "sgd":
        return torch.optim.SGD(trees, momentum=optimiser.momentum)
    return torch.optim.AdamW(trees)
