"""The worker pool with real processes and real signals: frames and the ways through it."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import StageError
from pipeline.flow import Closed, WorkerPool
from tests.pipeline.pooling import PATIENCE, descriptors, jobs, ring_of, stream, until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

# ---------------------------------------------------------------- frames


def test_frames_come_out_in_order_although_workers_are_killed_at_random() -> None:
    chance = random.Random(20)
    killed = 0
    with ring_of(12) as ring, WorkerPool(3, jobs("slow-copy")) as pool:
        pool.wait_ready(PATIENCE)

        def kill_sometimes(done: int) -> None:
            nonlocal killed
            if done % 15 == 0 and len(pool.pids) > 1:
                os.kill(chance.choice(pool.pids[1:]), signal.SIGKILL)
                killed += 1

        outcomes = stream(pool.lane(ring), ring, 300, kill_sometimes)
        assert [outcome.index for outcome in outcomes] == list(range(300))
        assert [outcome.value for outcome in outcomes] == list(range(0, 3000, 10))
        assert all(outcome.refined for outcome in outcomes)
        until(lambda: pool.stats().deaths == killed)
        assert killed >= 15
        assert pool.stats().done == 300
        assert pool.stats().unrefined == 0
        assert pool.stats().busy_s > 300 * 0.004


def test_a_frame_that_kills_two_workers_passes_unrefined(tmp_path: Path) -> None:
    with ring_of(4) as ring, WorkerPool(2, jobs("die", tmp_path)) as pool:
        outcomes = stream(pool.lane(ring), ring, 8)
        assert [outcome.index for outcome in outcomes] == list(range(8))
        assert [outcome.index for outcome in outcomes if not outcome.refined] == [2]
        assert outcomes[2].error == "2 refine workers died on frame 2; it passes without"
        assert (pool.stats().unrefined, pool.stats().deaths, pool.stats().done) == (1, 3, 7)


def test_an_exception_is_raised_once_at_its_frame(tmp_path: Path) -> None:
    with ring_of(8) as ring, WorkerPool(2, jobs("raise"), stage="sharpen") as pool:
        lane = pool.lane(ring)
        for index in range(8):
            lane.submit(index, index)
        assert [lane.next(PATIENCE).index for _ in range(3)] == [0, 1, 2]
        with pytest.raises(StageError, match="sharpen failed on frame 3: ValueError: cannot do 3") as caught:
            lane.next(PATIENCE)
        assert (caught.value.stage, caught.value.index) == ("sharpen", 3)
        assert "do_raise" in str(caught.value.__cause__)
        assert [lane.next(PATIENCE).index for _ in range(4)] == [4, 5, 6, 7]
        assert pool.stats().deaths == 0


@pytest.mark.parametrize(("kind", "message"), [("exit", "frame 1: SystemExit: 3"), ("unpicklable", "frame 1: .*ickle")])
def test_other_ways_to_fail_are_exceptions_too(kind: str, message: str) -> None:
    with ring_of(2) as ring, WorkerPool(1, jobs(kind)) as pool:
        lane = pool.lane(ring)
        lane.submit(0, 1)
        with pytest.raises(StageError, match=message):
            lane.next(PATIENCE)


@pytest.mark.parametrize("stop", [False, True])
def test_a_worker_that_hangs_or_is_stopped_is_killed(stop: bool, tmp_path: Path) -> None:
    with ring_of(2) as ring, WorkerPool(1, jobs("hang", tmp_path), patience=0.2) as pool:
        pool.wait_ready(PATIENCE)
        if stop:
            os.kill(pool.pids[1], signal.SIGSTOP)
        lane = pool.lane(ring)
        lane.submit(1, 7)
        outcome = lane.next(PATIENCE)
        assert (outcome.refined, outcome.slot, outcome.index) == (False, 1, 7)
        assert pool.stats().deaths == 2


# ---------------------------------------------------------------- lanes


def test_lanes_are_served_in_turn(tmp_path: Path) -> None:
    with ring_of(20) as one, ring_of(20, 20, 30) as two, WorkerPool(1, jobs("crowd", tmp_path)) as pool:
        lanes = pool.lane(one), pool.lane(two)
        with pool.lock:  # nothing is dispatched before all is submitted
            for index in range(20):
                lanes[0].submit(index, index)
            for index in range(20):
                lanes[1].submit(index, 100 + index)
        for lane in lanes:
            lane.close()
        assert [lanes[1].next(PATIENCE).index for _ in range(20)] == list(range(100, 120))
        assert [lanes[0].next(PATIENCE).index for _ in range(20)] == list(range(20))
        done = [int(line) for line in (tmp_path / "crowd").read_text().split()]
        assert abs(sum(index < 100 for index in done[:20]) - 10) <= 1
        for lane in lanes:
            with pytest.raises(Closed):
                lane.next(PATIENCE)


def test_a_closed_lane_drains_and_the_workers_let_go_of_its_ring() -> None:
    def mapped(pid: int) -> int:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").count("deeplab-slots")

    with WorkerPool(1, jobs("copy")) as pool:
        before = descriptors()
        for epoch in range(3):
            with ring_of(2, 20 + 2 * epoch) as ring:
                lane = pool.lane(ring)
                lane.submit(0, 0)
                lane.close()
                with pytest.raises(Closed):
                    lane.submit(1, 1)
                assert lane.next(PATIENCE).index == 0
                with pytest.raises(Closed):
                    lane.next(PATIENCE)
                lane.close()
        until(lambda: mapped(pool.pids[1]) == 0)
        assert len(descriptors()) <= len(before) + 2  # the worker's sockets, should it only have come now


def test_an_aborted_lane_wakes_its_reader_and_leaves_others_alone(tmp_path: Path) -> None:
    with ring_of(2) as one, ring_of(2) as two, WorkerPool(2, jobs("hang", tmp_path)) as pool:
        first, second = pool.lane(one), pool.lane(two)
        first.submit(0, 0)
        ended: list[str] = []

        def wait() -> None:
            with pytest.raises(Closed):
                first.next()
            ended.append("first")

        thread = threading.Thread(target=wait)
        thread.start()
        first.abort()
        first.abort()
        thread.join(5)
        assert ended == ["first"]
        second.submit(0, 0)
        with pytest.raises(TimeoutError):
            second.next(0.01)
        assert len(second) == 1
        with pytest.raises(ValueError, match="slot 9 is not in a ring of 2"):
            second.submit(9, 1)


def test_workers_that_come_later_know_the_lanes_that_are_open() -> None:
    with ring_of(3) as ring, WorkerPool(1, jobs("copy")) as pool:
        lane = pool.lane(ring)
        stream(lane, ring, 3)
        for _ in range(3):
            os.kill(pool.pids[1], signal.SIGKILL)
            stream(lane, ring, 3)
        assert pool.stats().deaths == 3
