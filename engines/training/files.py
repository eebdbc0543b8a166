"""Figures written to files, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.base import EngineError
from engines.whole_file import whole_file


def write_json(path: Path, figures: dict[str, Any]) -> None:
    """Write figures as JSON, whole or not at all.

    Raises:
        EngineError: the file cannot be written.
    """
    write_text(path, json.dumps(figures, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file, whole or not at all.

    Raises:
        EngineError: it cannot be written.
    """
    try:
        with whole_file(path) as unfinished:
            unfinished.write_bytes(data)
    except OSError as error:
        raise EngineError(f"{path}: cannot be written: {error.strerror}") from error


def demand_directory_of(path: Path | None) -> None:
    """Refuse a file to be written, where one is named, whose directory does not exist, or that is one.

    Raises:
        EngineError: it does not, or is.
    """
    if path is not None and path.is_dir():
        raise EngineError(f"{path}: cannot be written: it is a directory")
    if path is not None and not path.absolute().parent.is_dir():
        raise EngineError(f"{path}: cannot be written: its directory does not exist")


def demand_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str, flag: str) -> None:
    """Refuse a file of earlier work that depends on something else.

    Args:
        path: the file.
        found: what it depends on.
        wanted: what it should.
        what: the kind of work, as "a search".
        flag: of the command line, that names another file.

    Raises:
        EngineError: they differ.
    """
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise EngineError(f"{path} belongs to {what} with another {differing[0]}: remove it, or name another {flag}")


def number(value: float) -> float | None:
    """A figure for JSON, which knows no NaN."""
    return float(value) if np.isfinite(value) else None
