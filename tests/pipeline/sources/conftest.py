"""Clips made once a session, and a watch on descriptors."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.clips import Clip, build

MakeClip = Callable[[str], Clip]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> MakeClip:
    """Makes a clip by its name, once."""
    folder: Path = tmp_path_factory.mktemp("clips")
    made: dict[str, Clip] = {}

    def make(name: str) -> Clip:
        if name not in made:
            made[name] = build(name, folder / name.replace(" ", "_"))
        return made[name]

    return make


@pytest.fixture
def no_descriptor_leaked() -> Iterator[None]:
    """Fail the test if it ends with more descriptors than it began with, garbage not collected."""
    gc.disable()  # what is given back only with the garbage is given back too late
    before = _descriptors()
    try:
        yield
        left = _descriptors() - before
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
