"""What a run reads, writes and serves, and whether it can do all of it beside one another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations
from pathlib import Path

from pipeline.errors import ConfigError, SourceError
from pipeline.options import RunOptions
from pipeline.sinks import is_watched
from pipeline.sinks.serve.address import Address, metrics_address, refuse_open_door, serve_address
from pipeline.sources.places import images_of


def refuse_clashes(options: RunOptions, report: str | None = None) -> None:
    """See that nothing is written over an input, the model, or another output of the same run, or served beside it.

    Args:
        options: the run.
        report: one more file that will be written.

    Raises:
        ConfigError: two of them are one file or directory, however each is spelled, or want one port.
    """
    _refuse_shared_ports(options)
    read = {os.path.realpath(path): what for path, what in _read(options)}
    taken: dict[str, str] = {}
    written_too = [(f"report {report}", report)] if report is not None else []
    for uri, path in (*written(options), *written_too):
        real = path if is_watched(uri) else os.path.realpath(path)
        # Pictures with running numbers may hit any of those that lie where they go.
        found = read.get(real) or (read.get(str(Path(real).parent)) if "%" in Path(path).name else None)
        if found is not None:
            raise ConfigError(f"{uri} is {found}: choose another")
        if real in taken:
            raise ConfigError(f"two outputs would write {path} ({taken[real]} and {uri}): give each its own name")
        taken[real] = uri


def written(options: RunOptions) -> Iterator[tuple[str, str]]:
    """What is written, as messages call it, and its path."""
    for one in options.inputs:
        for uri in (*one.outputs, *one.masks):
            if uri not in ("-", "null"):
                yield uri, uri
        for uri in one.masks:
            if uri.lower().endswith(".mkv"):
                yield uri, f"{uri}.jsonl"


def _read(options: RunOptions) -> Iterator[tuple[str, str]]:
    yield options.model.name, "the model itself"
    for one in options.inputs:
        path = one.uri.removeprefix("file:").removeprefix("//") if one.uri.startswith("file:") else one.uri
        if Path(path).is_file():
            yield path, "the input itself" if len(options.inputs) == 1 else f"the input {one.uri}"
        elif "://" not in path:
            with suppress(SourceError, OSError, ValueError):  # complained of when it is opened
                for image in images_of(path):
                    yield str(image), f"a picture of the input {one.uri}"
                    yield str(image.parent), "the directory that the input is read from"


def _refuse_shared_ports(options: RunOptions) -> None:
    """See that no two servers of a run want one port, and that metrics are told only as the user allows.

    Raises:
        ConfigError: they do, or an address is none.
    """
    for (one, a), (other, b) in combinations(_served(options), 2):
        shared = (a.scheme, a.host) == (b.scheme, b.host) and a.path != b.path
        if a.port and a.port == b.port and not shared and a.overlaps(b):
            raise ConfigError(f"{one} and {other} cannot share port {a.port}: give each its own")


def _served(options: RunOptions) -> Iterator[tuple[str, Address]]:
    """What is served, as messages call it, and where."""
    if options.serve.metrics is not None:
        metrics = metrics_address(options.serve.metrics)
        refuse_open_door(metrics, options.serve)
        yield f"--metrics-port {options.serve.metrics}", metrics
    for uri in dict.fromkeys(uri for one in options.inputs for uri in (*one.outputs, *one.masks)):
        address = serve_address(uri)
        if address is not None:
            yield uri, address
