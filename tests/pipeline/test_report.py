"""What a run's report says is so; its bottleneck is the stage that the others waited for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pipeline.runner.labelling
from engines import zoo
from pipeline.flow import Buffer, WorkerPool
from pipeline.options import InputOptions
from pipeline.reports import Report
from pipeline.sources.playing import Playback
from pipeline.stages.render import Renderer
from pipeline.telemetry import awaited_shares
from tests.pipeline.clips import Clip
from tests.pipeline.pool_jobs import Jobs
from tests.pipeline.running import Recorder, run
from tests.pipeline.slowing import late, slow, slow_network

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

MakeClip = Callable[[str], Clip]
FILE = "lavfi:testsrc2=size=96x80:rate=25:duration=2"


def shares(report: Report) -> dict[str, float]:
    (one,) = report.inputs
    return {name: stage.awaited for name, stage in one.stages.items()}


@pytest.mark.parametrize(
    ("waiting", "expected"),
    [
        ((1, 1, 1, 0, 0), (0, 0, 1, 0, 0)),
        ((1, 1, 0, 0, 1), (0, 0, 0, 0, 1)),  # all slots wait for the last: the engine starves
        ((1, 0, 0, 0, 0), (1, 0, 0, 0, 0)),
        ((1, 1, 0.75, 0.25, 0.5), (0, 0.25, 0.25, 0, 0.5)),
    ],
)
def test_the_last_stage_with_frames_waiting_sets_the_pace(waiting: Any, expected: Any) -> None:
    found = awaited_shares(list(zip("abcde", waiting, strict=True)))
    assert found == dict(zip("abcde", expected, strict=True))


def test_a_buffer_knows_how_long_items_waited() -> None:
    now = 0.0
    buffer: Buffer[int] = Buffer(3, clock=lambda: now)
    now = 2.0
    buffer.put(1)
    now = 5.0
    assert buffer.stats().waited_s == 3
    buffer.put(2)
    buffer.get()
    buffer.get()
    now = 9.0
    assert buffer.stats().waited_s == 3


def test_a_slow_sink(tiny: str) -> None:
    report = run([InputOptions(FILE)], tiny, extra=[Recorder(late(lambda *_: None, 0.01))])
    assert report.bottleneck == "testsrc2 recorder"
    assert shares(report)["recorder"] > 0.6


def test_a_slow_source(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow(monkeypatch, Playback, "_frame", 0.01)
    report = run([InputOptions(FILE)], tiny, extra=[Recorder()])
    assert report.bottleneck == "testsrc2 decode"


def test_an_engine_that_is_the_busiest_but_never_waited_for(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelling takes longer, in two stages that each take less long."""
    slow_network(monkeypatch, 0.024)
    slow(monkeypatch, pipeline.runner.labelling, "upsample_argmax", 0.02)
    slow(monkeypatch, Renderer, "render", 0.022)
    given = InputOptions(FILE.replace("25", "100"), outputs=("null",))
    report = run([given], tiny, realtime=True, duration=1)
    stages = report.inputs[0].stages
    assert max(stages, key=lambda name: stages[name].busy) == "infer"
    assert report.bottleneck in ("testsrc2 render", "testsrc2 upsample")


def test_nobody_waits_for_a_camera(tiny: str) -> None:
    report = run([InputOptions(FILE)], tiny, extra=[Recorder()], realtime=True, duration=0.6)
    assert report.bottleneck == "none"
    assert sum(shares(report).values()) < 0.5


def test_refining_workers(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runner.run.worker_pool", lambda *_: WorkerPool(1, Jobs("slow-copy", str(tmp_path))))
    slow_network(monkeypatch, 0.001)
    report = run([InputOptions(FILE)], tiny, extra=[Recorder()], refine="guided", crf_workers=1)
    assert report.bottleneck == "refine"
    assert 0 < report.inputs[0].stages["refine"].busy <= 1


def test_busy_is_work_and_not_time_that_others_took(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is kept from the processor is no busier for it."""
    slow(monkeypatch, Renderer, "render", 0.01)
    report = run([InputOptions(FILE, outputs=("null",))], tiny)
    assert report.bottleneck == "testsrc2 render"
    assert report.inputs[0].stages["render"].milliseconds < 5


def test_the_report_as_json_and_text(clip: MakeClip, tiny: str) -> None:
    report = run([InputOptions(str(clip("h264").path), outputs=("null",))], tiny)
    told = json.loads(report.as_json())
    assert told["frames"] == 30
    assert told["engine"]["backend"] == "openvino"
    assert told["model"]["name"] == "tiny"
    assert told["model"]["sha256"] == zoo.load_model(tiny).sha256
    assert {"python", "numpy", "av", "openvino"} <= told["versions"].keys()
    assert told["bottleneck"] in ("infer", *(f"h264 {name}" for name in told["inputs"][0]["stages"]))
    for stage in told["inputs"][0]["stages"].values():
        assert stage["busy"] >= 0
        assert stage["milliseconds"] >= 0
    text = report.as_text()
    assert "30 frames in" in text
    assert "30 read, 30 written" in text


def test_times_that_were_put_right_are_told(clip: MakeClip, tiny: str) -> None:
    report = run([InputOptions(str(clip("restart").path), outputs=("null",))], tiny)
    assert report.inputs[0].repaired == 24
    assert "24 restamped" in report.as_text()
