"""What the benchmark for GPUs makes of a device that is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.gpu_contenders import CONTENDERS, Rates
from benchmarks.gpu_networks import Exported, Network
from tests.engines.support import foreign
from tests.engines.tensorrt.conftest import Machine


def test_the_fake_device_gives_rows_with_their_shares(
    fake: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from torch import nn

    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr("engines.backends.NVIDIA_DEVICES", (tmp_path / "nvidiactl",))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = replace(foreign(tmp_path / "x.onnx", "layout: nchw\n", dtype="uint8"), name="x")
    convolution: nn.Module = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    exported = Exported(convolution, model)  # type: ignore[arg-type]
    monkeypatch.setattr(gpu, "export_network", lambda *_: exported)
    monkeypatch.setattr(gpu, "BATCHES", (1, 8))
    contenders = {name: CONTENDERS[name]() for name in ("tensorrt", "torch-eager")}
    rows = gpu.measure_networks(
        [Network("x", ((32, 48),))], contenders, tmp_path, gpu.Clock(1), 0.1, rates=Rates(1e9, 1e9)
    )
    assert [(row.batch, row.contender) for row in rows] == [
        (1, "tensorrt"), (1, "torch-eager"), (8, "tensorrt"), (8, "torch-eager"),
    ]  # fmt: skip
    single, eager, batched, _ = rows
    assert single.timing is not None
    assert single.of_flops == pytest.approx(2 * 27 * 4 * 16 * 24 * single.timing.per_second / 1e9)
    assert single.ratio is None, "nothing to compare with"
    assert not torch.cuda.is_available()
    assert "has no CUDA here" in eager.why
    assert batched.timing is None
    assert "takes one picture at a time" in batched.why
    assert "not measured: it failed: x takes one" in gpu.table(rows)
    late = gpu.measure_networks([Network("x", ((32, 48),))], contenders, tmp_path, gpu.Clock(0), 0.1, rates=None)
    assert late[0].why == "no time was left"
