"""Buffers, fair waiting and the crew of threads."""

from __future__ import annotations

import concurrent.futures
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from pipeline.errors import PipelineError
from pipeline.flow import Buffer, Closed, Crew, FairReader
from pipeline.flow.service import Service

pytestmark = pytest.mark.timeout(20)


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


class Clock:
    """Time that passes only when told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


# ---------------------------------------------------------------- Buffer


def test_items_come_out_in_order_and_then_closed() -> None:
    buffer: Buffer[int] = Buffer(3)
    for item in (1, 2, 3):
        buffer.put(item)
    buffer.close()
    assert [buffer.get(), buffer.get(), buffer.get()] == [1, 2, 3]
    with pytest.raises(Closed):
        buffer.get()
    with pytest.raises(Closed):
        buffer.put(4)


def test_full_and_empty_time_out() -> None:
    buffer: Buffer[int] = Buffer(1)
    with pytest.raises(TimeoutError):
        buffer.get(timeout=0)
    buffer.put(1)
    with pytest.raises(TimeoutError):
        buffer.put(2, timeout=0.01)
    assert len(buffer) == 1


def test_a_full_buffer_makes_its_writer_wait() -> None:
    buffer: Buffer[int] = Buffer(2)
    crew = Crew()
    crew.start("writer", lambda: [buffer.put(n) for n in range(50)])
    until(lambda: len(buffer) == 2)
    assert [buffer.get(timeout=5) for _ in range(50)] == list(range(50))
    crew.join(5)
    assert buffer.stats().max_depth == 2
    assert buffer.stats().dropped == 0


def test_the_oldest_is_dropped_and_reported() -> None:
    lost: list[int] = []
    buffer: Buffer[int] = Buffer(2, drop="oldest", on_drop=lost.append)
    for item in range(5):
        buffer.put(item)
    assert lost == [0, 1, 2]
    assert [buffer.get(), buffer.get()] == [3, 4]
    assert (buffer.stats().items, buffer.stats().dropped) == (5, 3)


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize("side", ["put", "get"])
def test_the_end_wakes_everybody(ending: str, side: str) -> None:
    buffer: Buffer[int] = Buffer(1)
    if side == "put":
        buffer.put(0)
    closed: list[str] = []

    def wait() -> None:
        try:
            buffer.put(1) if side == "put" else buffer.get()
        except Closed:
            closed.append(threading.current_thread().name)
            raise

    crew = Crew()
    for name in "abc":
        crew.start(name, wait)
    getattr(buffer, ending)()
    crew.join(5)
    assert sorted(closed) == ["a", "b", "c"]


def test_abort_discards_what_is_left() -> None:
    buffer: Buffer[int] = Buffer(2)
    buffer.put(1)
    buffer.abort()
    with pytest.raises(Closed):
        buffer.get()


def test_depth_is_weighted_by_time() -> None:
    clock = Clock()
    buffer: Buffer[str] = Buffer(4, clock=clock)
    clock.now = 2
    buffer.put("a")
    clock.now = 3
    buffer.put("b")
    clock.now = 4
    buffer.get()
    buffer.get()
    clock.now = 6
    stats = buffer.stats()
    assert stats.mean_depth == pytest.approx((0 * 2 + 1 * 1 + 2 * 1 + 0 * 2) / 6)
    assert (stats.max_depth, stats.items, stats.capacity) == (2, 2, 4)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Buffer(0)
    with pytest.raises(ValueError, match="'never' or 'oldest'"):
        Buffer(1, drop="newest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to read"):
        FairReader([])


# ---------------------------------------------------------------- FairReader


def test_buffers_are_served_in_turn() -> None:
    buffers: list[Buffer[int]] = [Buffer(8) for _ in range(3)]
    reader = FairReader(buffers)
    for n in range(6):
        buffers[0].put(n)
    buffers[2].put(100)
    buffers[2].put(101)
    assert [reader.get() for _ in range(5)] == [(0, 0), (2, 100), (0, 1), (2, 101), (0, 2)]
    buffers[1].put(200)
    assert reader.get(timeout=0) == (1, 200)


def test_a_turn_that_was_none_is_kept() -> None:
    """Until there is something, whatever comes from others meanwhile."""
    buffers: list[Buffer[int]] = [Buffer(8) for _ in range(3)]
    reader = FairReader(buffers)
    for buffer in buffers:
        buffer.put(0)
    assert [reader.get() for _ in range(2)] == [(0, 0), (1, 0)]
    reader.again(1)
    buffers[0].put(1)
    buffers[2].put(1)
    assert reader.get() == (2, 0)
    buffers[1].put(1)
    assert [reader.get() for _ in range(3)] == [(1, 1), (0, 1), (2, 1)]


def test_the_reader_waits_times_out_and_ends() -> None:
    buffers: list[Buffer[int]] = [Buffer(1), Buffer(1)]
    reader = FairReader(buffers)
    with pytest.raises(TimeoutError):
        reader.get(timeout=0)
    with pytest.raises(TimeoutError):
        reader.get(timeout=0.01)
    buffers[1].put(5)
    buffers[0].close()
    buffers[1].close()
    assert reader.get() == (1, 5)
    with pytest.raises(Closed):
        reader.get()


def test_what_is_not_wanted_stays_where_it_is() -> None:
    buffers: list[Buffer[int]] = [Buffer(2) for _ in range(2)]
    reader = FairReader(buffers)
    buffers[0].put(1)
    buffers[0].put(2)
    buffers[0].close()
    with pytest.raises(TimeoutError):
        buffers[0].get(0, lambda item: item == 2)  # the oldest decides
    buffers[1].put(3)
    assert reader.get(0, lambda _, item: item > 2) == (1, 3)
    with pytest.raises(TimeoutError):
        reader.get(0.01, lambda index, _: index == 1)
    assert [reader.get(0) for _ in range(2)] == [(0, 1), (0, 2)]
    with pytest.raises(Closed):
        buffers[0].get(0, lambda _: False)


def test_no_item_is_slept_over() -> None:
    buffers: list[Buffer[int]] = [Buffer(1) for _ in range(3)]
    reader = FairReader(buffers)
    crew = Crew()

    def write(buffer: Buffer[int]) -> None:
        for n in range(400):
            buffer.put(n)
        buffer.close()

    for index, buffer in enumerate(buffers):
        crew.start(f"writer {index}", write, buffer)
    got: list[list[int]] = [[], [], []]
    with pytest.raises(Closed):
        while True:
            index, item = reader.get(timeout=5)
            got[index].append(item)
    assert got == [list(range(400))] * 3
    crew.join(5)


# ---------------------------------------------------------------- Crew


def test_the_first_failure_is_raised_once_and_nobody_hangs() -> None:
    empty: Buffer[int] = Buffer(1)
    full: Buffer[int] = Buffer(1)
    full.put(0)
    told: list[BaseException] = []
    crew = Crew(on_failure=told.append)
    crew.watch(empty, full)
    failure = ValueError("first")

    def fail() -> None:
        raise failure

    crew.start("reader", empty.get)
    crew.start("writer", full.put, 1)
    crew.start("failing", fail)
    assert crew.wait(5)
    with pytest.raises(ValueError, match="first") as caught:
        crew.join(5)
    assert caught.value is failure
    assert told == [failure]
    assert crew.alive == ()
    assert crew.failed
    assert crew.stopping
    crew.check()
    crew.join(5)


def test_what_is_watched_late_is_aborted_at_once() -> None:
    crew = Crew()
    crew.stop()
    buffer: Buffer[int] = Buffer(1)
    crew.watch(buffer)
    assert buffer.closed


def test_stop_ends_waiting_threads_without_an_error() -> None:
    buffer: Buffer[int] = Buffer(1)
    crew = Crew()
    crew.watch(buffer)
    crew.start("reader", buffer.get)
    assert not crew.wait(0.01)
    assert crew.alive == ("reader",)
    crew.stop()
    crew.join(5)


def test_a_thread_that_does_not_end_is_named() -> None:
    release = threading.Event()
    crew = Crew()
    crew.start("stubborn", release.wait)
    with pytest.raises(PipelineError, match=r"did not end within 0\.05 s: stubborn"):
        crew.join(0.05)
    crew.start("failing", lambda: 1 // 0)
    until(lambda: crew.alive == ("stubborn",))
    with pytest.raises(ZeroDivisionError) as caught:
        crew.join(0.05)
    assert caught.value.__notes__ == ["did not end within 0.05 s: stubborn"]
    release.set()
    crew.join(5)


# ---------------------------------------------------------------- Service


def test_a_process_that_stood_still_does_not_give_its_service_up() -> None:
    """After Ctrl-Z and fg, or a machine that slept, all deadlines are over, and nobody was late."""
    program = """
import os, signal, time
from pipeline.flow.service import Service

async def busy():
    print("stop me", flush=True)
    for _ in range(20):
        time.sleep(0.02)

service = Service.join()
service.call(busy(), timeout=1.5)
service.leave()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"stop me\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        process.send_signal(signal.SIGCONT)
        assert process.wait(10) == 0, process.communicate()[1].decode()


def test_a_call_that_is_done_just_when_its_wait_ends_has_an_answer() -> None:
    class Late(concurrent.futures.Future[int]):
        def result(self, timeout: float | None = None) -> int:
            if not self.done():
                self.set_result(7)
                raise concurrent.futures.TimeoutError
            return super().result(timeout)

    assert Service._wait(Late(), 1.0) == 7
