"""Every command line explains all of its arguments and shows how it is used."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex

import pytest

from engines.cli import OFFLINE
from engines.cli import _parser as engines_parser
from pipeline.cli.main import make_parser

ENGINES = ("list", "info", "fetch", "bench", *OFFLINE)
BENCHMARKS = ("throughput", "memory", "crf", "pareto")


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return {
        name: below
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, below in action.choices.items()
    }


@pytest.fixture(params=["stream", "engines", *ENGINES, *BENCHMARKS])
def parser(request: pytest.FixtureRequest) -> argparse.ArgumentParser:
    name = str(request.param)
    if name == "stream":
        return make_parser()
    if name == "engines":
        return engines_parser([])
    if name in OFFLINE or name in BENCHMARKS:
        for library in ("torch", "onnx", "cv2"):
            pytest.importorskip(library, reason="a library of the extra `train`")
    if name in ENGINES:
        return subparsers(engines_parser([name]))[name]
    made: argparse.ArgumentParser = importlib.import_module(f"benchmarks.{name}").make_parser()
    return made


def test_every_argument_is_described(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            told, where = action.help or "", f"{parser.prog}: {action.option_strings or action.dest}"
            assert told, f"{where} says nothing"
            assert not told.startswith("default"), f"{where} says the default of what?"


EXAMPLE = re.compile(r" +(?:[A-Z_]+=\S+ )?((?:python |run_pipeline\.py ).*?)(?: \| .*)?")


def examples(text: str) -> list[list[str]]:
    """Commands in a help text, as words; of a pipe the first."""
    return [
        shlex.split(found[1], comments=True)
        for line in text.replace("\\\n", " ").splitlines()
        if (found := EXAMPLE.fullmatch(line))
    ]


def understand(words: list[str]) -> None:
    """Give a command to the parser that it is for."""
    if "run_pipeline.py" in words[:2]:
        make_parser().parse_args(words[words.index("run_pipeline.py") + 1 :])
    elif words[2] == "engines":
        engines_parser(words[3:]).parse_args(words[3:])
    else:
        importlib.import_module(words[2]).make_parser().parse_args(words[3:])


def test_every_help_has_examples_that_are_understood(parser: argparse.ArgumentParser) -> None:
    told = parser.format_help()
    found = examples(told)
    assert found, told
    for words in found:
        understand(words)
