"""The threads of a run: started by name, ended together, and their first failure kept."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from engines.stragglers import leave_behind
from pipeline.errors import PipelineError
from pipeline.flow.buffer import Closed


class Abortable(Protocol):
    """Something that threads wait on and that can send them all home."""

    def abort(self) -> None:
        """Wake every waiter with `Closed`."""


class Crew:
    """A set of threads that live and fail together.

    The first exception that leaves a thread is kept as it is, everything registered with
    `watch` is aborted so that nobody waits for the dead, and `check` or `join` raises the
    exception once.  `Closed` is how a thread learns of the end, so it counts as a normal one.
    """

    def __init__(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        """``on_failure`` is called once, in the failing thread, after everything was aborted."""
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._running: set[threading.Thread] = set()
        # Whoever waits on a thing holds it; the crew does not keep alive what nobody uses any more.
        self._watched: list[weakref.ref[Abortable]] = []
        self._failure: BaseException | None = None
        self._failed = False
        self._raised = False
        self._stopping = False

    def watch(self, *waited_on: Abortable) -> None:
        """Register buffers (pools, lanes …) to abort when a thread fails or `stop` is called."""
        with self._lock:
            self._watched = [known for known in self._watched if known() is not None]
            self._watched.extend(weakref.ref(each) for each in waited_on)
            late = self._stopping
        if late:
            for each in waited_on:
                each.abort()

    def start(self, name: str, target: Callable[..., object], *args: object) -> None:
        """Run ``target(*args)`` in a thread of that name."""
        thread = threading.Thread(target=self._run, name=name, args=(target, args), daemon=True)
        with self._lock:
            self._threads.append(thread)
            self._running.add(thread)
        try:
            thread.start()
        except BaseException:  # the system has no thread to give: do not wait for it at the end
            with self._lock:
                self._threads.remove(thread)
                self._running.discard(thread)
            raise

    @property
    def stopping(self) -> bool:
        """A thread failed, or `stop` was called; for loops that wait on nothing of ours."""
        return self._stopping

    @property
    def failed(self) -> bool:
        """A thread failed, whether or not its exception has been raised already."""
        return self._failed

    @property
    def alive(self) -> tuple[str, ...]:
        """Names of the threads that still run."""
        with self._lock:
            return tuple(thread.name for thread in self._threads if thread in self._running)

    def stop(self) -> None:
        """Abort everything registered; threads end as soon as they wait again."""
        with self._lock:
            self._stopping = True
            watched = [each for known in self._watched if (each := known()) is not None]
        for each in watched:
            each.abort()

    def check(self) -> None:
        """Raise the first failure, once."""
        with self._lock:
            if self._failure is None or self._raised:
                return
            self._raised = True
            failure = self._failure
            self._failure = None  # its traceback holds the thread's frames, and they hold arrays
        raise failure

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until all threads have ended or one has failed; False if ``timeout`` came first."""
        with self._lock:
            return self._ended.wait_for(lambda: not self._running or self._failed, timeout)

    def join(self, timeout: float) -> None:
        """Wait for all threads to end, then raise the first failure if it was not raised before.

        Raises:
            PipelineError: some threads did not end in time, and are left behind; it names them.  A failure comes
                first and carries their names as a note.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            self._ended.wait_for(lambda: not self._running, timeout)
            threads = [thread for thread in self._threads if thread not in self._running]
        for thread in threads:  # ended but for its last instructions
            thread.join(max(0.1, deadline - time.monotonic()))
        with self._lock:
            left = tuple(thread for thread in self._threads if thread in self._running)
        for thread in left:
            leave_behind(thread)
        late = ", ".join(thread.name for thread in left)
        complaint = f"did not end within {timeout:g} s: {late}" if late else ""
        with self._lock:
            if complaint and self._failure is not None:
                self._failure.add_note(complaint)
        self.check()
        if complaint:
            raise PipelineError(f"threads {complaint}")

    def _run(self, target: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            target(*args)
        except Closed:
            pass
        except BaseException as error:  # it must reach the runner whatever it is
            self._fail(error)
        finally:
            with self._lock:
                self._running.discard(threading.current_thread())
                self._ended.notify_all()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first = not self._failed
            if first:
                self._failed = True
                self._failure = error
        if not first:
            return
        self.stop()
        if self._on_failure is not None:
            self._on_failure(error)
        with self._lock:
            self._ended.notify_all()
