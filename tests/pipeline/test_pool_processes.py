"""The processes of the worker pool: how they start, end and fail, and that none is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, PipelineError, StageError
from pipeline.flow import Closed, WorkerPool
from pipeline.flow.lane import as_error
from pipeline.flow.wire import Failed
from tests.pipeline.pool_jobs import Jobs
from tests.pipeline.pooling import PATIENCE, alive, descriptors, gone, jobs, names_in_shm, ring_of, until

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

ROOT = str(Path(__file__).parents[2])


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
from tests.pipeline.pooling import jobs, ring_of, until
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
