"""A part of `benchmarks.gpu` in processes of its own: it is ended when its time is up, whatever hangs in it.

    python -m benchmarks.gpu_parts MODULE:FUNCTION DESCRIPTOR < arguments.json

runs a generator and writes each thing that it finds to the descriptor, as a line of JSON.  Drivers and compilers
hang in calls that nothing interrupts, so only the end of their process ends them.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[1]

_POLL_S = 0.1
_DIES_WITHIN_S = 2.0
"""After SIGKILL: what hangs inside the driver stays until that lets go of it, and is not waited for."""


class PartError(Exception):
    """A part, or the rest of it, that was not measured; the message says why."""


def findings(
    function: str, given: dict[str, Any], seconds: float, limit: Callable[[float], float] = lambda left: left
) -> Iterator[Any]:
    """What a part finds, as it comes; however this ends, none of the part's processes is left.

    Args:
        function: ``"module:name"`` of a generator of what JSON can tell.
        given: its arguments, by name.
        seconds: that it may take.
        limit: how long it may be silent, of the seconds that are left.

    Raises:
        PartError: it failed, or was ended.
    """
    ours, theirs = os.pipe()
    end = time.monotonic() + seconds
    with (
        os.fdopen(ours, "rb", buffering=0) as pipe,
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as words,
    ):
        words.write(json.dumps(given).encode())
        words.seek(0)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.gpu_parts", function, str(theirs)],
                cwd=ROOT, stdin=words, stdout=said, stderr=said, pass_fds=[theirs], start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(theirs)
        try:
            lines = _lines(pipe, process.pid)
            while True:
                allowed = limit(max(0.0, end - time.monotonic()))
                if not allowed:  # however much it tells
                    raise PartError(f"it was not done within {seconds:.1f} s")
                kind, value = _next(lines, time.monotonic() + allowed, allowed)
                if kind == "found":
                    yield value
                elif kind == "ended":
                    return
                else:
                    raise PartError(f"it failed: {value}")
        except EOFError:
            raise PartError(f"it ended early: {_last_line(said) or 'without a word'}") from None
        finally:
            _kill(process)


def _next(lines: Iterator[bytes | None], deadline: float, allowed: float) -> tuple[str, Any]:
    """The next line; ``lines`` gives None where there is none yet."""
    for line in lines:
        if line is not None:
            return tuple(json.loads(line))
        if time.monotonic() >= deadline:
            raise PartError(f"it was not done within {allowed:.1f} s")
    raise EOFError


def _lines(pipe: IO[bytes], process: int) -> Iterator[bytes | None]:
    """Lines, and None every now and then; ends with the process, since its children may hold the pipe open."""
    kept = b""
    while True:
        gone = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        while select.select([pipe], [], [], 0 if gone else _POLL_S)[0]:
            read = pipe.read(1 << 16)
            if not read:
                return
            *whole, kept = (kept + read).split(b"\n")
            yield from whole
        if gone:
            return
        yield None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process that has not been waited for, so that its number is still its own, and all that it has started."""
    from pipeline.runner.usage import started_by  # not above: a part shall begin soon

    os.killpg(process.pid, signal.SIGSTOP)  # so that none starts another one meanwhile
    # Those with sessions of their own, too, by whoever has started them: the part itself may have ended.
    for other in [int(path.name) for member in _members(process.pid) for path in started_by(member)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(other, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_DIES_WITHIN_S)


def _members(group: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(int(path.name)) == group:
                yield int(path.name)


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    return next((line[:300] for line in reversed(lines) if line), "")


def main() -> None:
    """Run a part and tell what it finds."""
    function, descriptor = sys.argv[1:]
    os.set_inheritable(int(descriptor), False)
    module, _, name = function.partition(":")
    with os.fdopen(int(descriptor), "w") as pipe:

        def tell(kind: str, value: object = None) -> None:
            pipe.write(f"{json.dumps([kind, value])}\n")
            pipe.flush()

        try:
            for found in getattr(importlib.import_module(module), name)(**json.load(sys.stdin)):
                tell("found", found)
        except Exception as error:  # of anybody's runtime: the other figures are worth no less
            tell("failed", " ".join(str(error).split())[:300] or type(error).__name__)
        else:
            tell("ended")


if __name__ == "__main__":
    main()
