"""The course of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.training.options import OptionError

FOLDER = "tensorboard"


class Board:
    """Event files in a run's directory.

    Args:
        output: the run's directory.
        step: where the run is: what an earlier process noted of later steps no longer counts.

    Raises:
        OptionError: TensorBoard is not installed.
    """

    def __init__(self, output: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise OptionError(
                f"--tensorboard needs TensorBoard ({error}): pip install 'deeplab-stream[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(output / FOLDER), purge_step=step + 1 if step else None)

    def step(self, step: int, loss: float, rate: float) -> None:
        """Note a step's loss and the head's learning rate."""
        self._add("train/loss", loss, step)
        self._add("train/rate", rate, step)

    def epoch(self, step: int, facts: Mapping[str, Any]) -> None:
        """Note an epoch's mIoU, on the training and, where it was measured, on the validation."""
        self._add("train/mIoU", facts["train_miou"], step)
        if "validation_miou" in facts:
            self._add("validation/mIoU", facts["validation_miou"], step)
            for name, value in facts["validation_iou"].items():
                self._add(f"validation/IoU/{name}", value, step)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()

    def _add(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
