"""The benchmark for GPUs: honest where there is none, and right about what it measures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from benchmarks import gpu, gpu_contenders, gpu_networks, gpu_stream
from benchmarks.gpu import Row, targets
from benchmarks.gpu_contenders import CONTENDERS, Contender, Own, Provided, Timing, time_runner
from benchmarks.gpu_networks import NETWORKS, Exported
from engines.backends import BACKENDS
from engines.backends.providers import PROVIDERS
from engines.base import EngineError
from engines.zoo import load_model
from tests.engines.gpu_on_cpu import ON_CPU
from tests.engines.support import AS_ON_GPU, foreign

pytestmark = pytest.mark.timeout(200)


def test_without_a_gpu_every_row_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--json", str(tmp_path / "gpu.json")])
    figures = json.loads((tmp_path / "gpu.json").read_text())
    rows = figures["rows"]
    assert len(rows) == sum(len(network.sizes) for network in NETWORKS) * len(gpu.BATCHES) * len(CONTENDERS)
    assert all(row["timing"] is None and row["why"] for row in rows)
    assert set(figures["targets"].values()) == {None}
    assert figures["rates"] is None
    for part in ("conformance", "other engines", "pipeline", "streams"):
        assert figures[part]["measured"].startswith("not measured: ")
    told = capsys.readouterr().out
    assert told.count("not measured: ") == len(rows) + 4


def test_what_was_measured_is_kept_where_a_part_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(*_: object) -> None:
        raise LookupError("no\nway")

    monkeypatch.setattr(gpu, "pipeline_fps", fails)
    monkeypatch.setattr(gpu, "streams_at_30", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        gpu.main(["--json", str(tmp_path / "gpu.json")])
    figures = json.loads((tmp_path / "gpu.json").read_text())
    assert figures["pipeline"] == {"why": "it failed: no way"}
    assert figures["rows"]
    assert "streams" not in figures


class Sleeper:
    """Takes a while for a batch, and has several under way at once."""

    def __init__(self, seconds: float, in_flight: int) -> None:
        self.seconds, self.in_flight = seconds, in_flight
        self.under_way = self.most = 0

    def start(self) -> gpu_contenders.Wait:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        ready = time.perf_counter() + self.seconds

        def wait() -> None:
            time.sleep(max(0.0, ready - time.perf_counter()))
            self.under_way -= 1

        return wait

    def close(self) -> None: ...


@pytest.mark.parametrize("in_flight", [1, 3])
def test_latency_is_of_one_batch_alone_and_throughput_of_several(in_flight: int) -> None:
    runner = Sleeper(0.01, in_flight)
    timing = time_runner(runner, 8, 0.6)
    assert runner.under_way == 0
    assert runner.most == in_flight
    assert 9.5 < timing.median_ms < 40
    assert timing.p95_ms >= timing.median_ms
    assert timing.per_second < 8 * in_flight / 0.0095
    assert timing.per_second > 8 * in_flight / 0.08


def row(contender: str, per_second: float, of_flops: float | None = None) -> Row:
    timing = Timing(1.0, 1.0, per_second, 10)
    return Row("deeplabv2-resnet101-aspp", (513, 513), 8, contender, timing, of_flops=of_flops)


@pytest.mark.parametrize(
    ("rows", "reached"),
    [
        ([row("tensorrt", 130, 0.41), row("torch-compile", 99)], (True, True)),
        ([row("tensorrt", 120, 0.39), row("torch-compile", 99)], (False, False)),
        ([row("tensorrt", 120)], (None, None)),
        ([], (None, None)),
    ],
)
def test_targets_are_reached_or_missed_or_not_measured(
    rows: list[Row], reached: tuple[bool | None, bool | None]
) -> None:
    assert tuple(targets(rows).values()) == reached


def test_the_networks_are_those_of_the_registry() -> None:
    from engines.networks import NETWORKS as KNOWN

    assert {network.name for network in NETWORKS} <= set(KNOWN)
    assert gpu_stream.FRAMES > 0


@pytest.mark.slow
def test_a_network_is_exported_with_its_cost(tmp_path: Path) -> None:
    exported = gpu_networks.export_network(NETWORKS[-1], tmp_path)
    assert exported.model.name == "deeplabv3plus-mobilenetv2"
    assert 5e9 < exported.flops((513, 513)) < 60e9
    assert exported.flops((512, 1024)) > 1.9 * exported.flops((512, 512))
    weights = sum(parameter.numel() for parameter in exported.network.parameters())
    assert exported.least_bytes((512, 512), 8) > 2 * weights


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
    exported = Exported(nn.Identity(), small if kind is Own else load_model("street"))  # type: ignore[arg-type]
    contender = kind(backend)
    assert contender.why_not() == ""
    timing = time_runner(contender.prepare(exported, (32, 32), 1), 1, 0.1)
    assert timing.per_second > 0
    if kind is Own:
        with pytest.raises(EngineError, match="one picture at a time"):
            contender.prepare(exported, (32, 32), 2)
    else:
        assert time_runner(contender.prepare(exported, (32, 32), 2), 2, 0.1).batches >= 3


def test_those_that_the_targets_speak_of_have_the_time_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepared: list[str] = []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def why_not(self) -> str:
            return ""

        def prepare(self, exported: Exported, size: tuple[int, int], batch: int) -> gpu_contenders.Runner:
            prepared.append(self.name)
            raise EngineError(f"{exported} is not run at {size}, {batch}")

    monkeypatch.setattr(gpu, "export_network", lambda *_: None)
    contenders: dict[str, Contender] = {name: Noted(name) for name in CONTENDERS}
    rows = gpu.measure_networks(NETWORKS[:2], contenders, tmp_path, gpu.Clock(1), 0.1, rates=None)
    assert [row.contender for row in rows] == list(CONTENDERS) * (len(rows) // len(CONTENDERS))
    first = len(gpu.FIRST) * len(rows) // len(CONTENDERS)
    assert set(prepared[:first]) == set(gpu.FIRST)
    assert not set(prepared[first:]) & set(gpu.FIRST)
