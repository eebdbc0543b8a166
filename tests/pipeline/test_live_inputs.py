"""Whole runs on live inputs: stopped at any moment, cut, late, and with secrets in their addresses."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline.options import InputOptions
from pipeline.runner import Runner
from tests.pipeline.clips import Clip
from tests.pipeline.conftest import Cli
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.ports import free_port
from tests.pipeline.running import Recorder, arguments, masks_of, options_of, run, started, tree, until
from tests.pipeline.slowing import slow_network
from tests.pipeline.sources.peers import gst_rtsp
from tests.pipeline.sources.served import rtsp_camera, talker

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]
PACED = "lavfi:testsrc2=size=96x80:rate=50,realtime"


@pytest.mark.parametrize(
    ("server", "number"),
    [
        ("silent", signal.SIGTERM),
        pytest.param("silent", signal.SIGINT, marks=pytest.mark.slow),
        ("absent", signal.SIGTERM),
        ("stalled", signal.SIGINT),
    ],
)
def test_one_signal_ends_a_run_at_once_whatever_the_network_does(
    server: str, number: signal.Signals, clip: MakeClip, tiny: str, tmp_path: Path
) -> None:
    asked = threading.Event()

    def silence(_: socket.socket, over: threading.Event) -> None:
        asked.set()
        over.wait(30)

    masks, port, log = tmp_path / "masks.mkv", free_port(), tmp_path / "log"
    with ExitStack() as during:
        if server == "silent":
            during.enter_context(talker(silence, port))
        if server == "stalled":
            during.enter_context(talker(rtsp_camera(clip("late ts").path, silence), port))
        errors = during.enter_context(log.open("wb"))
        flags = arguments(f"rtsp://me:s3cr3t@127.0.0.1:{port}/cam", tiny, "--masks", masks, "-vv")
        process = during.enter_context(started(*flags, stderr=errors))
        if server == "absent":
            until(lambda: b"engine openvino" in log.read_bytes(), 30, "the engine")
        elif server == "silent":
            assert asked.wait(30)
        else:
            until(lambda: list(tmp_path.glob(".*.mkv*")), 30, "the first mask")
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(10) == (0 if number == signal.SIGTERM else 130)
        assert time.monotonic() - began < 2.5
    said = log.read_text()
    assert "Traceback" not in said
    assert "s3cr3t" not in said
    assert "me:***@127.0.0.1" in said or server == "silent"
    if server == "stalled":
        assert masks_of(masks)
    else:
        assert tree(tmp_path) == ["log"]


def test_an_input_that_is_not_there_holds_up_no_other(tiny: str) -> None:
    recorder = Recorder()
    inputs = [InputOptions(PACED, "there"), InputOptions(f"rtsp://127.0.0.1:{free_port()}/cam", "away")]
    with nothing_left(), Runner(options_of(inputs, tiny), extra=[recorder]) as runner:
        runner.start()
        until(lambda: len(recorder.results) > 10, 20, "pictures of the input that is there")
        runner.stop()
        report = runner.finish()
    there, away = report.inputs
    assert there.written > 10
    assert away.read == 0
    assert away.outages is not None
    assert away.outages.causes == {"unreachable": 1}
    assert report.error is None


@pytest.mark.slow
def test_pictures_that_are_too_old_never_reach_the_engine(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three inputs of which the engine could not serve one: what it takes is fresh, and every loss is counted."""
    ages: list[float] = []
    slow_network(monkeypatch, 0.06)

    class Aged(Recorder):
        def write(self, result: Any) -> None:
            ages.append((time.monotonic_ns() - result.frame.captured_ns) / 1e6)
            super().write(result)

    inputs = [InputOptions(PACED, name, masks=("null",)) for name in ("a", "b", "c")]
    report = run(inputs, tiny, extra=[Aged()], duration=2.0, max_latency=100.0)
    for one in report.inputs:
        drops = {(drop.place, drop.cause): drop.frames for drop in one.drops}
        assert one.read > 70
        assert one.read == one.written + sum(drops.values())
        assert drops["prepare", "overtaken"] > 20
        assert one.written > 3, "none may starve"
    assert sum(d.frames for one in report.inputs for d in one.drops if d.cause == "late") > 10
    assert max(ages[3:]) < 100 + 2 * 60 + 150


@pytest.mark.slow
def test_a_run_outlives_its_camera(tiny: str, tmp_path: Path) -> None:
    """Killed, and back with another codec and size: masks of either size, and the report tells."""
    recorder = Recorder()
    with nothing_left(), gst_rtsp("tcp") as peer:
        peer.start("h264", 320, 240)
        with Runner(options_of([InputOptions(peer.uri)], tiny), extra=[recorder]) as runner:
            runner.start()
            until(lambda: len(recorder.results) > 10, 20, "pictures")
            peer.kill()
            peer.start("h265", 480, 360)
            until(lambda: any(result.labels.shape == (360, 480) for result in recorder.results), 20, "others")
            runner.stop()
            report = runner.finish()
    assert recorder.steps.count("reconfigure") == 1
    (one,) = report.inputs
    assert one.outages is not None
    assert one.outages.count == 1
    assert one.outages.seconds > 0
    assert one.stages["decode"].milliseconds > 0.1, "which is done in the source's own thread"
    assert report.error is None
    assert {result.labels.shape for result in recorder.results} == {(240, 320), (360, 480)}


def test_no_secret_is_told(cli: Cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by -vv with its tracebacks nor by the report."""
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cr3t/@")
    report = tmp_path / "report.json"
    uri = f"rtsp://me:${{CAMERA_PASSWORD}}@127.0.0.1:{free_port()}/user=me_password=s3cr3t?token=s3cr3t"
    done = cli(*arguments(uri, tiny, "--output", "null", "--report", report, "--reconnect", "0", "-vv"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr + report.read_text()
    assert "rtsp://me:***@127.0.0.1" in json.loads(report.read_text())["error"]
    assert re.search(r"error: rtsp://me:\*\*\*@127\.0\.0\.1:\d+/user=me_password=\*\*\*\?token=\*\*\*: ", done.stderr)


def test_no_secret_of_a_variable_is_told(cli: Cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In no place of an address, by no channel: log, error, report, names of files."""
    monkeypatch.setenv("TOK", "SUPERSECRET")
    report, port = tmp_path / "report.json", free_port()
    for uri in (f"http://127.0.0.1:{port}/${{TOK}}.m3u8", f"rtsp://${{TOK}}@127.0.0.1:{port}/x"):
        output = f"{tmp_path}/{{name}}-${{TOK}}.mkv"
        done = cli(*arguments(uri, tiny, "--output", output, "--report", report, "--reconnect", "0", "-vv"))
        assert done.returncode == 1
        assert "***" in done.stderr
        assert "SUPERSECRET" not in done.stdout + done.stderr + report.read_text()


def test_no_secret_of_an_output_is_told(cli: Cli, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the process that publishes."""
    monkeypatch.setenv("TOK", "SUPERSECRET")
    report = tmp_path / "report.json"
    outputs = ("--output", f"rtsp://127.0.0.1:{free_port()}/${{TOK}}", "--masks", f"{tmp_path}/${{TOK}}.jsonl")
    done = cli(*arguments("lavfi:testsrc2=size=96x80", tiny, *outputs, "--max-frames", "3", "--report", report, "-vv"))
    assert done.returncode == 1
    assert re.search(r"ERROR: rtsp://127\.0\.0\.1:\d+/\*\*\* cannot be published: ", done.stderr)
    assert "SUPERSECRET" not in done.stdout + done.stderr + report.read_text()
    assert f"{tmp_path}/***.jsonl" in report.read_text()
