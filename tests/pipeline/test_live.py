"""Live mode: what is too slow loses frames, counted, and nobody else waits for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

import pipeline
from pipeline.flow import Buffer, Closed, Crew
from pipeline.options import InputOptions
from pipeline.reports import Report
from pipeline.runner import Runner
from pipeline.runner.deadline import Deadlines
from pipeline.runner.outlet import AUDIO_BACKLOG, BACKLOG, Delivery, Outlet
from pipeline.sources import AudioPacket, open_source
from tests.pipeline.clips import Clip
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import Recorder, masks_of, options_of, run, until
from tests.pipeline.sinks.made import TAKES
from tests.pipeline.slowing import slow_network

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]

PACED = "lavfi:testsrc2=size=96x80:rate=50,realtime"


class Aged(Recorder):
    """Also keeps how old each result was when it came."""

    def __init__(self, on: Callable[[str, int], None] | None = None) -> None:
        super().__init__(on)
        self.ages: list[float] = []

    def write(self, result: Any) -> None:
        self.ages.append((time.monotonic_ns() - result.frame.captured_ns) / 1e9)
        super().write(result)


def check(recorder: Recorder, report: Report) -> None:
    """What holds of every live run: order, honest numbers, and every gap marked."""
    (one,) = report.inputs
    (sink,) = one.sinks
    assert recorder.indices == sorted(set(recorder.indices))
    assert sink.written == len(recorder.indices) == one.written
    assert one.read == sink.written + sink.dropped + one.dropped
    assert recorder.results[0].frame.discontinuity
    for before, after in pairwise(recorder.results):
        assert after.frame.discontinuity == (after.index != before.index + 1)
        assert after.pts > before.pts


def test_a_slow_sink_loses_its_own_frames(tiny: str) -> None:
    slow = Aged(lambda step, _: time.sleep(0.1) if step == "write" else None)
    with nothing_left():
        report = run([InputOptions(PACED)], tiny, extra=[slow], duration=2.0)
    check(slow, report)
    (one,) = report.inputs
    assert one.sinks[0].dropped > one.sinks[0].written
    assert one.read > 80, "the source must go on at its own pace"
    assert max(slow.ages[5:]) < 1.0
    assert 1.5 < report.seconds < 6


def test_a_frame_is_marked_where_those_before_it_never_reached_the_sink() -> None:
    recorder, take = Recorder(), TAKES[0]
    outlet = Outlet(recorder, source=take.name, live=True, failed=lambda: False)
    info = take.info()
    for index in (0, 1, 2, 3, 4, 5, 7):
        outlet.buffer.put(Delivery(take.result(index), info))
    outlet.buffer.close()
    outlet.run()
    assert [(each.index, each.frame.discontinuity) for each in recorder.results] == [
        (3, True), (4, False), (5, False), (7, True),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_slow_engine_loses_frames_before_it(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_network(monkeypatch, 0.1)
    aged = Aged()
    report = run([InputOptions(PACED)], tiny, extra=[aged], duration=2.0)
    check(aged, report)
    (one,) = report.inputs
    assert one.dropped > 40
    assert one.sinks[0].dropped == 0
    assert max(aged.ages[5:]) < 1.0
    assert report.bottleneck == "infer"


def test_a_frame_waits_for_one_before_it_at_most(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is chosen as the newest one when the engine begins with that, and would be older if two were before it."""
    network_s = 0.3
    slow_network(monkeypatch, network_s)
    aged = Aged()
    report = run([InputOptions(PACED)], tiny, extra=[aged], duration=3.0, max_latency=5000)
    check(aged, report)
    assert len(aged.ages) > 5
    assert network_s < sorted(aged.ages)[len(aged.ages) // 2] < 2.5 * network_s
    assert report.bottleneck == "infer"


@pytest.mark.slow
def test_the_crf_keeps_to_the_pace_of_a_live_input(tiny: str) -> None:
    """Iterations that would take many times an interval are cut down instead of losing most frames."""
    recorder = Aged()
    flags = {"refine": "crf", "crf_workers": 1, "crf_iterations": 1000}
    with nothing_left():
        report = run([InputOptions(PACED.replace("96x80", "256x192"))], tiny, extra=[recorder], duration=2.0, **flags)
    check(recorder, report)
    (one,) = report.inputs
    assert one.crf is not None
    assert one.crf.iterations.max == 1000, "the first one, when nothing is known yet"
    assert one.crf.iterations.min >= 2
    assert one.crf.iterations.mean < 333, "at all of its iterations there would be less than a third of the frames"
    assert one.written > 5
    assert one.crf.classes.max <= 3


def test_a_deadline_is_as_many_intervals_away_as_there_are_workers() -> None:
    now = 100.0
    deadlines = Deadlines(2.0, lambda: now)

    def frame(index: int, seconds: float) -> Any:
        return SimpleNamespace(index=index, captured_ns=int(seconds * 1e9))

    deadlines.came(frame(0, 10.0))
    assert deadlines.next() == math.inf
    deadlines.came(frame(3, 10.3))  # two were dropped: an interval is a third of that
    assert deadlines.next() == pytest.approx(100.2)
    deadlines.came(frame(0, 50.0))  # numbered anew: nothing is learned from the gap
    deadlines.came(frame(1, 50.1))
    assert deadlines.next() == pytest.approx(100.2)
    for index in range(2, 60):  # the camera's night mode
        deadlines.came(frame(index, 50 + index * 0.2))
    assert deadlines.next() == pytest.approx(100.4, abs=0.01)


def test_a_file_played_as_a_camera_takes_its_time(clip: Callable[[str], Clip], tiny: str) -> None:
    recorder = Recorder()
    began = time.monotonic()
    report = run([InputOptions(str(clip("h264").path))], tiny, extra=[recorder], realtime=True)
    assert time.monotonic() - began > 1.1, "thirty frames at 25 a second"
    check(recorder, report)


def test_the_sound_is_whole_while_the_sink_keeps_up(clip: Callable[[str], Clip], tiny: str) -> None:
    path = str(clip("aac").path)
    with closing(open_source(path)) as source:
        packets = sum(isinstance(item, AudioPacket) for item in source.read())
    assert packets > 40
    recorder = Recorder()
    report = run([InputOptions(path)], tiny, extra=[recorder], realtime=True)
    check(recorder, report)
    assert len(recorder.audio) == packets
    assert report.inputs[0].sinks[0].dropped == 0


def test_results_and_sound_push_out_only_their_like() -> None:
    outlet = Outlet(Recorder(), source="one", live=True, failed=lambda: False)
    results = [Delivery(cast(Any, number), cast(Any, None)) for number in range(BACKLOG + 2)]
    sound = [AudioPacket(cast(Any, number)) for number in range(AUDIO_BACKLOG + 3)]
    given = [*results[:2], *sound[:100], *results[2:], *sound[100:]]
    for item in given:
        outlet.buffer.put(item)
    outlet.buffer.close()
    kept = []
    while len(outlet.buffer):
        kept.append(outlet.buffer.get())
    assert kept == [*sound[3:100], *results[2:], *sound[100:]]
    assert outlet.dropped == 2
    with pytest.raises(Closed):
        outlet.buffer.put(results[0])


def test_a_crew_lets_go_of_what_nobody_uses() -> None:
    crew = Crew()
    kept: Buffer[int] = Buffer(1)
    crew.watch(kept)
    for _ in range(20):
        crew.watch(Buffer[int](1))
    assert len(crew._watched) <= 2
    crew.stop()
    assert kept.closed


def test_lossless_waits_even_for_a_live_source(tiny: str) -> None:
    slow = Recorder(lambda step, _: time.sleep(0.02) if step == "write" else None)
    report = run([InputOptions(PACED)], tiny, extra=[slow], mode="lossless", max_frames=60)
    assert slow.indices == list(range(60))
    assert report.inputs[0].dropped == report.inputs[0].sinks[0].dropped == 0


@pytest.mark.parametrize("mode", ["live", "lossless"])
def test_a_stuck_sink_holds_up_no_other_input(
    mode: str, clip: Callable[[str], Clip], tiny: str, tmp_path: Path
) -> None:
    stuck, release = threading.Event(), threading.Event()

    def block(step: str, _: int) -> None:
        if step == "write":
            stuck.set()
            assert release.wait(50)

    blocked = Recorder(block)
    given, other = clip("h264 lossy"), clip("h264")
    masks = tmp_path / "masks.mkv"
    inputs = [InputOptions(str(given.path), "stuck"), InputOptions(str(other.path), "free", masks=(str(masks),))]
    # The free one must not lose frames for want of speed here: it is played at a pace.
    flags = {"realtime": True} if mode == "live" else {}
    with Runner(options_of(inputs, tiny, mode=mode, **flags), extra=[blocked]) as runner:
        runner.start()
        assert stuck.wait(20)
        until(masks.exists, 20, "the end of the other input")
        assert not release.is_set()
        assert blocked.results == []
        release.set()
        report = runner.finish()
    assert len(masks_of(masks)) + report.inputs[1].dropped == len(other.numbers)
    if mode == "lossless":
        assert blocked.indices == list(range(len(given.numbers)))
        assert len(masks_of(masks)) == len(other.numbers)
    else:
        check_first = report.inputs[0]
        assert check_first.read == check_first.written + check_first.dropped + check_first.sinks[0].dropped


@pytest.mark.slow
def test_a_slow_reader_in_python_gets_the_newest(tiny: str) -> None:
    seen = []
    for result in pipeline.stream(PACED, model=tiny, duration=2.0):
        seen.append((result.index, (time.monotonic_ns() - result.frame.captured_ns) / 1e9))
        time.sleep(0.1)
    indices = [index for index, _ in seen]
    assert indices == sorted(set(indices))
    assert len(indices) < 60
    assert max(age for _, age in seen[5:]) < 1.0
