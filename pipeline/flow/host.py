"""The host: a process with one thread that forks the workers, replaces them and dies with its parent.

Workers cannot be forked from the process that streams: it has threads (engine, codecs, ours,
and whatever the program has that called us), and a fork copies their locks in whatever state
they are but not the threads that would release them.  So the parent starts this program by
exec, which is safe from any process, and it alone forks.  It talks to the parent over one
inherited socket and to the workers not at all: it hands each one's sockets to the parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from pipeline import cpu
from pipeline.errors import PipelineError
from pipeline.flow import worker
from pipeline.flow.wire import CannotSpawn, Died, Kill, Spawn, Spawned, Wire

_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from pipeline.flow.host import main; main()"
_PR_SET_PDEATHSIG = 1
_CHECK_S = 1.0
"""How often to ask whether the parent lives: its end of the socket may have been copied by a fork."""


def launch(module: str, threads: int) -> tuple[subprocess.Popen[bytes], Wire]:
    """Start a host; called in the parent.

    Args:
        module: what the workers will import; the host imports it once, before it forks them.
        threads: numerical threads that a worker may use.
    """
    if not sys.executable:
        raise PipelineError("worker processes need the path of the Python interpreter, and sys.executable is empty")
    here, there = socket.socketpair()
    with there:
        arguments = [str(there.fileno()), str(os.getpid()), json.dumps(sys.path), module]
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            pass_fds=(there.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # ours may be the video
            start_new_session=True,  # a Ctrl-C is for the parent, which lets the workers finish
            env={**os.environ, **cpu.child_environment(threads)},
        )
    return process, Wire(here)


def main() -> None:
    """What the host runs."""
    fd, parent, module = int(sys.argv[1]), int(sys.argv[2]), sys.argv[4]
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)  # the parent decides when to end; workers inherit this
    if module:
        _preload(module)
    _Host(Wire.adopt(fd), parent).run()


def _preload(module: str) -> None:
    """Import what the workers need, once for all; start anew without if that started a thread."""
    with contextlib.suppress(Exception):  # the workers try again, and report it
        importlib.import_module(module)
    if _threads() != 1:
        os.execv(sys.executable, [*sys.orig_argv[:-1], ""])
    gc.collect()
    gc.freeze()  # collections in the workers then leave the shared pages alone


def _threads() -> int:
    tasks = Path("/proc/self/task")
    return sum(1 for _ in tasks.iterdir()) if tasks.is_dir() else 1


class _Host:
    def __init__(self, wire: Wire, parent: int) -> None:
        self._wire = wire
        self._parent = parent
        self._children: dict[int, int] = {}  # pid -> serial, until reaped: so no pid is stale
        self._woken, self._waker = socket.socketpair()

    def run(self) -> None:
        """Serve until the parent is gone, then take the workers along."""
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler must exist for the wakeup to be written
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            self._serve()
        except (EOFError, OSError):
            pass  # the parent is gone
        finally:
            self._end()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._wire, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while os.getppid() == self._parent:
                for key, _ in selector.select(_CHECK_S):
                    if key.fileobj is self._wire:
                        self._obey(selector)
                    else:
                        self._woken.recv(4096)
                        self._reap()

    def _obey(self, selector: selectors.BaseSelector) -> None:
        for raw, _ in self._wire.receive():
            match pickle.loads(raw):
                case Spawn(serial, name):
                    self._spawn(serial, name, selector)
                case Kill(serial):
                    self._kill(serial)

    def _spawn(self, serial: int, name: str, selector: selectors.BaseSelector) -> None:
        jobs, its_jobs = socket.socketpair()
        logs, its_logs = socket.socketpair()
        with jobs, its_jobs, logs, its_logs:
            try:
                pid = os.fork()
            except OSError as error:
                self._wire.send(CannotSpawn(f"cannot start a worker process: {error.strerror}"))
                return
            if pid == 0:
                jobs.close()
                logs.close()
                selector.close()
                self._become_worker(name, its_jobs, its_logs)
            self._children[pid] = serial
            self._wire.send(Spawned(serial, pid), [jobs.fileno(), logs.fileno()])

    def _become_worker(self, name: str, jobs: socket.socket, logs: socket.socket) -> NoReturn:
        """In the forked process: let go of what is the host's, and work until there is no more to do."""
        status = 1
        try:
            host = os.getppid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._woken.close()
            self._waker.close()
            self._wire.close()
            _die_with(host)
            worker.run(name, Wire(jobs), Wire(logs))
            status = 0
        except BaseException:  # the last words of a worker that cannot even speak to the parent
            traceback.print_exc()
        finally:
            os._exit(status)  # never back into the host's code, whatever happened

    def _kill(self, serial: int) -> None:
        for pid, known in self._children.items():
            if known == serial:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        for pid in list(self._children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._wire.send(Died(self._children.pop(pid), _in_words(status)))

    def _end(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)


def _die_with(host: int) -> None:
    """Ask the kernel to kill this process when the host dies, also in the middle of long native code."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != host:  # it died before the kernel knew
        os._exit(1)


def _in_words(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
