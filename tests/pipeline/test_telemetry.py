"""Counters and percentiles are what they claim; the report says it to people and to programs."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace

import pytest

from engines.base import EngineInfo
from pipeline.reports import (
    BatchReport,
    CRFReport,
    DropReport,
    InputReport,
    ModelReport,
    OutageReport,
    Percentiles,
    Report,
    SinkReport,
    Spread,
    StageReport,
)
from pipeline.telemetry import BatchMeter, CRFMeter, LatencyHistogram, StageMeter


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_within_a_hundredth(seed: int) -> None:
    draw = random.Random(seed)
    durations = [int(draw.lognormvariate(17, 1.5)) + 1 for _ in range(5000)]
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(duration)
    found = histogram.percentiles()
    assert found is not None
    durations.sort()
    for share, value in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        exact = durations[int(share * len(durations)) - 1] / 1e6
        assert value == pytest.approx(exact, rel=0.011)


def test_a_histogram_holds_bins_not_durations() -> None:
    histogram = LatencyHistogram()
    for nanoseconds in range(1, 10**6):
        histogram.add(nanoseconds * 1000)
    assert len(histogram._bins) < 1500
    assert LatencyHistogram().percentiles() is None


def test_histograms_add_up() -> None:
    one, other, both = LatencyHistogram(), LatencyHistogram(), LatencyHistogram()
    for number in range(1, 1000):
        (one if number % 3 else other).add(number * 10**6)
        both.add(number * 10**6)
    one.merge(other)
    assert one.percentiles() == both.percentiles()


def test_zero_and_negative_durations_are_no_error() -> None:
    """Clocks of two machines may disagree."""
    histogram = LatencyHistogram()
    histogram.add(0)
    histogram.add(-5)
    assert histogram.percentiles() is not None


def test_a_meter_counts_frames_and_time() -> None:
    meter = StageMeter()
    with meter:
        time.sleep(0.02)
    meter.add(0.5)
    assert meter.frames == 2
    assert 0.52 <= meter.busy_ns / 1e9 < 0.8


def test_a_meter_does_not_count_what_failed() -> None:
    meter = StageMeter()
    with pytest.raises(ValueError), meter:
        raise ValueError
    assert meter.frames == 0


CRF = CRFReport(Percentiles(40, 60, 70), Spread(2, 4.25, 7), Spread(3, 4.9, 5))


def test_what_the_crf_did_is_summed_up() -> None:
    meter = CRFMeter()
    assert meter.report() is None
    for seconds, classes, iterations in ((0.1, 3, 5), (0.1, 4, 5), (0.3, 8, 2)):
        meter.add(seconds, classes, iterations)
    told = meter.report()
    assert told is not None
    assert told.milliseconds.p50 == pytest.approx(100, rel=0.02)
    assert told.milliseconds.p99 == pytest.approx(300, rel=0.02)
    assert (told.classes, told.iterations) == (Spread(3, 5.0, 8), Spread(2, 4.0, 5))


def report() -> Report:
    stages = {
        "decode": StageReport(100, 0.5, 0.0, 5.0),
        "infer": StageReport(100, 0.9, 0.8, 12.0, 1.5, 3, 7),
        "rtsp://somewhere/very/long": StageReport(99, 0.2, 0.1, 2.0, 0.5, 4, 4),
    }
    sinks = (SinkReport("out.mkv", 99, 1),)
    drops = (DropReport("prepare", "overtaken", 3), DropReport("infer", "late", 2), DropReport("out.mkv", "slow", 1))
    away = OutageReport(3, 12.5, {"cut": 1, "silent": 2})
    one = InputReport(
        "cam", "rtsp://cam", 105, 99, 2, 3, 1, 5, drops, away, sinks, Percentiles(10, 20, 30), CRF, stages
    )
    return Report(
        seconds=10.0,
        frames=99,
        fps=9.9,
        bottleneck="infer",
        interrupted=False,
        error=None,
        worker_deaths=4,
        model=ModelReport("street", "ab" * 32, "research", ("road", "car")),
        engine=EngineInfo("openvino", "2026.1", "CPU", "bf16", 2, 2, "fp16"),
        batches=BatchReport(3, Spread(1, 2.5, 4), 1.25),
        versions={"python": "3.11"},
        cpus=2,
        inputs=(one,),
    )


def test_the_text_names_all_that_was_lost() -> None:
    text = report().as_text()
    for said in (
        "99 frames in 10.0 s: 9.9 FPS; bottleneck: infer",
        "cam: 105 read, 99 written, 5 dropped (2 as too old), 1 lost by out.mkv, 2 damaged, 3 restamped, 1 unrefined",
        "4 refining workers died and were replaced",
        "latency p50 10, p95 20, p99 30 ms",
        "CRF p50 40, p95 60 ms a frame; classes 4.2 (at most 7), iterations 4.9 (at least 3)",
        "model street on openvino 2026.1 (CPU, bf16 in place of fp16)",
        "away 3 times, 12.5 s in all: 1 cut, 2 silent",
        "3 streams on one engine, 2.5 frames a request (at most 4), which waited 1.2 ms for one another",
        "90% busy   80% awaited",
        "queue 1.5 of 7",
    ):
        assert said in text
    lines = text.splitlines()
    assert all(len(line) < 120 for line in lines)


@pytest.mark.parametrize(
    ("missed", "said"), [(0, ", rtsp://h/x failed, 2 not"), (7, ", 7 missed by rtsp://h/x, which failed, ")]
)
def test_the_text_tells_of_outputs_that_failed(missed: int, said: str) -> None:
    (one,) = report().inputs
    failed = replace(one, sinks=(SinkReport("rtsp://h/x", 99, 0, 2, failures=1, missed=missed),))
    assert said in replace(report(), inputs=(failed,)).as_text()


def test_batches_are_counted() -> None:
    meter = BatchMeter()
    assert meter.report(2) is None
    for frames, waited_s in ((1, 0.0), (4, 0.002), (1, 0.004)):
        meter.add(frames, waited_s)
    assert meter.report(5) == BatchReport(5, Spread(1, 2.0, 4), 2.0)


def test_streams_that_go_one_by_one_are_told_without_batches() -> None:
    text = replace(report(), batches=BatchReport(3, Spread(1, 1.0, 1), 0.0)).as_text()
    assert "3 streams on one engine\n" in text


def test_the_text_keeps_quiet_about_what_did_not_happen() -> None:
    full = report()
    (one,) = full.inputs
    clean = replace(
        one,
        damaged=0,
        repaired=0,
        unrefined=0,
        dropped=0,
        drops=(),
        outages=OutageReport(0, 0.0, {}),
        sinks=(SinkReport("out.mkv", 99, 0),),
        latency_ms=None,
        crf=None,
    )
    alone = BatchReport(1, Spread(1, 1.0, 1), 0.0)
    text = replace(full, worker_deaths=0, batches=alone, inputs=(clean,)).as_text()
    for word in ("streams", "dropped", "lost", "damaged", "restamped", "unrefined", "died", "latency", "CRF", "away"):
        assert word not in text


def test_the_json_holds_everything() -> None:
    told = json.loads(report().as_json())
    assert told["inputs"][0]["latency_ms"] == {"p50": 10, "p95": 20, "p99": 30}
    assert told["inputs"][0]["stages"]["infer"]["queue_size"] == 7
    assert told["inputs"][0]["crf"]["iterations"] == {"min": 3, "mean": 4.9, "max": 5}
    assert told["inputs"][0]["drops"][1] == {"place": "infer", "cause": "late", "frames": 2}
    assert told["inputs"][0]["outages"] == {"count": 3, "seconds": 12.5, "causes": {"cut": 1, "silent": 2}}
    assert told["model"]["classes"] == ["road", "car"]
    assert told["interrupted"] is False
