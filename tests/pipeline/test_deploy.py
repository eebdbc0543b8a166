"""What stands in docs/deploy: the unit, the images and their check of health."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from pipeline.cli.service import Service
from pipeline.options import InputOptions
from pipeline.runner import Runner
from pipeline.runner.metrics import MetricsServer
from pipeline.sinks import ServeOptions
from pipeline.stages.render import Renderer
from tests.pipeline.certificates import self_signed
from tests.pipeline.ports import free_port
from tests.pipeline.running import ROOT, arguments, options_of, started, until

pytestmark = pytest.mark.timeout(60)

DEPLOY = ROOT / "docs/deploy"
LIVE = "lavfi:testsrc2=size=96x80:rate=25,realtime"


def health(port: int) -> int:
    environment = {**os.environ, "HEALTH_PORT": str(port)}
    script = [sys.executable, str(DEPLOY / "healthcheck.py")]
    return subprocess.run(script, env=environment, timeout=20, check=False).returncode


@pytest.mark.parametrize("tls", [False, True])
def test_health_is_asked_for_with_and_without_tls(tls: bool, tmp_path: Path) -> None:
    port, serve = free_port(), ServeOptions()
    if tls:
        cert, key = self_signed(tmp_path)
        serve = replace(serve, tls_cert=str(cert), tls_key=str(key))
    with MetricsServer(str(port), serve) as server:
        assert health(port) == 0
        server.follow(_Failed())  # type: ignore[arg-type]
        assert health(port) == 1
    assert health(port) == 0, "no metrics: nothing speaks against it"


class _Failed:
    failed = True


def test_a_port_that_does_not_answer_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: [silent.accept()[0].close() for _ in range(2)], daemon=True).start()
        assert health(silent.getsockname()[1]) == 1


def test_every_package_of_the_images_is_locked() -> None:
    locked = {line.partition("==")[0].lower().replace("_", "-") for line in _lines("constraints.txt")}
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    named = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    named += [*extras["metrics"], *extras["webrtc"], *extras["tensorrt"]]
    names = {Requirement(each).name.lower().replace("_", "-") for each in named}
    assert names - locked == {"tensorrt"}


def _lines(name: str) -> list[str]:
    return [
        line for line in (DEPLOY / name).read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")
    ]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.gpu"])
def test_an_image_copies_what_is_there_and_runs_what_it_copies(name: str) -> None:
    text = "\n".join(_lines(name)).replace("\\\n", " ")
    copied = [source for line in re.findall(r"COPY (?!--from)(.+) /", text) for source in line.split() if source != "."]
    assert copied
    assert all((ROOT / source).is_file() for source in copied)
    names = {Path(source).name for source in copied}
    assert {Path(path).name for path in re.findall(r"/etc/deeplab-stream/([\w.]+)", text)} == names
    assert "9100" in re.findall(r"EXPOSE (.+)", text)[0].split()
    assert "webrtc" in text


def test_the_unit_is_one(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is missing")
    unit = tmp_path / "deeplab-stream.service"
    text = (DEPLOY / unit.name).read_text(encoding="utf-8")
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text), encoding="utf-8")
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not complaints


def test_systemd_hears_that_the_run_is_ready_and_alive(tiny: str, tmp_path: Path) -> None:
    with _listening(tmp_path) as listener:
        told = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
        with started(*arguments(LIVE, tiny, "--output", "null"), env=told) as process:
            assert [listener.recv(99) for _ in range(4)] == [b"READY=1", *[b"WATCHDOG=1"] * 3]
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def _listening(folder: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(folder / "notify"))
    listener.settimeout(20)
    return listener


def test_systemd_hears_nothing_of_a_run_that_is_stuck(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, real = threading.Event(), Renderer.render
    stuck.set()

    def render(*args: Any) -> Any:
        stuck.wait(30)
        return real(*args)

    monkeypatch.setattr(Renderer, "render", render)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "2")
    options = options_of([InputOptions(LIVE, "cam", ("null",))], tiny)
    with _listening(tmp_path) as listener, Runner(options) as runner:
        service = Service(runner)
        runner.start()
        until(lambda: runner.frames > 1, 20)
        service.tick()
        assert (listener.recv(99), listener.recv(99)) == (b"READY=1", b"WATCHDOG=1")
        stuck.clear()
        listener.settimeout(0.2)
        _after_frames(runner)  # what was on its way may come out
        service.tick()
        with suppress(TimeoutError):
            listener.recv(99)
        _after_frames(runner)
        service.tick()
        with pytest.raises(TimeoutError):
            listener.recv(99)
        stuck.set()
        runner.stop()
        runner.finish()


def _after_frames(runner: Runner) -> None:
    read = runner.lanes[0].read_frames
    until(lambda: runner.lanes[0].read_frames > read + 5, 20)
