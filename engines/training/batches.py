"""Batches of augmented pictures, prepared while the network is busy with the one before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.training.augment import augment
from engines.training.datasets import Sample, UInt8
from engines.training.datasets.pictures import Pictures
from engines.training.options import OptionError, TrainingOptions
from engines.training.processes import ALONE, Processes


@dataclass(frozen=True, slots=True)
class Batch:
    """This process's pictures N×C×C×3 RGB and labels N×c×c with 255 where there is none."""

    images: UInt8
    labels: UInt8


class Batches:
    """The batches of any epoch.

    What an epoch holds depends on seed and epoch alone, so a resumed run sees what an unbroken
    one would have seen.

    Args:
        samples: The pictures' files, as long as `pictures`.
        pictures: Picture and labels of each.
        options: The run's options.
        processes: Those that share a batch; each one's part follows that of the one before.

    Raises:
        OptionError: A batch cannot be shared evenly.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        pictures: Pictures,
        options: TrainingOptions,
        processes: Processes = ALONE,
    ) -> None:
        share, rest = divmod(options.optimiser.batch, processes.count)
        if rest or not share:
            raise OptionError(f"optimiser: batch {options.optimiser.batch} is not to be divided by {processes.count}")
        self._share = range(share * processes.rank, share * (processes.rank + 1))
        self._pictures = pictures
        self._options = options
        self._weights = drive_weights(samples, options.optimiser.balance)

    def __len__(self) -> int:
        """Batches in an epoch: as many as the pictures fill."""
        return max(1, len(self._pictures) // self._options.optimiser.batch)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, each made while its forerunner is in use."""
        size = self._options.optimiser.batch
        random = np.random.default_rng((self._options.seed, number))
        order = draw_order(self._weights, len(self) * size, random)
        with ThreadPoolExecutor(1, "batches") as pool:
            tasks = iter(order.reshape(-1, size))
            ready = pool.submit(self._make, next(tasks), number, 0)
            for index, picks in enumerate(tasks, 1):
                batch = ready.result()
                ready = pool.submit(self._make, picks, number, index)
                yield batch
            yield ready.result()

    def _make(self, picks: npt.NDArray[np.int64], epoch: int, index: int) -> Batch:
        options = self._options
        views = []
        for place in self._share:
            random = np.random.default_rng((options.seed, epoch, index, place))
            image, labels = self._pictures[picks[place]]
            views.append(augment(image, labels, options.augment, options.loss.label_stride, random))
        return Batch(np.stack([view[0] for view in views]), np.stack([view[1] for view in views]))


def drive_weights(samples: Sequence[Sample], balance: float) -> npt.NDArray[np.float64]:
    """Probability of each picture, such that a drive of n pictures weighs n**balance."""
    drives = [sample.drive for sample in samples]
    counts = {drive: drives.count(drive) for drive in set(drives)}
    weights = np.array([counts[drive] ** (balance - 1) for drive in drives])
    return np.asarray(weights / weights.sum())


def draw_order(weights: npt.NDArray[np.float64], count: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    """`count` indices, each occurring as often as its weight says, give or take one, shuffled."""
    expected = weights * count
    times = np.floor(expected).astype(np.int64)
    rest = expected - times
    missing = count - int(times.sum())
    if missing:
        # Systematic sampling of the fractions: nobody gets more than one of the rest.
        ticks = (random.random() + np.arange(missing)) * rest.sum() / missing
        shuffled = random.permutation(len(rest))
        chosen = shuffled[np.searchsorted(np.cumsum(rest[shuffled]), ticks)]
        np.add.at(times, chosen, 1)
    return random.permutation(np.repeat(np.arange(len(weights)), times))
