"""The benchmark for GPUs: honest where there is none, and right about what it measures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest

import tests.gpu_parts_like as parts_like
from benchmarks import gpu, gpu_contenders, gpu_networks, gpu_rows, gpu_stream
from benchmarks.gpu_contenders import CONTENDERS, Contender, Own, Provided, Timing, time_runner
from benchmarks.gpu_networks import NETWORKS, Exported
from benchmarks.gpu_parts import PartError, findings
from benchmarks.gpu_rows import Row, targets
from engines.backends import BACKENDS, has_nvidia_driver
from engines.backends.common import IN_FLIGHT
from engines.backends.providers import PROVIDERS
from engines.base import EngineError
from engines.zoo import load_model
from tests.engines.conftest import absent_gpu
from tests.engines.gpu_on_cpu import ON_CPU
from tests.engines.support import AS_ON_GPU, foreign

pytestmark = pytest.mark.timeout(200)


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with a driver; the directory holds the numbers of the processes that hang."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    pids = tmp_path / "pids"
    pids.mkdir()
    monkeypatch.setenv(parts_like.PIDS, str(pids))
    return pids


def alive(pids: Path) -> list[str]:
    """Those that still run; one that has ended and was not waited for by its foster parent does not."""
    states = {path.name: Path("/proc", path.name, "stat") for path in pids.iterdir()}
    return [name for name, stat in states.items() if stat.exists() and ") Z" not in stat.read_text()]


def all_end(pids: Path) -> bool:
    """All that have hung end at once."""
    deadline = time.monotonic() + 5
    while alive(pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pids)


def like(name: str) -> str:
    return f"{parts_like.__name__}:{name}"


def found_by(name: str, seconds: float) -> tuple[list[dict[str, int]], str]:
    """What a part finds, and why there is no more."""
    found: list[dict[str, int]] = []
    try:
        found.extend(findings(like(name), {}, seconds))
    except PartError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize(
    ("name", "seconds", "found", "why"),
    [
        ("hangs", 6.0, 1, "it was not done within"),
        ("hangs_at_once", 6.0, 0, "it was not done within"),
        ("dies", 60.0, 1, "it ended early: no way on"),
    ],
)
def test_a_part_that_hangs_or_dies_is_ended_with_all_its_processes(
    hung: Path, name: str, seconds: float, found: int, why: str
) -> None:
    began = time.monotonic()
    before, told = found_by(name, seconds)
    assert before == [{"so far": 1}] * found
    assert told.startswith(why)
    assert time.monotonic() - began < seconds + 4
    assert len(list(hung.iterdir())) == 3
    assert all_end(hung)


def test_a_part_that_fails_says_why_in_a_line() -> None:
    assert found_by("fails", 60.0) == ([{"so far": 1}], "it failed: no way")


def test_a_part_that_never_ends_to_find_is_ended() -> None:
    found, why = found_by("chatters", 3.0)
    assert found[-1] == {"so far": len(found)}
    assert why == "it was not done within 3.0 s"


def test_a_part_is_ended_with_whoever_asked_for_it(hung: Path) -> None:
    """As by Ctrl-C."""
    for found in findings(like("hangs"), {}, 60.0):
        assert found == {"so far": 1}
        deadline = time.monotonic() + 30
        while len(list(hung.iterdir())) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        break
    assert len(list(hung.iterdir())) == 3
    assert all_end(hung)


def test_it_ends_in_time_whatever_hangs(
    hung: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, part in zip(gpu.PARTS, ("hangs", "fails", "exports", "dies", "hangs", "hangs_at_once"), strict=True):
        monkeypatch.setitem(gpu.PARTS, name, like(part))
    monkeypatch.setattr(gpu_rows, "MEASURE", like("rows"))
    monkeypatch.setattr(gpu_rows, "SHORTEST_S", 0.5)
    for part in gpu.SHARES:
        monkeypatch.setitem(gpu.SHARES, part, 3 if part == "first" else 1)
    began = time.monotonic()
    gpu.main(["--json", str(tmp_path / "gpu.json"), "--minutes", "0.5", "--contenders", "tensorrt,torch-eager"])
    assert time.monotonic() - began < 30 + 5
    figures = json.loads((tmp_path / "gpu.json").read_text())
    for name in ("card", "streams"):
        assert figures[name]["so far"] == 1
        assert figures[name]["rest"].startswith("not measured: it was not done within")
    assert figures["conformance"] == {"so far": 1, "rest": "not measured: it failed: no way"}
    assert figures["pipeline"] == {"so far": 1, "rest": "not measured: it ended early: no way on"}
    assert figures["other engines"]["measured"].startswith("not measured: it was not done within")
    rows = [(row["network"], row["batch"], row["contender"], row["why"], row["timing"]) for row in figures["rows"]]
    first = [row for row in rows if row[0] == "deeplabv2-resnet101-aspp" and row[2] == "tensorrt"]
    assert first[0][3:] == ("", parts_like.TIMING)
    assert first[1][3].startswith("it was not done within"), "batches hang"
    assert first[2][3:] == ("", parts_like.TIMING), "and the next row is measured by another process"
    last = [row[3] for row in rows if row[0] == "deeplabv3plus-mobilenetv2"]
    assert all(why.startswith("it was not done within") for why in last), "its export hung"
    assert {row[3] for row in rows if row[2] == "torch-eager" and row[0] not in (NETWORKS[-1].name,)} == {
        "it is not here"
    }
    assert "not measured: it is not here" in capsys.readouterr().out
    assert all_end(hung)


def test_without_a_gpu_every_row_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--json", str(tmp_path / "gpu.json")])
    figures = json.loads((tmp_path / "gpu.json").read_text())
    rows = figures["rows"]
    assert len(rows) == sum(len(network.sizes) for network in NETWORKS) * len(gpu_rows.BATCHES) * len(CONTENDERS)
    assert all(row["timing"] is None and row["why"] == gpu.NO_DRIVER for row in rows)
    assert set(figures["targets"].values()) == {None}
    for part in set(gpu.PARTS) - {"networks"}:
        assert figures[part] == {"measured": f"not measured: {gpu.NO_DRIVER}"}
    told = capsys.readouterr().out
    assert told.count("not measured: ") == len(rows) + 4


def test_conformance_tells_of_each_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU all fail, since it must be there."""
    monkeypatch.setattr(Own, "why_not", lambda _: "")
    found = list(gpu_stream.conformance(("tests/engines/tensorrt/test_warm_up.py",)))
    assert len(found) == 1 + found[-1]["tests passed"] + len(found[-1]["failed"]) > 2  # type: ignore[arg-type,operator]
    assert found[-1]["passed"] == (found[-1]["failed"] == [])
    if not has_nvidia_driver():
        assert (
            "tests/engines/tensorrt/test_warm_up.py::test_the_first_requests_take_no_longer_than_others"
            in (
                found[-1]["failed"]  # type: ignore[operator]
            )
        )


class Sleeper:
    """Takes a while for a batch, and has several under way at once; or computes in `start`."""

    def __init__(self, seconds: float, *, at_once: bool) -> None:
        self.seconds, self.at_once = seconds, at_once
        self.under_way = self.most = 0

    def start(self) -> gpu_contenders.Wait:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        ready = time.perf_counter() + self.seconds
        if self.at_once:
            time.sleep(self.seconds)

        def wait() -> None:
            time.sleep(max(0.0, ready - time.perf_counter()))
            self.under_way -= 1

        return wait

    def close(self) -> None: ...


@pytest.mark.parametrize("at_once", [False, True])
def test_all_are_timed_alone_and_with_as_many_in_flight(at_once: bool) -> None:
    runner = Sleeper(0.01, at_once=at_once)
    timing = time_runner(runner, 8, 0.6)
    assert runner.under_way == 0
    assert runner.most == IN_FLIGHT
    assert 9.5 < timing.median_ms < 40
    assert timing.p95_ms >= timing.median_ms
    assert 8 / 0.04 < timing.alone_per_second < 8 / 0.0095
    at_once_of_them = 1 if at_once else IN_FLIGHT
    assert 8 * at_once_of_them / 0.08 < timing.per_second < 8 * at_once_of_them / 0.0095


class Cuda:
    """Stands in for `torch.cuda` on a processor: notes what each stream is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import torch

        self.current = 0
        self.streams = 0
        self.recording = False
        self.done: list[tuple[int, str]] = []
        cuda = self

        class Stream:
            def __init__(self) -> None:
                cuda.streams += 1
                self.number = cuda.streams

            def wait_stream(self, other: int) -> None:
                assert other == 0

            def synchronize(self) -> None:
                cuda.done.append((self.number, "synchronise"))

        class Event:
            def record(self, stream: Stream) -> None:
                assert stream.number == cuda.current
                cuda.done.append((stream.number, "record"))

            def synchronize(self) -> None: ...

        class CUDAGraph:
            def replay(self) -> None:
                cuda.done.append((cuda.current, "replay"))

        @contextmanager
        def on(stream: Stream) -> Iterator[None]:
            before, cuda.current = cuda.current, stream.number
            yield
            cuda.current = before

        @contextmanager
        def graph(_: CUDAGraph, *, stream: Stream, capture_error_mode: str) -> Iterator[None]:
            assert capture_error_mode == "thread_local"
            with on(stream):
                cuda.recording = True
                yield
                cuda.recording = False

        for name, value in (("Stream", Stream), ("Event", Event), ("CUDAGraph", CUDAGraph), ("stream", on)):
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch.cuda, "graph", graph)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: 0)
        monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor, **_: tensor.clone())
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory: empty(*shape, pin_memory=pin_memory and False))


@pytest.mark.parametrize("way", ["eager", "graph", "compile"])
def test_torch_has_a_stream_memory_and_a_recording_for_each_batch_in_flight(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    cuda = Cuda(monkeypatch)
    computed: list[tuple[int, bool, int]] = []

    class Doubled(torch.nn.Module):
        encoder = SimpleNamespace(mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            computed.append((cuda.current, cuda.recording, images.data_ptr()))
            return images * 2

    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda score, *, mode, dynamic: compiled.append(mode) or score)  # noqa: ARG005
    monkeypatch.setattr(Exported, "network", lambda _: Doubled())
    runner = CONTENDERS[f"torch-{way}"]().prepare(Exported("x", "", 1, []), (8, 8), 2)
    flying = IN_FLIGHT
    assert cuda.streams == flying
    assert {stream for stream, recording, _ in computed if recording} == (
        set() if way == "eager" else set(range(1, flying + 1))
    )
    assert compiled == (["max-autotune-no-cudagraphs"] if way == "compile" else [])
    computed.clear()
    cuda.done.clear()
    waits = [runner.start() for _ in range(2 * flying)]
    assert [stream for stream, what in cuda.done if what == "record"] == [2, 3, 1, 2, 3, 1]
    if way == "eager":
        assert [stream for stream, _, _ in computed] == [2, 3, 1, 2, 3, 1]
    else:
        assert [stream for stream, what in cuda.done if what == "replay"] == [2, 3, 1, 2, 3, 1]
        assert not computed
    for wait in waits:
        wait()
    runner.close()


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["graph", "compile"])
def test_torchs_recordings_give_what_eager_does(way: str) -> None:
    import torch

    if not torch.cuda.is_available():
        absent_gpu("torch has no CUDA here")
    small = Exported(NETWORKS[-1].name, "", 1, [])
    outs = []
    for name in ("torch-eager", f"torch-{way}"):
        runner = CONTENDERS[name]().prepare(small, (65, 65), 2)
        for wait in [runner.start() for _ in range(IN_FLIGHT)]:
            wait()
        outs += [lane._out.clone() for lane in runner._lanes]  # type: ignore[attr-defined]
        runner.close()
    for out in outs[1:]:
        assert (out.argmax(1) == outs[0].argmax(1)).float().mean() > 0.98


@pytest.mark.gpu
def test_the_card_tells_what_it_is_and_what_it_reaches() -> None:
    if not has_nvidia_driver():
        absent_gpu(gpu.NO_DRIVER)
    *_, found = findings(gpu.PARTS["card"], {}, 120)
    assert found["gpu"][0]["state"] == "ready"
    if found["rates"] is not None:
        assert found["rates"]["flops"] > found["rates"]["bytes_a_second"] > 1e9


def row(contender: str, per_second: float, alone: float, of_flops: float | None = None) -> Row:
    timing = Timing(1.0, 1.0, alone, per_second, 10)
    return Row("deeplabv2-resnet101-aspp", (513, 513), 8, contender, timing, of_flops=of_flops)


@pytest.mark.parametrize(
    ("rows", "reached"),
    [
        ([row("tensorrt", 130, 130, 0.41), row("torch-compile", 99, 99)], (True, True, True)),
        ([row("tensorrt", 120, 130, 0.39), row("torch-compile", 99, 99)], (False, True, False)),
        ([row("tensorrt", 130, 120, 0.39), row("torch-compile", 99, 99)], (True, False, False)),
        ([row("tensorrt", 120, 120)], (None, None, None)),
        ([], (None, None, None)),
    ],
)
def test_targets_are_reached_or_missed_or_not_measured(rows: list[Row], reached: tuple[bool | None, ...]) -> None:
    assert tuple(targets(rows).values()) == reached


def test_the_networks_are_those_of_the_registry() -> None:
    from engines.networks import NETWORKS as KNOWN

    assert {network.name for network in NETWORKS} <= set(KNOWN)
    assert gpu_stream.FRAMES > 0


@pytest.mark.slow
def test_a_network_is_exported_with_its_cost(tmp_path: Path) -> None:
    exported = gpu_networks.export_network(NETWORKS[-1], tmp_path)
    assert exported.model.name == "deeplabv3plus-mobilenetv2"
    assert 5e9 < exported.flops[0] < 60e9
    assert exported.flops[1] > 1.9 * 512 / 513 * exported.flops[0]
    weights = sum(parameter.numel() for parameter in exported.network().parameters())
    assert exported.weights == weights
    assert exported.least_bytes((512, 512), 8) > 2 * weights
    assert gpu_networks.Exported(**json.loads(json.dumps(asdict(exported)))) == exported


@pytest.mark.parametrize(("kind", "backend"), [(Provided, "onnxruntime-gpu-on-cpu"), (Own, "torch-gpu-on-cpu")])
def test_engines_of_ours_are_timed(
    kind: Callable[[str], Contender], backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the code that runs on GPUs, with a processor as its device."""
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setitem(BACKENDS, backend, AS_ON_GPU[backend])
    monkeypatch.setitem(PROVIDERS, "onnxruntime-gpu-on-cpu", ON_CPU)
    small = foreign(tmp_path / "x.onnx", "layout: nchw\n", dtype="uint8")  # quick in half precision, but of one picture
    exported = Exported("x", str((small if kind is Own else load_model("street")).path), 1, [1.0])
    contender = kind(backend)
    assert contender.why_not() == ""
    timing = time_runner(contender.prepare(exported, (32, 32), 1), 1, 0.1)
    assert timing.per_second > 0
    if kind is Own:
        with pytest.raises(EngineError, match="one picture at a time"):
            contender.prepare(exported, (32, 32), 2)
    else:
        assert time_runner(contender.prepare(exported, (32, 32), 2), 2, 0.1).batches >= 3


def test_those_that_the_targets_speak_of_have_the_time_first() -> None:
    order = list(gpu.SHARES)
    assert order.index("first") < order.index("pipeline") < order.index("streams") < order.index("others")
    assert gpu.SHARES["first"] > sum(gpu.SHARES.values()) / 3
    assert set(gpu_rows.FIRST) < set(CONTENDERS)


def test_what_one_part_leaves_those_after_it_have(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    clock, took = gpu.Clock(10), 0.0
    for part, share in gpu.SHARES.items():
        seconds = clock.begin(part)
        assert seconds >= share / 100 * 600 * (1 - gpu.KEPT) - 1e-6
        now[0] += seconds / 2
        took += seconds / 2
    assert seconds == pytest.approx(600 * (1 - gpu.KEPT) - took + seconds / 2)
