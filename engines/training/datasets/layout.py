"""What the layouts of data sets have in common: a home below ROOT, lists of names, pairs of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from engines.labels import LabelSet
from engines.training.datasets.reading import DataError, LabelCodes, Sample


class Dataset(Protocol):
    """A data set on disk, in the directories that its makers gave it."""

    labels: LabelSet | None
    """Its classes; None where the files do not tell them."""

    def __init__(self, root: Path) -> None:
        """Check that what all splits need is there.

        Raises:
            DataError: what is missing, and how it is come by.
        """

    @classmethod
    def recognised(cls, root: Path) -> bool:
        """Whether a directory looks like it, complete or not."""

    def splits(self) -> list[str]:
        """Names of the splits that are there."""

    def samples(self, split: str) -> list[Sample]:
        """The labelled pictures of a split, in its list's order or by name.

        Raises:
            DataError: no such split, or a file is missing.
        """


def home_of(root: Path, homes: Iterable[str], mark: str) -> Path | None:
    """The first of several directories below ROOT that holds ``mark``."""
    return next((root / home for home in homes if (root / home / mark).is_dir()), None)


def demand(folder: Path, part: str, remedy: str) -> Path:
    """A directory that must be there.

    Raises:
        DataError: it is not.
    """
    if not (folder / part).is_dir():
        raise DataError(f"{folder / part}: no such directory: {remedy}")
    return folder / part


def listed_splits(folder: Path, ending: str = "") -> list[str]:
    """Splits that have a list ``SPLIT[ending].txt`` in a directory, by name."""
    return sorted(path.stem.removesuffix(ending) for path in folder.glob(f"*{ending}.txt"))


def read_list(path: Path, splits: Sequence[str], remedy: str) -> list[str]:
    """The names of pictures in a list, a line each: a name, or a picture's path with whatever follows.

    Args:
        path: the list.
        splits: those that there are, for messages.
        remedy: what helps where it is missing.

    Raises:
        DataError: there is no such list, or it is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        there = f"splits there are: {', '.join(splits)}; else " if splits else ""
        raise DataError(f"{path}: no such list: {there}{remedy}") from error
    names = [Path(line.split()[0]).stem for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path}: names no pictures: {remedy}")
    return names


def paired(
    names: Sequence[str],
    files: Callable[[str], tuple[Path, Path]],
    codes: LabelCodes | None,
    remedy: str,
) -> list[Sample]:
    """Samples of names, all of whose files are there.

    Args:
        names: of the pictures.
        files: picture and labels of a name.
        codes: what the values in the labels mean.
        remedy: what helps where a file is missing.

    Raises:
        DataError: a file is missing.
    """
    samples = [Sample(*files(name), codes) for name in names]
    missing = [(each, file) for each in samples for file in (each.image, each.labels) if not file.is_file()]
    if missing:
        sample, file = missing[0]
        more = f" (and {len(missing) - 1} more files of {len(samples)} pictures)" if len(missing) > 1 else ""
        what = f"{sample.image}: its labels {file} are missing" if file == sample.labels else f"{file} is missing"
        raise DataError(f"{what}{more}: {remedy}")
    return samples
