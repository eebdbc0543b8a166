"""``--model auto``: the better model where it comes soon, else the embedded one, with one warning and no waiting."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from engines import zoo
from engines.zoo import load_model
from tests.engines.serving import Server, point_at

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("home")]

QUICK = replace(zoo.AUTO_PATIENCE, silence_s=0.6, begin_s=0.8, finish_s=2.0)
"""A fifth of what people are asked to have."""


def test_auto_fetches_the_better_model(publisher: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert load_model("auto").name == "voc"
    assert not caplog.records


def test_auto_falls_back_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert load_model().name == "street"
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "voc" in warnings[0]
    assert "embedded street" in warnings[0]
    assert "\n" not in warnings[0]


def test_auto_does_not_wait_for_a_dead_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Connection refused, after the name was found."""
    point_at("http://127.0.0.1:9/net", monkeypatch)
    assert load_model().name == "street"
    assert caplog.text.count("WARNING") == 1
    assert "Connection refused" in caplog.text


def test_auto_leaves_a_proxy_that_keeps_it_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A byte now and then, as no time-out of an operation can notice."""
    stop = threading.Event()

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while not stop.is_set():
                connection, _ = listening.accept()
                with connection:
                    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 1000:
                        if stop.wait(0.2):
                            break
                        connection.sendall(bytes([byte]))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, args=(listening,), daemon=True)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert zoo.AUTO_PATIENCE.begin_s <= 5, "a few seconds"
        monkeypatch.setattr(zoo, "AUTO_PATIENCE", replace(zoo.AUTO_PATIENCE, begin_s=1.0))
        began = time.monotonic()
        assert load_model().name == "street"
        assert time.monotonic() - began < 4
        stop.set()
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    assert caplog.text.count("WARNING") == 1
    assert "no answer in time" in caplog.text


def test_auto_takes_what_is_at_hand_without_a_network(data: Path) -> None:
    assert load_model("auto", weights_dir=data / "weights").name == "voc"


# --- a link that is there, but slow ---------------------------------------------------------------


def decide(patience: float, caplog: pytest.LogCaptureFixture) -> tuple[str, float]:
    """What ``auto`` takes, and after how many seconds; a fall-back must be told in one line, no more."""
    caplog.clear()
    began = time.monotonic()
    name = load_model("auto", progress=False).name
    took = time.monotonic() - began
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == (name == "street")
    assert took < patience + 2, "the rest is for a busy machine, and for the conversion"
    return name, took


SLOW = {  # bytes a chunk, pause after each, bytes that come at all
    "dribbles": (1000, 0.01, None),
    "half as fast as it must be": (11_000, 0.02, None),
    "stalls after the headers": (20_000, 0.0, 0),
    "stalls in the middle": (20_000, 0.0, 1_000_000),
    "begins well, then stalls": (20_000, 0.005, 1_600_000),
}


@pytest.mark.parametrize("how", SLOW)
def test_auto_does_not_wait_for_a_slow_link(
    how: str, publisher: Server, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As fast as it may be too slow: 2.2 MB in 2 s."""
    monkeypatch.setattr(zoo, "AUTO_PATIENCE", QUICK)
    does = publisher.does
    does.chunk, does.pause_s, does.stall_after = SLOW[how]
    name, took = decide(QUICK.finish_s, caplog)
    assert name == "street"
    assert took > QUICK.silence_s
    said = "no answer in time" if does.stall_after == 0 else r"the next try continues there"
    assert said in caplog.text
    # What came is kept, so a link that is slow every day brings the model in the end.
    does.go_on.set()
    does.chunk, does.pause_s, does.stall_after = 100_000, 0.0, None
    assert decide(QUICK.finish_s, caplog)[0] == "voc"
    if how != "stalls after the headers":
        assert int(does.seen[-1]["range"].strip("bytes=-")) > 10_000


def test_auto_waits_for_what_will_be_here_soon(
    publisher: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond the moment of the decision, since the rest comes in time."""
    monkeypatch.setattr(zoo, "AUTO_PATIENCE", replace(QUICK, begin_s=0.3, finish_s=10.0))
    publisher.does.pause_s = 0.01  # 110 chunks
    name, took = decide(10.0, caplog)
    assert name == "voc"
    assert took > 1


@pytest.mark.slow
@pytest.mark.parametrize("how", SLOW)
def test_auto_takes_a_few_seconds_to_decide(how: str, publisher: Server, caplog: pytest.LogCaptureFixture) -> None:
    """With the patience that people are asked to have, and links five times as slow."""
    does = publisher.does
    does.chunk, does.pause_s, does.stall_after = SLOW[how]
    does.pause_s *= 5
    assert zoo.AUTO_PATIENCE.finish_s <= 10
    assert decide(zoo.AUTO_PATIENCE.finish_s, caplog)[0] == "street"
