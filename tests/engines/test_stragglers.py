"""A program that has left something behind ends at once, and nothing of it is freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(60)

PROGRAM = """
import sys, threading
from engines.stragglers import forsake, leave, leave_behind

class Blocking:
    def __del__(self):
        print("freed", flush=True)
        threading.Event().wait()

if "thing" in sys.argv:
    forsake(Blocking())
if "thread" in sys.argv:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    leave_behind(thread)
print("the end")
if "stays" not in sys.argv:
    leave(3)
"""


def run(*left: str) -> tuple[int, str]:
    command = [sys.executable, "-c", PROGRAM, *left]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("left", [(), ("thing",), ("thread",), ("thing", "thread")], ids="-".join)
def test_it_leaves_at_once(left: tuple[str, ...]) -> None:
    assert run(*left) == (3, "the end\n")


def test_what_was_forsaken_is_not_freed_by_the_interpreters_end() -> None:
    assert run("thing", "stays") == (0, "the end\n")


WAITING = """
import atexit, threading, time
atexit.register(lambda: print(time.monotonic() - began))  # after all others
from engines import stragglers
stragglers._TIMEOUT_S = 1.0
for _ in range(4):
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    stragglers.leave_behind(thread)
began = time.monotonic()
"""


def test_a_program_that_ends_otherwise_waits_once_for_all_of_them() -> None:
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, timeout=30, check=True)
    assert 1 <= float(done.stdout) < 3
