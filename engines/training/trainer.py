"""The training loop: one object that steps, measures and saves."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from engines.base import ModelError
from engines.labels import LabelSet
from engines.networks import Segmenter
from engines.networks.normalise import normalise
from engines.networks.trained import UNFIT, TrainedNetwork, first_line
from engines.training.average import MovingAverage
from engines.training.batches import Batch, Batches
from engines.training.board import Board
from engines.training.checkpoint import Checkpoint
from engines.training.datasets import Sample
from engines.training.datasets.pictures import Pictures
from engines.training.losses import SegmentationLoss, class_weights, enlarge_scores
from engines.training.metrics import Confusion
from engines.training.optimiser import freeze, make_optimiser
from engines.training.options import TrainingOptions
from engines.training.processes import ALONE, Processes
from engines.training.schedule import Progress, poly_rate

logger = logging.getLogger(__name__)

CHECKPOINT = "last.pt"
HISTORY = "history.jsonl"
RUNNING_SHARE = 0.02
"""Share of the newest batch in the loss that the progress bar shows."""


@dataclass(frozen=True, slots=True)
class Data:
    """Pictures with their labels: to learn from and to measure on."""

    samples: Sequence[Sample]
    pictures: Pictures
    held_out: Pictures


class Trainer:
    """A run between two epochs.

    Args:
        network: The network to train, on the device where it is trained.
        data: What it learns from.
        options: How.
        labels: Meaning of the classes.
        output: Directory of checkpoints and history.
        processes: Those that train it together.
    """

    def __init__(
        self,
        network: Segmenter,
        data: Data,
        options: TrainingOptions,
        labels: LabelSet,
        output: Path,
        *,
        processes: Processes = ALONE,
    ) -> None:
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.options = options
        self.labels = labels
        self.output = output
        self.epoch = 0
        self.facts: dict[str, Any] = {
            "network": options.model.network,
            "splits": list(options.splits),
            "pictures": len(data.pictures),
            "seed": options.seed,
        }
        self._device = next(network.parameters()).device
        self._held_out = data.held_out
        self._processes = processes
        self._board: Board | None = None
        self._batches = Batches(data.samples, data.pictures, options, processes)
        weights = class_weights((each for _, each in data.pictures), len(labels), options.loss.log_weight)
        self._loss = SegmentationLoss(weights, options.loss, network.align_corners, processes).to(self._device)
        self._frozen = freeze(network, options.model)
        self._optimiser = make_optimiser(network, options)
        self._average = MovingAverage(network, options.optimiser.average)
        self._progress = Progress(options.steps or options.epochs * len(self._batches), options.hours * 3600)
        self._scores = processes.shared(AllScores(network))
        self._running_loss = float("nan")

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint left off.

        Raises:
            ModelError: it is of another network or another set of classes.
        """
        try:
            self.network.load_state_dict(checkpoint.network)
            self._average.network.load_state_dict(checkpoint.trained.weights)
            self._optimiser.load_state_dict(checkpoint.optimiser)
            torch.set_rng_state(checkpoint.random)
        except UNFIT as error:
            raise ModelError(f"--resume: the checkpoint is of another network: {first_line(error)}") from error
        self._progress.step = checkpoint.step
        self._progress.spent = checkpoint.seconds
        self.epoch = checkpoint.epoch
        self.facts = dict(checkpoint.trained.facts)

    def note_on_board(self) -> None:
        """Write event files for TensorBoard, from here on.

        Raises:
            OptionError: it is not installed.
        """
        if self._processes.first:
            self._board = Board(self.output, self._progress.step)

    def run(self, epochs: int | None = None) -> None:
        """Train to the end of the schedule, or for so many epochs, saving after every one."""
        end = None if epochs is None else self.epoch + epochs
        while self._fraction() < 1 and self.epoch != end:
            confusion = self._train_epoch()
            self.epoch += 1
            facts: dict[str, Any] = {
                "epoch": self.epoch,
                "step": self._progress.step,
                "seconds": round(self._progress.elapsed(), 1),
                "loss": round(self._running_loss, 4),
                "train_miou": round(confusion.mean_iou(), 4),
            }
            last = self._fraction() >= 1
            if not self._processes.first:
                continue
            if self._held_out and (last or self.epoch % self.options.validate_every == 0):
                facts |= self._measure()
            self.facts |= facts
            self.checkpoint().save(self.output / CHECKPOINT)
            with (self.output / HISTORY).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(facts) + "\n")
            if self._board is not None:
                self._board.epoch(self._progress.step, facts)
        if self._board is not None:
            self._board.close()

    def _fraction(self) -> float:
        """Share of the run that is done; by the clock, it is the first process's."""
        done = self._progress.fraction()
        return self._processes.agreed(done) if self._progress.seconds else done

    def checkpoint(self) -> Checkpoint:
        """The state of the run."""
        return Checkpoint(
            options=self.options,
            trained=TrainedNetwork(
                spec=self.network.spec,
                output_stride=self.options.model.output_stride,
                labels=self.labels,
                size=self.options.model.size,
                weights=self._average.network.state_dict(),
                facts=self.facts,
                class_weights=tuple(self._loss.weights.tolist()),
            ),
            epoch=self.epoch,
            step=self._progress.step,
            seconds=self._progress.elapsed(),
            network=self.network.state_dict(),
            optimiser=self._optimiser.state_dict(),
            random=torch.get_rng_state(),
        )

    def _train_epoch(self) -> Confusion:
        self.network.train()
        for module in self._frozen:
            module.eval()
        confusion = Confusion(len(self.labels))
        batches = tqdm(
            self._batches.epoch(self.epoch),
            total=len(self._batches),
            desc=f"epoch {self.epoch + 1}",
            unit="batch",
            mininterval=1,
            disable=not self._processes.first,
        )
        for batch in batches:
            if (fraction := self._fraction()) >= 1:
                break
            rate = self._set_rate(fraction)
            loss = self._step(batch, confusion)
            if self._board is not None:
                self._board.step(self._progress.step, loss, rate)
            if np.isnan(self._running_loss):
                self._running_loss = loss
            self._running_loss += RUNNING_SHARE * (loss - self._running_loss)
            batches.set_postfix(
                loss=f"{self._running_loss:.3f}",
                rate=f"{rate:.1e}",
                mIoU=f"{confusion.mean_iou():.3f}",
                refresh=False,
            )
        return confusion

    def _step(self, batch: Batch, confusion: Confusion) -> float:
        images = torch.from_numpy(batch.images).to(self._device)
        labels = torch.from_numpy(batch.labels).to(self._device).long()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.options.precision == "bf16"):
            several: list[Tensor] = self._scores(normalise(images, self.network.encoder))
        scores = several[-1]
        loss = torch.stack([self._loss(each, labels) for each in several]).sum()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._average.update(self.network, self._progress.step)
        self._progress.step += 1
        # Label by label on the scores' own grid: near enough for a progress bar.
        stride = -(-labels.shape[-1] // scores.shape[-1])
        predicted = scores.detach().argmax(1).cpu().numpy()
        confusion.add(batch.labels[:, ::stride, ::stride], predicted)
        return float(loss.detach())

    def _set_rate(self, fraction: float) -> float:
        optimiser = self.options.optimiser
        factor = poly_rate(fraction, self._progress.step, optimiser.warmup, optimiser.power)
        for group in self._optimiser.param_groups:
            group["lr"] = group["initial_lr"] * factor
        return optimiser.head_rate * factor

    def _measure(self) -> dict[str, Any]:
        """Mean IoU and IoU by class of the averaged weights on the held-out pictures, each as it is."""
        confusion = Confusion(len(self.labels))
        network = self._average.network
        assert isinstance(network, Segmenter)
        shift = self._loss.weights.log()[:, None, None]  # as `TrainedNetwork.restore` does
        with torch.inference_mode():
            for image, labels in tqdm(self._held_out, desc="validation", unit="picture"):
                batch = torch.from_numpy(image)[None].to(self._device)
                truth = torch.from_numpy(labels)[None]
                scores = network(normalise(batch, network.encoder)) - shift
                predicted = enlarge_scores(scores, truth, network.align_corners).argmax(1).cpu().numpy()
                confusion.add(labels[None], predicted)
        iou = dict(zip(self.labels.names, np.round(confusion.iou(), 4).tolist(), strict=True))
        miou = confusion.mean_iou()
        logger.info("epoch %d: mIoU %.4f of the held-out pictures", self.epoch, miou)
        return {"validation_miou": round(miou, 4), "validation_iou": iou}


class AllScores(nn.Module):
    """A network's scores at every scale, each of its own size, and last those that count: the largest of all."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        """N×3×H×W, normalised → N×C×h×w each."""
        if len(self.network.scales) == 1:
            return [self.network(image)]
        scores = self.network.pyramid(image)
        return [*scores, self.network.fuse(scores)]


def with_limit(options: TrainingOptions, epochs: int | None, hours: float | None) -> TrainingOptions:
    """Options with the length of the run that the command line asks for."""
    if epochs is not None:
        options = replace(options, epochs=epochs, steps=0, hours=0.0)
    if hours is not None:
        options = replace(options, hours=hours)
    return options
