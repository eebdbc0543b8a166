"""Ways to hand a file to a source other than by its name, each a context manager."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


@contextmanager
def standard_input(command: list[str]) -> Iterator[None]:
    """Make descriptor 0 a pipe that ``command`` writes."""
    saved = os.dup(0)
    writer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    os.dup2(writer.stdout.fileno(), 0)
    writer.stdout.close()
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        writer.kill()
        writer.wait()


@contextmanager
def named_pipe(path: Path, source: Path) -> Iterator[None]:
    """A named pipe at ``path`` that a program fills from ``source``."""
    os.mkfifo(path)
    with subprocess.Popen(["sh", "-c", 'exec cat "$0" > "$1"', str(source), str(path)]) as writer:
        try:
            yield
        finally:
            writer.kill()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder; gives the address of its root without a slash at the end."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def talker(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[int]:
    """A TCP server that treats each connection with ``answer``; gives its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                answer(connection, over)
            except OSError:
                return  # the client has gone: most tests want just that

    def accept() -> None:
        handlers = []
        while not over.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            handlers.append(threading.Thread(target=serve, args=(connection,)))
            handlers[-1].start()
        for handler in handlers:
            handler.join(5)

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        over.set()
        thread.join(10)
        listener.close()
