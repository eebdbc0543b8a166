"""Ports for the servers of tests."""

from __future__ import annotations

import os
import secrets
import socket
from contextlib import suppress
from itertools import count

# The system hands out ports from 32768 on to whoever asks for any, those who connect among them.
_LOWEST, _OF_A_WORKER, _WORKERS = 10_000, 1_000, 22
_FIRST = _LOWEST + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % _WORKERS * _OF_A_WORKER
_TURNS = count(secrets.randbelow(_OF_A_WORKER), 2)  # RTP's has RTCP's behind it


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port that nobody has, and that nobody comes by until a test's own server has begun to listen.

    Every process of pytest-xdist has ports of its own, and takes another one each time.
    """
    while True:
        port = _FIRST + next(_TURNS) % _OF_A_WORKER
        with socket.socket(socket.AF_INET, kind) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
