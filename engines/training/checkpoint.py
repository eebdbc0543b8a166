"""Checkpoints: whole or not there at all."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.base import ModelError
from engines.networks.trained import FORMAT, KEY, TrainedNetwork, read_tree
from engines.training.options import TrainingOptions, parse_options


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
        """Write beside ``path`` and rename, so that a cut leaves the old file."""
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
        unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with unfinished.open("wb") as stream:
                torch.save(tree, stream)
                stream.flush()
                os.fsync(stream.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

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
        except (KeyError, TypeError) as error:
            raise ModelError(f"{path}: a checkpoint of another version: {error}") from error
