"""A plugin of pytest's: the suite that every engine passes, with TensorRT in the place of the others.

``FAKE_TENSORRT`` names the major release of a fake; where it is not set, the machine's own is taken.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from tests.engines import support
from tests.engines.tensorrt.conftest import faked

_session = ExitStack()


def pytest_configure() -> None:
    """Before any test is collected, since they are parametrised by the list of engines."""
    support.BACKENDS[:] = ["tensorrt"]
    major = os.environ.get("FAKE_TENSORRT")
    if major:
        _session.enter_context(faked(int(major)))


def pytest_unconfigure() -> None:
    """After all of them."""
    _session.close()
