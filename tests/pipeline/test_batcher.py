"""Whose frames go into the engine together: each input keeps its order, and none waits for one that is stuck."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.flow import Buffer
from pipeline.runner import batching
from pipeline.runner.batching import Batch, Batcher

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]


class Inputs:
    """As many inputs as the batcher sees of them: a buffer each, and frames of one size."""

    def __init__(self, count: int, most: int = 8, request_s: float = 0.0) -> None:
        self.buffers: list[Buffer[Any]] = [Buffer(16) for _ in range(count)]
        self.late: set[str] = set()
        lanes = [SimpleNamespace(ready=buffer, admit=lambda ticket: ticket.frame.source not in self.late)
                 for buffer in self.buffers]  # fmt: skip
        self.lanes = lanes
        self.batcher = Batcher(lanes, most)  # type: ignore[arg-type]
        self.batcher.took(request_s)

    def bring(self, index: int, name: str, size: tuple[int, int] = (64, 64)) -> None:
        epoch = SimpleNamespace(session=SimpleNamespace(input_size=size))
        self.buffers[index].put(SimpleNamespace(epoch=epoch, frame=SimpleNamespace(source=name)))

    def end(self, index: int) -> None:
        self.buffers[index].put(None)

    def next(self) -> tuple[str, Batch]:
        batch = self.batcher.next()
        return batch.name, batch

    def beat(self, index: int, seconds: float) -> None:
        """Let an input bring two frames, so far apart."""
        for pause in (seconds, 0):
            self.bring(index, "earlier")
            self.batcher.next()
            time.sleep(pause)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> float:
    """A longest wait that no loaded machine mistakes for none."""
    monkeypatch.setattr(batching, "LONGEST_WAIT_S", 0.4)
    return 0.4


def test_what_is_there_goes_together_one_frame_of_an_input() -> None:
    inputs = Inputs(3)
    for index, name in [(0, "a1"), (0, "a2"), (2, "c1"), (0, "a3"), (2, "c2")]:
        inputs.bring(index, name)
    assert [inputs.next()[0] for _ in range(3)] == ["a1 + c1", "a2 + c2", "a3"]


def test_a_batch_is_no_larger_than_the_engine_takes_and_nobody_is_passed_over() -> None:
    inputs = Inputs(3, most=2)
    for index, name in [(index, f"{'abc'[index]}{turn}") for turn in range(2) for index in range(3)]:
        inputs.bring(index, name)
    assert [inputs.next()[0] for _ in range(3)] == ["a0 + b0", "c0 + a1", "b1 + c1"]


def test_sizes_are_not_mixed_and_take_turns() -> None:
    inputs = Inputs(4)
    small, large = (64, 64), (64, 96)
    for turn in range(2):
        for index, size in enumerate([small, large, small, large]):
            inputs.bring(index, f"{'abcd'[index]}{turn}", size)
    assert [inputs.next()[0] for _ in range(4)] == ["a0 + c0", "b0 + d0", "a1 + c1", "b1 + d1"]


def test_an_end_comes_after_the_inputs_last_frame() -> None:
    inputs = Inputs(2)
    inputs.bring(0, "a1")
    inputs.end(0)
    inputs.bring(1, "b1", (64, 96))
    name, batch = inputs.next()
    assert (name, batch.ended) == ("a1", (inputs.lanes[0],))
    assert not inputs.batcher.ended
    inputs.end(1)
    name, batch = inputs.next()
    assert (name, batch.ended) == ("b1", (inputs.lanes[1],))
    assert inputs.batcher.ended


def test_what_is_too_old_takes_no_place() -> None:
    inputs = Inputs(2)
    inputs.late = {"a1", "b1"}
    inputs.bring(0, "a1")
    assert inputs.next()[1].members == ()
    inputs.bring(1, "b0")
    inputs.bring(0, "a2")
    inputs.bring(1, "b1")
    assert inputs.next()[0] == "a2 + b0", "whose frame was too old keeps its turn"
    assert inputs.next()[1].members == ()


def test_one_input_waits_for_nobody(patient: float) -> None:
    inputs = Inputs(1, request_s=patient)
    inputs.beat(0, 0.01)
    inputs.bring(0, "a")
    name, batch = inputs.next()
    assert name == "a"
    assert batch.waited_s < patient / 4


def test_an_input_that_is_due_is_waited_for(patient: float) -> None:
    inputs = Inputs(2, request_s=patient)
    inputs.beat(1, 0.1)
    inputs.bring(0, "a")
    later = threading.Timer(0.1, inputs.bring, (1, "b"))
    later.start()
    name, batch = inputs.next()
    later.join()
    assert name == "a + b"
    assert 0.05 < batch.waited_s < patient


def test_a_lone_frame_waits_no_longer_than_that(patient: float) -> None:
    inputs = Inputs(2, request_s=10.0)
    inputs.beat(1, 0.1)
    inputs.bring(0, "a")
    name, batch = inputs.next()
    assert name == "a"
    assert patient <= batch.waited_s < 2 * patient


def test_a_fast_engine_is_not_waited_before(patient: float) -> None:
    """What takes 10 ms alone must not wait for 400."""
    inputs = Inputs(2, request_s=0.01)
    inputs.beat(1, 0.1)
    time.sleep(0.095)
    inputs.bring(0, "a")
    assert inputs.next()[1].waited_s < patient / 4


def test_an_input_that_is_stuck_or_ended_is_not_waited_for(patient: float) -> None:
    inputs = Inputs(3, request_s=patient)
    inputs.beat(1, 0.01)
    inputs.end(1)
    inputs.beat(2, 0.01)
    time.sleep(patient + 0.05)
    inputs.bring(0, "a")
    inputs.next()
    inputs.bring(0, "a")
    assert inputs.next()[1].waited_s < patient / 4
