"""What tests of whole runs share: the tiny network, clips made once, and a cache directory of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pipeline.clips import Clip, build

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The ONNX file of the tiny network (see `tests.pipeline.tiny`)."""
    from tests.pipeline.tiny import tiny_model  # it needs the package onnx, which others here do not

    return str(tiny_model(tmp_path_factory.mktemp("model") / "tiny.onnx"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Clip]:
    """Makes a clip of `tests.pipeline.clips` by its name, once."""
    folder = tmp_path_factory.mktemp("clips")
    made: dict[str, Clip] = {}

    def make(name: str) -> Clip:
        if name not in made:
            made[name] = build(name, folder / name.replace(" ", "_"))
        return made[name]

    return make


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache directory that nobody else has, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in this process: quicker than the program, and says the same."""
    from pipeline.cli import main

    monkeypatch.setattr("sys.argv", ["deeplab-stream"])

    def run(*flags: str | Path) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        try:
            status = main([str(flag) for flag in flags])
        except SystemExit as leaving:  # argparse's way
            status = int(str(leaving.code))
        said = capfd.readouterr()
        return subprocess.CompletedProcess(flags, status, said.out, said.err)

    return run
