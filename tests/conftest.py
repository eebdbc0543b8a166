"""What all tests share: where the data lies, and what happens when a peer is missing."""

from __future__ import annotations

import gc
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engines import masking

_import_or_skip = pytest.importorskip
_IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
_BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_finish() -> None:
    """Take all that is imported by now out of the garbage collector's sight: many tests collect, twice each."""
    gc.collect()
    gc.freeze()


def absent(what: str) -> None:
    """Skip for want of a peer; in CI, where every peer is installed, fail."""
    if _IN_CI:
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def _need_module(name: str, *args: Any, **kwargs: Any) -> Any:
    """As `pytest.importorskip`, but a library that is missing in CI is a failure there, too."""
    try:
        return _import_or_skip(name, *args, **kwargs)
    except pytest.skip.Exception:
        absent(f"the library {name}")


if _IN_CI:
    pytest.importorskip = _need_module


def need_program(name: str) -> str:
    """Path of a program that the test talks to."""
    path = shutil.which(name)
    if path is None:
        absent(f"the program {name}")
    assert path is not None
    return path


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """A command's log, which goes to its own standard error, ends with the test that ran the command in-process.

    Libraries turn down what they find at the root: pytest's own handlers, which stay for all tests.
    """
    handlers, loggers = logging.root.handlers[:], [logging.getLogger(name) for name in (None, "pipeline", "engines")]
    levels = [each.level for each in (*handlers, *loggers)]
    yield
    logging.root.handlers[:] = handlers
    for each, level in zip((*handlers, *loggers), levels, strict=True):
        each.setLevel(level)


@pytest.fixture(autouse=True)
def own_secrets() -> Iterator[None]:
    """What a test took from variables is hidden in no other test."""
    yield
    masking.forget()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real clips, labelled frames and weights (``DEEPLAB_STREAM_DATA``)."""
    folder = Path(os.environ.get("DEEPLAB_STREAM_DATA") or _BESIDE)
    if not folder.is_dir():
        absent(f"test data ({folder}; set DEEPLAB_STREAM_DATA)")
    return folder


@pytest.fixture
def no_error_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail the test if anything logs an ERROR."""
    yield
    errors = [
        r.getMessage() for phase in ("setup", "call") for r in caplog.get_records(phase) if r.levelno >= logging.ERROR
    ]
    assert not errors, errors
