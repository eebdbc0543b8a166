"""What the benchmark for GPUs makes of a device that is none."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks import gpu_rows
from benchmarks.gpu_contenders import Rates, Timing
from benchmarks.gpu_networks import Exported, Network
from benchmarks.gpu_rows import Row
from tests.engines.support import foreign
from tests.engines.tensorrt.conftest import Machine


def test_the_fake_device_gives_rows_with_their_shares(
    fake: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = foreign(tmp_path / "x.onnx", "layout: nchw\n", dtype="uint8")
    exported = Exported("x", str(model.path), 100, [4e6])
    monkeypatch.setattr(gpu_rows, "NETWORKS", [Network("x", ((32, 48),))])
    cases = [("x", (32, 48), 1), ("x", (32, 48), 8)]
    found = {
        name: list(gpu_rows.measure(name, cases, {"x": asdict(exported)}, 0.1)) for name in ("tensorrt", "torch-eager")
    }
    assert "takes one" in found["tensorrt"][1]["why"]
    assert all("has no CUDA here" in each["why"] for each in found["torch-eager"])
    timing = Timing(**found["tensorrt"][0]["timing"])
    rows = [
        Row("x", (32, 48), 1, "tensorrt", timing),
        Row("x", (32, 48), 1, "torch-eager", replace(timing, per_second=timing.per_second / 2, alone_per_second=1.0)),
        Row("x", (32, 48), 8, "tensorrt", timing),
    ]
    single, _, batched = gpu_rows.compared(rows, {"x": exported}, Rates(1e9, 1e9))
    assert single.of_flops == pytest.approx(4e6 * timing.per_second / 1e9)
    assert single.ratio == pytest.approx(2)
    assert single.ratio_alone == pytest.approx(timing.alone_per_second)
    assert batched.ratio is None, "nothing to compare with"
    assert gpu_rows.compared(rows, {"x": exported}, None)[0].of_flops is None
    assert "2.00" in gpu_rows.table([single])
