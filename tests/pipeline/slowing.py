"""Parts that take longer than they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from engines.backends.common import LaneRequest


def late(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """The function, begun so much later."""

    def slowly(*args: Any, **more: Any) -> Any:
        time.sleep(seconds)
        return function(*args, **more)

    return slowly


def slow(patch: pytest.MonkeyPatch, owner: object, name: str, seconds: float) -> None:
    """Let something of that name be late."""
    patch.setattr(owner, name, late(getattr(owner, name), seconds))


def slow_network(patch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let whoever waits for the network's scores wait so much longer."""
    slow(patch, LaneRequest, "wait", seconds)
