"""What a run serves, and whether it can all be served beside one another."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from pipeline.errors import ConfigError
from pipeline.options import RunOptions
from pipeline.sinks.serve.address import Address, metrics_address, refuse_open_door, serve_address


def refuse_shared_ports(options: RunOptions) -> None:
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
