"""Masks over TCP: what other programs read of them."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.sinks import ServeOptions, open_masks, open_output
from pipeline.sinks.base import Live
from tests.conftest import need_program
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.made import TAKES, labels_of
from tests.pipeline.sinks.serving import NOISE, SHOWN, Task, on_air, play

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]


def test_whoever_comes_later_reads_from_there_on() -> None:
    port = free_port()
    sink = open_masks(f"tcp://@:{port}")
    assert isinstance(sink, Live)
    command = [need_program("ffmpeg"), "-v", "error", "-i", f"tcp://127.0.0.1:{port}", "-frames:v", "5"]
    command += ["-f", "rawvideo", "-pix_fmt", "gray", "-"]
    with on_air(sink):
        until(lambda: len(play(f"tcp://127.0.0.1:{port}", 2)) == 2, 10)
        program = Task(lambda: subprocess.run(command, capture_output=True, timeout=30, check=True))
        with av.open(f"tcp://[::1]:{port}", timeout=10) as container:
            assert json.loads(container.metadata["CLASSES"])[3] == "road"
            assert container.metadata["MODEL"] == "street"
            for count, frame in enumerate(container.decode(video=0)):
                index = round(frame.time * 25) % 12
                np.testing.assert_array_equal(frame.to_ndarray(), labels_of(index, 96, 128))
                if count == 5:
                    break
        raw = np.frombuffer(program.result(30).stdout, np.uint8).reshape(5, 96, 128)
    assert any((raw[0] == labels_of(index, 96, 128)).all() for index in range(12))


def test_a_slow_reader_loses_its_own_masks() -> None:
    port = free_port()
    sink = open_masks(f"tcp://@:{port}")
    assert isinstance(sink, Live)
    with on_air(sink, NOISE, 50):
        until(lambda: play(f"tcp://127.0.0.1:{port}", 1), 10)
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            until(lambda: sink.lost > 3, 30, "a loss")
            times = [round(frame.time * 50) for frame in play(f"tcp://127.0.0.1:{port}", 20)]
            assert times == list(range(times[0], times[0] + 20)), "the other reader gets everything"


def test_one_who_says_no_more_still_reads() -> None:
    """As ``nc`` and ``socat`` do, whose input ends before they do."""
    port = free_port()
    sink = open_masks(f"tcp://@:{port}")
    assert isinstance(sink, Live)
    with on_air(sink):
        until(lambda: play(f"tcp://127.0.0.1:{port}", 2), 10)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
            wire.shutdown(socket.SHUT_WR)
            end = time.monotonic() + 1
            while time.monotonic() < end:
                assert wire.recv(1 << 16)
            assert sink.clients == 1
        until(lambda: sink.clients == 0, 5, "the end of one who has gone")


def test_a_change_of_size_ends_the_stream_and_begins_another() -> None:
    port = free_port()
    sink = open_masks(f"tcp://@:{port}")
    assert isinstance(sink, Live)
    take = TAKES[0]
    sink.open(take.info())
    first = Task(lambda: play(f"tcp://127.0.0.1:{port}"))
    until(lambda: sink.clients, 10)
    for index in range(3):
        sink.write(take.result(index))
    sink.reconfigure(take.smaller().info())
    sink.write(take.smaller().result(3))
    assert len(first.result()) == 3
    second = Task(lambda: play(f"tcp://127.0.0.1:{port}"))
    until(lambda: sink.clients, 10)
    sink.write(take.smaller().result(4))
    sink.close()
    assert [(frame.width, frame.height) for frame in second.result()] == [(33, 24)] * 2


def test_other_machines_only_on_purpose() -> None:
    for serve in (ServeOptions(), ServeOptions(auth="a:b")):
        with pytest.raises(ConfigError, match="--insecure"):
            open_masks("tcp://@0.0.0.0:9000", serve)
    open_masks("tcp://@0.0.0.0:9000", ServeOptions(insecure=True))
    for uri in ("tcp://@:9000/name", "tcp://host:9000"):
        with pytest.raises(ConfigError, match="of no known kind"):
            open_masks(uri)
    with pytest.raises(ConfigError, match="--masks tcp://@:PORT"):
        open_masks("rtsp://@:8554/masks")
    with pytest.raises(ConfigError, match="--masks tcp://@:9000"):
        open_output("tcp://@:9000")


def test_the_documented_reader_reads(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[3] / "docs" / "live.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    port = free_port()
    sink = open_masks(f"tcp://@:{port}")
    assert isinstance(sink, Live)
    sink.open(SHOWN.info())
    task = Task(lambda: exec(code.replace("9000", str(port)), {}))
    until(lambda: sink.clients, 10)
    for index in range(5):
        sink.write(SHOWN.result(index))
    sink.close()
    task.result()
    centre = [SHOWN.info().labels.names[SHOWN.result(index).labels[48, 64]] for index in range(5)]
    assert [line.split(": ")[1] for line in capsys.readouterr().out.splitlines()] == centre
