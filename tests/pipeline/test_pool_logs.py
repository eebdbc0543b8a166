"""What workers log arrives in the streaming process, whatever becomes of them."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.flow import WorkerPool
from pipeline.flow.logs import LogReceiver
from tests.pipeline.pooling import PATIENCE, jobs, ring_of, stream

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

ROOT = str(Path(__file__).parents[2])


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


def test_a_receiver_whose_thread_ends_before_it_is_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = LogReceiver()
    wake = receiver.queue.wake

    def late() -> None:
        receiver._receive_thread.join(5)
        wake()

    monkeypatch.setattr(receiver.queue, "wake", late)
    receiver.close()
    assert not receiver._receive_thread.is_alive()


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
from tests.pipeline.pooling import jobs, ring_of, stream
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
