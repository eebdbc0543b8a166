"""A watch on descriptors."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.pipeline.clips import Clip

MakeClip = Callable[[str], Clip]


@pytest.fixture
def no_descriptor_leaked() -> Iterator[None]:
    """Fail the test if it ends with more descriptors than it began with, garbage not collected."""
    gc.disable()  # what is given back only with the garbage is given back too late
    before = _descriptors()
    try:
        yield
        # Closing waits for no network: a thread inside libav gives its socket back at its own deadline.
        deadline = time.monotonic() + 10
        while (left := _descriptors() - before) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not left, left
    finally:
        gc.enable()


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")  # noqa: PTH115
        except FileNotFoundError:
            continue
    return {f for f in found if "/proc/" not in f}
