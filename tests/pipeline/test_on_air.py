"""The program on air: served, published, recorded and watched over at once; and what it tells of that."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config import load_options
from pipeline.errors import SinkError
from pipeline.options import InputOptions
from pipeline.runner import Runner
from pipeline.runner.metrics import MetricsServer
from pipeline.sinks import ServeOptions, open_output
from pipeline.sinks.serve.address import Address
from tests.pipeline.conftest import Cli
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.ports import free_port
from tests.pipeline.running import (
    ROOT,
    Recorder,
    arguments,
    one_line_error,
    options_of,
    run,
    started,
    times,
    until,
)
from tests.pipeline.sinks.serving import Task, page_pieces, play

pytestmark = [pytest.mark.timeout(90)]

LIVE = "lavfi:testsrc2=size=96x80:rate=25,realtime"


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def samples(port: int) -> dict[tuple[str, ...], float]:
    text = get(port, "metrics")[1]
    return {
        (sample.name, *(value for key, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
def test_everything_at_once(tiny: str, tmp_path: Path) -> None:
    rtsp, page, masks, metrics = (free_port() for _ in range(4))
    flags = [
        "--output", f"rtsp://@:{rtsp}/{{name}}", "--output", f"http://@:{page}/", "--masks", f"tcp://@:{masks}",
        "--output", f"{tmp_path}/rec/{{name}}-%Y%m%d-%H%M%S.mkv", "--segment-time", "1",
        "--metrics-port", str(metrics), "--log-format", "json", "--auth", "viewer:${VIEWER}",
    ]  # fmt: skip
    environment = {**os.environ, "VIEWER": "topsecret"}
    with started(*arguments(LIVE, tiny, *flags), env=environment) as process:
        until(lambda: _ready(metrics), 60, "readiness")
        viewer = Task(lambda: play(f"rtsp://viewer:topsecret@127.0.0.1:{rtsp}/testsrc2", 10))
        reader = Task(lambda: play(f"tcp://127.0.0.1:{masks}", 5))
        assert len(viewer.result(40)) == 10
        assert {(frame.width, frame.height) for frame in reader.result(30)} == {(96, 80)}
        assert get(page, "frames")[0] == 401
        assert get(metrics, "healthz") == (200, "ok\n")
        assert get(metrics, "metrics")[0] == 401
        until(lambda: len(list((tmp_path / "rec").glob("[!.]*"))) >= 2, 20, "two segments")
        process.send_signal(signal.SIGTERM)
        out, said = (part.decode() for part in process.communicate(timeout=30))
    assert process.returncode == 0, said
    lines = [json.loads(line) for line in said.splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line["time"]) for line in lines)
    assert "bottleneck" in lines[-1]["message"]
    assert "topsecret" not in out + said
    for path in (tmp_path / "rec").iterdir():
        assert times(path)[0] == 0


def _ready(port: int) -> bool:
    try:
        return get(port, "readyz")[0] == 200
    except OSError:
        return False


def test_what_is_served_is_told_as_clients_type_it(tiny: str) -> None:
    """The port, too, where any that is free was asked for."""
    flags = ("--output", "rtsp://@:0/a b", "--output", "http://@127.0.0.1:0/cam", "--masks", "tcp://@[::1]:0")
    with started(*arguments(LIVE, tiny, *flags, "--metrics-port", "0")) as process:
        assert process.stderr is not None
        told: dict[str, str] = {}
        while len(told) < 4:
            line = process.stderr.readline().decode()
            assert line, "it has ended"
            if match := re.fullmatch(r"INFO: serving (\w+://(\S+):(\d+)/(\S*))\n", line):
                told[match[4]] = match[1]
                socket.create_connection((match[2].strip("[]"), int(match[3])), 5).close()
    assert {re.sub(r":\d+/", ":N/", each) for each in told.values()} == {
        "rtsp://localhost:N/a%20b", "http://127.0.0.1:N/cam", "tcp://[::1]:N/", "http://localhost:N/metrics",
    }  # fmt: skip
    assert Address("rtsp", "::", 8554, "x").reached(8554) == f"rtsp://{socket.gethostname()}:8554/x"


def test_what_prometheus_reads(tiny: str) -> None:
    rtsp, port = free_port(), free_port()
    options = options_of([InputOptions(LIVE, "cam", (f"rtsp://@:{rtsp}/cam",), ("null",))], tiny)
    with nothing_left(), MetricsServer(str(port), ServeOptions()) as server:
        assert get(port, "readyz") == (503, "starting\n")
        assert get(port, "healthz")[0] == 200
        assert get(port, "")[0] == 404
        with Runner(options) as runner:
            server.follow(runner)
            runner.start()
            until(lambda: get(port, "readyz")[0] == 200, 20)
            viewer = Task(lambda: play(f"rtsp://127.0.0.1:{rtsp}/cam", 50))
            until(lambda: samples(port)["deeplab_stream_clients", "cam", f"rtsp://@:{rtsp}/cam"] == 1, 20)
            viewer.result()
            runner.stop()
            report = runner.finish()
            seen = samples(port)
    (one,) = report.inputs
    assert seen["deeplab_stream_frames_read_total", "cam"] == one.read
    assert seen["deeplab_stream_frames_written_total", "cam", "null"] == one.sinks[1].written
    assert seen["deeplab_stream_stage_seconds_count", "cam", "infer"] == one.stages["infer"].frames
    mean = seen["deeplab_stream_stage_seconds_sum", "cam", "infer"] / one.stages["infer"].frames
    assert mean * 1000 == pytest.approx(one.stages["infer"].milliseconds, rel=0.01)
    buckets = [
        value for name, value in seen.items() if name[0] == "deeplab_stream_latency_seconds_bucket" and "null" in name
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == one.sinks[1].written
    assert seen["process_resident_memory_bytes",] > 1 << 20
    assert any(name[0] == "deeplab_stream_info" and "tiny" in name for name in seen)


@pytest.mark.slow
def test_what_prometheus_reads_of_an_input_that_comes_and_goes(tiny: str) -> None:
    port, camera = free_port(), free_port()
    away = InputOptions(f"rtsp://127.0.0.1:{camera}/cam", "away", masks=("null",))
    options = options_of([away, InputOptions(LIVE, "cam", masks=("null",))], tiny, refine="crf", crf_workers=1)
    with nothing_left(), MetricsServer(str(port), ServeOptions()) as server, Runner(options) as runner:
        server.follow(runner)
        runner.start()
        until(lambda: samples(port)["deeplab_stream_frames_written_total", "cam", "null"] > 1, 20)
        before = samples(port)
        until(lambda: _down(port) > before["deeplab_stream_input_down_seconds_total", "away"], 20)
        assert before["deeplab_stream_input_outages_total", "unreachable", "away"] == 1
        assert (before["deeplab_stream_input_up", "away"], before["deeplab_stream_input_up", "cam"]) == (0, 1)
        sends = options_of([InputOptions(LIVE, "cam", (f"rtsp://@:{camera}/cam",))], tiny)
        with Runner(sends) as sender:
            sender.start()
            until(lambda: samples(port)["deeplab_stream_input_up", "away"], 30, "the input")
            sender.stop()
            sender.finish()
        until(lambda: not samples(port)["deeplab_stream_input_up", "away"], 30, "the outage")
        runner.stop()
        report = runner.finish()
        seen = samples(port)
    causes = {key[1]: value for key, value in seen.items() if key[0] == "deeplab_stream_input_outages_total"}
    assert report.inputs[0].outages is not None
    assert causes == report.inputs[0].outages.causes
    assert sum(causes.values()) == 2
    dropped = {key[1:]: value for key, value in seen.items() if key[0] == "deeplab_stream_frames_dropped_total"}
    for place, cause in (("decode", "late"), ("prepare", "overtaken"), ("infer", "late"), ("null", "slow")):
        expected = {(drop.place, drop.cause): drop.frames for drop in report.inputs[1].drops}.get((place, cause), 0)
        assert dropped[cause, "cam", place] == expected
    assert seen["deeplab_stream_engine_frames_total",] >= seen["deeplab_stream_engine_requests_total",] > 0
    assert before["deeplab_stream_memory_bytes", "stream"] > 1 << 24
    assert before["deeplab_stream_memory_bytes", "workers"] > 1 << 20


def _down(port: int) -> float:
    return samples(port)["deeplab_stream_input_down_seconds_total", "away"]


@pytest.mark.slow
def test_a_file_is_shown_at_its_own_pace(tiny: str) -> None:
    """Nobody could look at a file that is streamed as fast as it can be read."""
    source = "lavfi:testsrc2=size=96x80:rate=25:duration=2"
    report = run([InputOptions(source, None, (f"rtsp://@:{free_port()}/a",))], tiny)
    assert report.seconds > 1.8
    assert report.inputs[0].written >= 45
    assert run([InputOptions(source, None, ("null",))], tiny).seconds < 1.8


def test_the_page_gets_plain_pictures_and_true_labels(tiny: str) -> None:
    port = free_port()
    options = options_of([InputOptions(LIVE, None, (f"http://@:{port}/",))], tiny, alpha=1.0, legend=False)
    with nothing_left(), Runner(options) as runner:
        runner.start()
        until(lambda: _listens(port), 20)
        ((_, jpeg, png),) = page_pieces(f"http://127.0.0.1:{port}/frames", 1)
        runner.stop()
        runner.finish()
    picture = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), int)
    labels = np.asarray(Image.open(io.BytesIO(png)))
    assert labels.shape == (80, 96)
    assert set(np.unique(labels)) <= {0, 1, 2}
    pure = 255 * np.eye(3, dtype=int)
    painted = np.abs(picture[:, :, None] - pure).max(axis=-1).min(axis=-1) < 60
    assert painted.mean() < 0.7, "the paint hides the whole picture"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--output", "rtsp://@0.0.0.0:8554/a"), "--auth"),
        (("--output", "http://@0.0.0.0:8080/", "--auth", "a:b"), "--tls-cert"),
        (("--output", "rtsp://me:secret@:8554/a"), "--auth"),
        (("--output", "null", "--metrics-port", "0.0.0.0:9100"), "--auth"),
        (("--output", "null", "--metrics-port", "lots"), "metrics port"),
        (("--output", "rtsp://@:8554/a", "--output", "http://@:8554/"), "cannot share port 8554"),
        (("--output", "rtsp://@:8554/a", "--output", "rtsp://@127.0.0.1:8554/b"), "cannot share port 8554"),
        (("--masks", "tcp://@0.0.0.0:9000", "--metrics-port", "9000", "--insecure"), "cannot share port 9000"),
        (("--output", "http://@:9100/", "--metrics-port", "9100"), "cannot share port 9100"),
        (("--output", "rec/%Q.mkv"), "%Q tells no time"),
        (("--output", "null", "--auth", "nobody"), "USER:PASSWORD"),
        (("--output", "null", "--auth", "a:${NOT_SET_ANYWHERE}"), "NOT_SET_ANYWHERE"),
        (("--output", "null", "--tls-cert", "c.pem"), "needs both"),
        (("--output", "null", "--keep-size", "lots"), "no size"),
        (("--output", "rtsp://@:8554/a", "--output", "rtsp://@:8554/a"), "two outputs"),
        (("--output", "rtmp://host/live/secret", "--output", "rtmp://host/live/secret"), "rtmp://host/live/***"),
        (("--output", "rtsp://u:secret@host/a", "--output", "rtsp://u:secret@host/a"), "rtsp://u:***@host/a"),
    ],
)
def test_wrong_usage_is_one_line(flags: tuple[str, ...], said: str, cli: Cli, tiny: str) -> None:
    for more in ((), ("--dry-run",)):
        line = one_line_error(cli(*arguments(LIVE, tiny, *flags, *more)), said, status=2)
        assert "secret" not in line


def test_the_documented_deployment_is_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_URL", "rtsp://camera/1")
    monkeypatch.setenv("VIEWER_PASSWORD", "topsecret")
    options = load_options(str(ROOT / "docs/deploy/run.yaml"), {})
    (one,) = options.inputs
    names = [open_output(uri, options.video, options.serve, options.record).name for uri in one.outputs]
    assert names == list(one.outputs)
    assert "topsecret" not in repr(options)


def test_an_output_that_fails_is_told_to_those_who_watch(tiny: str) -> None:
    port = free_port()
    given = Recorder(lambda step, _: _full() if step == "write" else None, name="rec/a.mkv")
    with nothing_left(), MetricsServer(str(port), ServeOptions()) as server:
        options = options_of([InputOptions(LIVE, "cam", masks=("null",))], tiny)
        with Runner(options, extra=[given]) as runner:
            server.follow(runner)
            runner.start()
            until(lambda: runner.lanes[0].outlets[1].failure, 20, "the failure")
            until(lambda: get(port, "readyz")[1].startswith("failed"), 20)
            assert get(port, "readyz") == (503, "failed, everything else goes on: rec/a.mkv\n")
            assert get(port, "healthz") == (200, "ok\n")
            seen = samples(port)
            runner.stop()
            runner.finish()
    assert seen["deeplab_stream_output_failures_total", "cam", "rec/a.mkv"] == 1
    assert seen["deeplab_stream_output_up", "cam", "rec/a.mkv"] == 0
    assert seen["deeplab_stream_output_up", "cam", "null"] == 1


def _full() -> None:
    raise SinkError("rec/a.mkv cannot be written: the disk is full")


def test_a_port_in_use_is_told_before_anything_runs(cli: Cli, tiny: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for flags in (
            ("--output", f"rtsp://@:{port}/a"),
            ("--output", f"http://@:{port}/"),
            ("--masks", f"tcp://@:{port}"),
            ("--output", "null", "--metrics-port", str(port)),
        ):
            for more in ((), ("--dry-run",)):
                one_line_error(cli(*arguments(LIVE, tiny, *flags, *more)), f"port {port} is in use")
