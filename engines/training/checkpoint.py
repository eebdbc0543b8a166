"""Checkpoints: whole or not there at all."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.base import ModelError
from engines.networks.trained import FORMAT, KEY, UNFIT, TrainedNetwork, first_line, read_tree
from engines.training.options import TrainingOptions, parse_options
from engines.whole_file import whole_file


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a run between two epochs.

    Attributes:
        options: what the run was told.
        trained: the averaged network, which is what gets measured and exported.
        epoch: epochs done.
        step: optimiser steps done.
        seconds: wall time spent.
        network: state of the network in training.
        optimiser: state of the optimiser.
        random: state of torch's generator, for the dropout.
    """

    options: TrainingOptions
    trained: TrainedNetwork
    epoch: int
    step: int
    seconds: float
    network: dict[str, Tensor]
    optimiser: dict[str, Any]
    random: Tensor

    def save(self, path: Path) -> None:
        """Write it; a cut leaves the old file."""
        tree = {
            "format": FORMAT,
            KEY: self.trained.to_tree(),
            "options": asdict(self.options),
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "network": self.network,
            "optimiser": self.optimiser,
            "random": self.random,
        }
        with whole_file(path) as unfinished, unfinished.open("wb") as stream:
            torch.save(tree, stream)
            stream.flush()
            os.fsync(stream.fileno())

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; no code in it is run.

        Raises:
            EngineError: there is none, or it is damaged or of another version.
        """
        tree = read_tree(path)
        try:
            return cls(
                options=parse_options(tree["options"], str(path)),
                trained=TrainedNetwork.from_tree(tree[KEY]),
                epoch=tree["epoch"],
                step=tree["step"],
                seconds=tree["seconds"],
                network=tree["network"],
                optimiser=tree["optimiser"],
                random=tree["random"],
            )
        except UNFIT as error:
            raise ModelError(f"{path}: a checkpoint of another version: {first_line(error)}") from error


def first_difference(ours: Any, theirs: Any, but: Collection[str] = ()) -> str:
    """The first option in which two equal kinds of options differ, as its keys and both values; empty if none.

    Args:
        ours: options, a dataclass of values and dataclasses.
        theirs: options of the same class.
        but: names of fields that may differ.
    """
    for field in fields(ours):
        mine, other = getattr(ours, field.name), getattr(theirs, field.name)
        if field.name in but or mine == other:
            continue
        if is_dataclass(mine):
            return f"{field.name}: {first_difference(mine, other)}"
        return f"{field.name} is {mine!r}, not {other!r}"
    return ""
