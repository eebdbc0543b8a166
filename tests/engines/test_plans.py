"""Plans are built once, kept whole, and read only where nobody else can have written them."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import pytest

from engines.base import CancelledError, EngineError
from engines.cancellation import Cancellation
from engines.plans import KEPT_PLANS, PlanCache, PlanError, PlanKey, own_directory, refuse_foreign_files

pytestmark = pytest.mark.timeout(60)

KEY = PlanKey("street", "ab" * 32, "TensorRT 11.4.0.106", "NVIDIA L4", "8.9", "fp16", (384, 688), 4)


class Builder:
    """Counts what it builds."""

    def __init__(self) -> None:
        self.built = 0

    def __call__(self) -> bytes:
        self.built += 1
        return f"plan {self.built}\n".encode() * 1000


def obtain(cache: PlanCache, key: PlanKey, builder: Builder) -> bytes:
    return cache.obtain(key, builder, bytes)


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "cache")


@pytest.fixture
def why(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "engines.plans")
    return caplog


def test_a_plan_is_built_once(cache: PlanCache, why: pytest.LogCaptureFixture) -> None:
    build = Builder()
    first = obtain(cache, KEY, build)
    assert "building a plan of street, which may take minutes: there is none yet" in why.text
    assert obtain(PlanCache(cache.directory), KEY, build) == first
    assert build.built == 1
    assert cache.directory.stat().st_mode & 0o777 == 0o700
    assert not list(cache.directory.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"onnx_sha256": "cd" * 32}, "onnx sha256 abababababab… → cdcdcdcdcdcd…"),
        ({"library": "TensorRT 12.0"}, "library TensorRT 11.4.0.106 → TensorRT 12.0"),
        (
            {"device": "NVIDIA T4", "compute_capability": "7.5"},
            "device NVIDIA L4 → NVIDIA T4, compute capability 8.9 → 7.5",
        ),
        ({"max_batch": 8}, "max batch 4 → 8"),
        ({"options": ("version compatible",)}, "options none → version compatible"),
    ],
)
def test_another_case_is_built_anew_and_the_log_says_why(
    change: dict[str, str], reason: str, cache: PlanCache, why: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    first = obtain(cache, KEY, build)
    assert obtain(cache, replace(KEY, **change), build) != first  # type: ignore[arg-type]
    assert f"is for another case: {reason}" in why.text
    assert obtain(cache, KEY, build) == first, "the older plan is kept beside it"


def test_other_sizes_precisions_and_models_are_no_reasons(cache: PlanCache, why: pytest.LogCaptureFixture) -> None:
    build = Builder()
    for key in (KEY, replace(KEY, size=(384, 384)), replace(KEY, precision="fp32"), replace(KEY, model="voc: mine/2")):
        obtain(cache, key, build)
    assert why.text.count("there is none yet") == build.built == 4


def test_a_plan_of_larger_batches_serves_smaller_ones(cache: PlanCache) -> None:
    build = Builder()
    assert obtain(cache, KEY, build) == obtain(cache, replace(KEY, max_batch=1), build)
    assert build.built == 1


def test_a_portable_plan_serves_other_gpus_and_later_releases(cache: PlanCache, why: pytest.LogCaptureFixture) -> None:
    build = Builder()
    options = ("types 1",)
    portable = replace(KEY, options=(*options, "portable"))
    obtain(cache, portable, build)
    other = replace(KEY, options=options, device="NVIDIA A10", compute_capability="8.6")
    for key in (other, replace(other, library="TensorRT 11.10.0"), replace(other, compute_capability="12.0")):
        assert obtain(cache, key, build).startswith(b"plan 1")
    for key in (
        replace(other, compute_capability="7.5"),
        replace(other, library="TensorRT 12.0"),
        replace(other, library="TensorRT 11.3.0.99"),
        replace(other, library="Another 11.4.0.106"),
        replace(other, options=("types 2",)),
        replace(other, max_batch=8),
    ):
        before = build.built
        obtain(cache, key, build)
        assert build.built == before + 1, key


def damaged(whole: bytes) -> dict[str, bytes]:
    header_end = whole.index(b"\n", whole.index(b"\n") + 1)
    return {
        "cut short": whole[:-1],
        "longer": whole + b"x",
        "one bit": whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:],
        "empty": b"",
        "another file": b"\x00" * 5000,
        "header": whole[:40] + b"\xff" + whole[41:],
        "no header": whole[: header_end - 5],
        "list": whole[: whole.index(b"\n") + 1] + b"[]\n",
    }


@pytest.mark.parametrize("kind", damaged(b"a\n{}\nxxxxxxxxxxxxxxxx"))
def test_a_damaged_plan_is_built_anew_and_the_log_says_why(
    kind: str, cache: PlanCache, why: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    obtain(cache, KEY, build)
    path = cache.directory / KEY.file
    path.write_bytes(damaged(path.read_bytes())[kind])
    why.clear()
    assert obtain(cache, KEY, build).startswith(b"plan 2")
    assert f"building a plan of street, which may take minutes: {KEY.file} is " in why.text
    assert obtain(cache, KEY, build).startswith(b"plan 2")
    assert build.built == 2


def test_a_plan_that_its_library_refuses_is_built_anew(cache: PlanCache, why: pytest.LogCaptureFixture) -> None:
    build = Builder()
    obtain(cache, KEY, build)

    def read(plan: bytes) -> bytes:
        if plan.startswith(b"plan 1"):
            raise EngineError("its driver has another opinion")
        return plan

    assert cache.obtain(KEY, build, read).startswith(b"plan 2")
    assert f"{KEY.file} its driver has another opinion" in why.text


def test_what_cannot_be_built_or_read_is_not_kept(cache: PlanCache) -> None:
    def fail() -> bytes:
        raise EngineError("no such layer")

    with pytest.raises(EngineError, match="no such layer"):
        cache.obtain(KEY, fail, bytes)

    def refuse(plan: bytes) -> bytes:
        raise EngineError("refused")

    with pytest.raises(EngineError, match="refused"):
        cache.obtain(KEY, Builder(), refuse)
    assert [path.name for path in cache.directory.iterdir()] == ["plans.lock"]


def test_the_cache_does_not_grow_for_ever(cache: PlanCache) -> None:
    for index in range(KEPT_PLANS + 5):
        path = cache.directory / f"{index}.plan"
        path.write_bytes(b"")
        os.utime(path, (index, index))
    (cache.directory / "half.plan.part").write_bytes(b"")
    (cache.directory / "somebody-else.blob").write_bytes(b"")
    obtain(cache, KEY, Builder())
    left = {path.name for path in cache.directory.iterdir()}
    assert left == {KEY.file, "plans.lock", "somebody-else.blob"} | {f"{i}.plan" for i in range(6, KEPT_PLANS + 5)}


WORKER = """
import logging, os, sys, time
from pathlib import Path
from engines.plans import PlanCache, PlanKey
from tests.engines.test_plans import KEY
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
folder, does = Path(sys.argv[1]), sys.argv[2]

def build():
    with (folder / "built").open("a") as file:
        file.write(f"{os.getpid()}\\n")
    if does == "hang":
        time.sleep(60)
    time.sleep(0.3)
    return os.urandom(100_000)

print(hash(PlanCache(folder / "cache").obtain(KEY, build, bytes).hex()), flush=True)
"""


def worker(folder: Path, does: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), does], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_that_want_a_plan_build_it_once(tmp_path: Path) -> None:
    processes = [worker(tmp_path, "build") for _ in range(2)]
    answers = [process.communicate(timeout=50) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert len((tmp_path / "built").read_text().split()) == 1
    first, second = (out.splitlines()[-1] for out, _ in answers)
    assert first == second


def test_a_killed_builder_holds_nobody(tmp_path: Path) -> None:
    hanging = worker(tmp_path, "hang")
    wait_for(tmp_path / "built")
    waiting = worker(tmp_path, "build")
    assert waiting.stdout
    assert "waiting for another plan that is built" in waiting.stdout.readline()
    hanging.kill()
    hanging.communicate(timeout=10)
    out, error = waiting.communicate(timeout=50)
    assert waiting.returncode == 0, error
    assert "building a plan of street, which may take minutes: there is none yet" in out
    assert len((tmp_path / "built").read_text().split()) == 2


AS_NOBODY = """
import os, sys
from pathlib import Path
from engines.base import CancelledError, EngineError
from engines.cancellation import Cancellation
from engines.plans import PlanCache
from tests.engines.test_plans import KEY, Builder, obtain
os.setgid(65534)
os.setuid(65534)
try:
    print(obtain(PlanCache(Path(sys.argv[1])), KEY, Builder())[:6].decode())
except EngineError as error:
    print(error)
"""


def as_nobody(folder: Path) -> str:
    """What a user without rights is told."""
    answer = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(folder)], capture_output=True, text=True, timeout=50, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    return answer.stdout.strip()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become a user who may not write")
def test_a_read_only_cache_gives_its_plans_and_says_what_to_do_for_others(tmp_path: Path) -> None:
    top = Path(tempfile.gettempdir()).resolve()
    for parent in takewhile(lambda each: each != top, (tmp_path, *tmp_path.parents)):
        parent.chmod(0o755)
    folder = tmp_path / "cache"
    kept = PlanCache(folder)
    folder.chmod(0o500)
    os.chown(folder, 65534, 65534)
    told = as_nobody(folder)
    assert f"the plan cache {folder} cannot be written (Permission denied)" in told
    assert "make it writable" in told
    assert "python -m engines build" in told
    assert "XDG_CACHE_HOME" in told
    kept._write(KEY, b"plan 7")
    os.chown(folder / KEY.file, 65534, 65534)
    assert as_nobody(folder) == "plan 7"


def test_a_directory_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(PlanError, match=r"can be written by other users.*chmod go-w"):
        PlanCache(tmp_path)
    tmp_path.chmod(0o755)
    PlanCache(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(PlanError, match="can be written by other users"):
        PlanCache(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match=r"cannot be made \(Not a directory\)"):
        PlanCache(tmp_path / "file" / "cache")


def test_each_directory_on_the_way_is_ones_own(tmp_path: Path) -> None:
    last = own_directory(tmp_path / "a", "cache", "b", "c")
    assert last == tmp_path / "a" / "b" / "c"
    for folder in (last, last.parent, last.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
        folder.chmod(0o770)
        with pytest.raises(PlanError, match=f"the cache {folder} can be written by other users"):
            own_directory(tmp_path / "a", "cache", "b", "c")
        folder.chmod(0o700)


def test_what_a_library_reads_by_itself_is_this_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("")
    refuse_foreign_files(tmp_path)
    (tmp_path / "y").symlink_to("x")
    with pytest.raises(PlanError, match="y is not a file of this user's"):
        refuse_foreign_files(tmp_path)
    (tmp_path / "y").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(PlanError, match="x is not a file of this user's"):
        refuse_foreign_files(tmp_path)


def test_a_link_and_a_file_of_others_are_not_read(
    cache: PlanCache, tmp_path: Path, why: pytest.LogCaptureFixture
) -> None:
    build = Builder()
    obtain(cache, KEY, build)
    path = cache.directory / KEY.file
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert obtain(cache, KEY, build).startswith(b"plan 2")
    assert f"{KEY.file} cannot be read" in why.text
    if os.geteuid() == 0:
        os.chown(path, 4711, 4711)
        assert obtain(cache, KEY, build).startswith(b"plan 3")
        assert f"{KEY.file} is not a file of this user's" in why.text


def test_waiting_for_another_build_can_be_called_off(cache: PlanCache, why: pytest.LogCaptureFixture) -> None:
    cancellation, build, other = Cancellation(), Builder(), Builder()
    with cache._locked(Cancellation()), ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(cache.obtain, KEY, build, bytes, cancellation)
        while "waiting for another plan" not in why.text:
            assert not waiting.done()
            time.sleep(0.01)
        cancellation.set()
        with pytest.raises(CancelledError, match="waiting for another plan was called off"):
            waiting.result(30)
    assert build.built == 0
    obtain(cache, KEY, other)
    assert cache.obtain(KEY, build, bytes, cancellation), "a plan that is there is given"
