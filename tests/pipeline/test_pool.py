"""The worker pool with real processes and real signals."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, PipelineError, StageError
from pipeline.flow import Closed, Outcome, PoolLane, WorkerPool
from pipeline.flow.lane import as_error
from pipeline.flow.wire import Failed
from pipeline.frame import FORMATS, Colour, Geometry
from pipeline.slots import Ring, SlotLayout
from tests.pipeline.pool_jobs import Jobs

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

ROOT = str(Path(__file__).parents[2])
PATIENCE = 20.0


def jobs(kind: str, folder: Path | str = "") -> Jobs:
    return Jobs(kind, str(folder))


def ring_of(count: int, height: int = 36, width: int = 64) -> Ring:
    geometry = Geometry.fit(height, width, size=32, multiple=16)
    scores = (3, geometry.input_height // 16, geometry.input_width // 16)
    return Ring(SlotLayout(FORMATS["yuv420p"], Colour(6), height, width, geometry, scores), count)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: tuple[int, ...], seconds: float = 3.0) -> None:
    until(lambda: not any(alive(pid) for pid in pids), seconds)


def descriptors() -> list[str]:
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def names_in_shm(pid: int) -> list[str]:
    """What a process has open in /dev/shm; the folder itself is everybody's, and others use it meanwhile."""
    links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink())
    return [link for link in links if link.startswith("/dev/shm/")]


def stream(lane: PoolLane, ring: Ring, frames: int, after: Callable[[int], None] = lambda _: None) -> list[Outcome]:
    """Send frames through a lane as the pipeline does: a slot is used again when its frame has come out."""
    free = list(range(len(ring)))
    outcomes: list[Outcome] = []
    sent = 0
    while len(outcomes) < frames:
        while free and sent < frames:
            slot = free.pop(0)
            ring[slot].planes[0][:] = sent % 200
            ring[slot].labels[:] = 254
            lane.submit(slot, sent)
            sent += 1
        outcome = lane.next(PATIENCE)
        labels = np.unique(ring[outcome.slot].labels).tolist()
        if outcome.refined:
            assert labels == [len(outcomes) % 200 + 1], f"frame {outcome.index} has labels {labels}"
        outcomes.append(outcome)
        free.append(outcome.slot)
        after(len(outcomes))
    return outcomes


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
        return Path(f"/proc/{pid}/maps").read_text().count("deeplab-slots")

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


# ---------------------------------------------------------------- processes


def test_workers_are_forked_from_one_thread_and_use_one() -> None:
    stay = threading.Event()
    busy = [threading.Thread(target=stay.wait, daemon=True) for _ in range(3)]
    for thread in busy:
        thread.start()
    with ring_of(2) as ring, WorkerPool(2, jobs("which")) as pool:
        lane = pool.lane(ring)
        lane.submit(0, 0)
        pid, threads, limit, numpy = lane.next(PATIENCE).value  # type: ignore[misc]
        assert pid in pool.pids[1:]
        assert (threads, limit, numpy) == (1, "1", True)
        for each in pool.pids:
            assert len(list(Path(f"/proc/{each}/task").iterdir())) == 1
        pool.wait_ready(PATIENCE)
        for each in pool.pids:  # a Ctrl-C or a shutdown is for the parent to act upon
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(each, number)
        lane.submit(1, 1)
        assert lane.next(PATIENCE).index == 1
        assert pool.stats().deaths == 0
    stay.set()


def test_close_while_busy_is_quick_and_leaves_nothing(tmp_path: Path) -> None:
    with ring_of(1):  # whatever is made once in a process
        pass
    before = descriptors()
    with ring_of(4) as ring:
        pool = WorkerPool(2, jobs("hang", tmp_path))
        lane = pool.lane(ring)
        for index in range(4):
            lane.submit(index, index)
        until(lambda: len(list(tmp_path.glob("busy-*"))) == 2)
        pids = pool.pids
        assert len(pids) == 3
        assert not any(names_in_shm(pid) for pid in (os.getpid(), *pids))
        began = time.monotonic()
        pool.close()
        assert time.monotonic() - began < 4
        gone(pids)
        pool.close()
        with pytest.raises(Closed):
            lane.next(PATIENCE)
        with pytest.raises(Closed):
            lane.submit(0, 9)
        with pytest.raises(Closed):
            pool.lane(ring)
    assert descriptors() == before
    assert not {"pool", "worker-logs"} & {thread.name for thread in threading.enumerate()}


def test_close_before_the_workers_have_started() -> None:
    pool = WorkerPool(2, jobs("copy"))
    pid = pool.pids[0]
    pool.close()
    gone((pid,))


PARENT = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.pipeline.test_pool import jobs, ring_of, until
from pipeline.flow import WorkerPool
marks = Path(sys.argv[2])
ring = ring_of(2)
pool = WorkerPool(2, jobs("hang", marks))
lane = pool.lane(ring)
lane.submit(0, 0)
lane.submit(1, 1)
until(lambda: len(list(marks.glob("busy-*"))) == 2)
heir = os.fork() if sys.argv[3] == "heir" else -1
if heir == 0:
    time.sleep(60)
print(*pool.pids, heir, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("heir", ["none", "heir"])
def test_no_orphan_when_the_parent_is_killed(heir: str, tmp_path: Path) -> None:
    """Also when a forked child of the parent keeps copies of its sockets open."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, ROOT, str(tmp_path), heir], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        *pids, child = (int(word) for word in parent.stdout.readline().split())
        try:
            assert len(pids) == 3
            assert all(alive(pid) for pid in pids)
            parent.kill()
            gone(tuple(pids), 2.5)
        finally:
            if child > 0:
                os.kill(child, signal.SIGKILL)


def test_a_killed_host_takes_the_workers_along_and_is_reported_once(tmp_path: Path) -> None:
    with ring_of(2) as ring, WorkerPool(2, jobs("hang", tmp_path)) as pool:
        pool.wait_ready(PATIENCE)
        lane, other = pool.lane(ring), pool.lane(ring)
        lane.submit(0, 0)
        pids = pool.pids
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(PipelineError, match="host of the worker processes died"):
            lane.next(PATIENCE)
        for each in (lane, other):
            with pytest.raises(Closed):
                each.next(PATIENCE)
        gone(pids)


# ---------------------------------------------------------------- setting up


def test_a_setup_that_fails_is_raised_once_and_nobody_hangs() -> None:
    with ring_of(2) as ring, WorkerPool(2, jobs("bad-setup")) as pool:
        with pytest.raises(StageError, match=r"^ValueError: no such parameters$"):
            pool.wait_ready(PATIENCE)
        with pytest.raises(Closed):
            pool.lane(ring)
        with pytest.raises(Closed):
            pool.wait_ready(PATIENCE)


def test_a_waiting_lane_gets_the_failure_of_the_setup() -> None:
    with ring_of(2) as ring, WorkerPool(1, jobs("bad-setup")) as pool:
        lane = pool.lane(ring)
        with pytest.raises(StageError, match="no such parameters"):
            lane.next(PATIENCE)


def test_workers_that_never_come_alive_end_the_run() -> None:
    with WorkerPool(2, jobs("stillborn")) as pool, pytest.raises(PipelineError, match="die before they can work"):
        pool.wait_ready(PATIENCE)


def test_a_module_that_starts_threads_is_not_imported_before_the_fork() -> None:
    spec = Jobs("threads", target="tests.pipeline.pool_jobs_threads:open_job")
    with ring_of(1) as ring, WorkerPool(1, spec) as pool:
        lane = pool.lane(ring)
        lane.submit(0, 0)
        assert lane.next(PATIENCE).value == "alive"
        assert len(list(Path(f"/proc/{pool.pids[0]}/task").iterdir())) == 1


def test_errors_of_the_user_keep_their_kind() -> None:
    failed = Failed(False, "ConfigError", "install the extra", "Traceback …")
    assert isinstance(as_error(failed, "refine", None, "refine-1"), ConfigError)
    with pytest.raises(ValueError, match="at least one worker"):
        WorkerPool(0, jobs("copy"))


# ---------------------------------------------------------------- logs


def records_of(caplog: pytest.LogCaptureFixture, name: str = "worker.jobs") -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == name]


def test_records_arrive_as_if_made_here(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.WARNING, "worker.quiet")
    with ring_of(1) as ring, WorkerPool(1, jobs("log")) as pool:
        lane = pool.lane(ring)
        lane.submit(0, 0)
        lane.next(PATIENCE)
    got = records_of(caplog)
    assert [(record.levelname, record.getMessage()) for record in got] == [
        ("WARNING", "seen an odd thing"),
        ("ERROR", "an odd thing"),
        ("ERROR", "with a trace"),
    ]
    assert {record.processName for record in got} == {"refine-1"}
    assert "KeyError: 'inner'" in (got[2].exc_text or "")
    assert not records_of(caplog, "worker.quiet")
    assert capfd.readouterr().out == ""


def test_a_worker_killed_inside_a_log_write_stops_nobody(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.INFO)
    with ring_of(4) as ring, WorkerPool(2, jobs("die-in-log", tmp_path)) as pool:
        outcomes = stream(pool.lane(ring), ring, 40)
        assert all(outcome.refined for outcome in outcomes)
        assert pool.stats().deaths == 1
        began = time.monotonic()
        pool.close()
        assert time.monotonic() - began < 4
    said = [record.getMessage() for record in records_of(caplog)]
    assert sorted(said) == sorted(f"frame {n} in (36, 64)" for n in (*range(40), 3))  # the one done twice says so twice
    assert any("was killed by SIGKILL; another" in r.getMessage() for r in records_of(caplog, "pipeline.flow.staff"))


CHATTER = """
import logging, os, random, signal, sys
sys.path.insert(0, sys.argv[1])
from tests.pipeline.test_pool import jobs, ring_of, stream
from pipeline.flow import WorkerPool
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(processName)s %(name)s %(message).30s")
chance = random.Random(3)
ring = ring_of(6)
pool = WorkerPool(2, jobs("chatter"))
pool.wait_ready(10)
lane = pool.lane(ring)
def kill(done):
    if done % 10 == 0 and len(pool.pids) > 1:
        os.kill(chance.choice(pool.pids[1:]), signal.SIGKILL)
outcomes = stream(lane, ring, 60, kill)
assert all(outcome.refined for outcome in outcomes)
for slot in range(6):
    lane.submit(slot, 1000 + slot)
sys.exit(0)  # without closing anything, and with workers that write
"""


def test_the_parent_exits_in_time_whatever_the_workers_were_writing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHATTER, ROOT], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    heard = {line.split(" worker.jobs ")[1] for line in done.stdout.splitlines() if " worker.jobs " in line}
    assert {f"frame {n}, word {w}, " for n in range(60) for w in range(5)} <= {
        line[: line.rindex(" ") + 1] for line in heard
    }
