"""The RTSP server: real players, the protocol byte by byte, and clients that misbehave."""

from __future__ import annotations

import re
import socket
import struct
import time
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest

from pipeline.errors import SinkError
from pipeline.sinks import open_output
from pipeline.sinks.base import Live
from pipeline.sinks.encoders import VideoOptions
from pipeline.sinks.rtsp.h264 import H264Stream
from tests.pipeline.ports import free_port
from tests.pipeline.running import until
from tests.pipeline.sinks.made import TAKES
from tests.pipeline.sinks.rtsp_client import Client, client, listens, served
from tests.pipeline.sinks.serving import NOISE, SHOWN, Task, on_air, play, run_peer

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("no_error_logged")]


# ---- real players


def test_programs_play_it_over_tcp_and_udp() -> None:
    """All at once: ffprobe, ffmpeg and PyAV over TCP, ffmpeg and GStreamer over UDP, one of them over IPv6."""
    with served() as (port, _):
        url, url6 = f"rtsp://127.0.0.1:{port}/cam", f"rtsp://[::1]:{port}/cam"
        probe = ("ffprobe", "-v", "error", "-rtsp_transport", "tcp", "-show_entries", "stream=codec_name,width,height")
        md5 = ("-frames:v", "20", "-f", "framemd5", "-")
        quick = ("-v", "error", "-analyzeduration", "100000")
        gst = ("rtph264depay", "!", "h264parse", "!", "avdec_h264", "!", "identity", "eos-after=20", "!", "fakesink")
        tasks = {
            "probe": Task(lambda: run_peer(*probe, "-analyzeduration", "100000", "-of", "csv=p=0", url)),
            "ffmpeg tcp": Task(lambda: run_peer("ffmpeg", *quick, "-rtsp_transport", "tcp", "-i", url6, *md5)),
            "ffmpeg udp": Task(lambda: run_peer("ffmpeg", *quick, "-rtsp_transport", "udp", "-i", url, *md5)),
            "gst": Task(
                lambda: run_peer(
                    "gst-launch-1.0", "-q", "rtspsrc", f"location={url}", "protocols=udp", "latency=0", "!", *gst
                )
            ),
            "av": Task(lambda: play(url, 20)),
        }
        done = {name: task.result(40) for name, task in tasks.items()}
    assert done["probe"].strip() == "h264,128,96"
    for name in ("ffmpeg tcp", "ffmpeg udp"):
        assert len([line for line in done[name].splitlines() if not line.startswith("#")]) == 20
    assert len(done["av"]) == 20


def test_a_player_ends_with_the_stream() -> None:
    with served() as (port, sink):
        assert isinstance(sink, Live)
        tasks = [
            Task(lambda t=transport: play(f"rtsp://127.0.0.1:{port}/cam", rtsp_transport=t))
            for transport in ("tcp", "udp")
        ]
        until(lambda: sink.clients == 2, 10, "both clients")
        time.sleep(1.0)
    assert all(len(task.result(5)) > 2 for task in tasks), "goodbye ends them at once, not their time-out"


def test_the_end_is_said_in_rtcp() -> None:
    with closing(socket.socket(type=socket.SOCK_DGRAM)) as rtcp:
        rtcp.bind(("127.0.0.1", 0))
        rtcp.settimeout(5)
        port = rtcp.getsockname()[1]
        with served() as (server, sink):
            assert isinstance(sink, Live)
            one = Client(server)
            one.ask("SETUP", one.url + "/trackID=0", Transport=f"RTP/AVP;unicast;client_port={port - 1}-{port}")
            one.ask("PLAY")
            assert rtcp.recv(2000)[1] == 200
        with closing(one):
            packet = rtcp.recv(2000)
            assert packet[1] == 201, "a compound packet begins with a report"
            assert b"\x81\xcb\0\1" in packet


# ---- the protocol


def test_the_conversation() -> None:
    with served() as (port, sink), client(port) as one:
        assert isinstance(sink, Live)
        public = one.ask("OPTIONS", "*").headers["Public"]
        assert {"DESCRIBE", "SETUP", "PLAY", "TEARDOWN", "GET_PARAMETER"} <= set(public.split(", "))
        told = one.ask("DESCRIBE", Accept="application/sdp")
        assert told.headers["Content-Base"] == one.url + "/"
        text = told.body.decode()
        assert "m=video 0 RTP/AVP 96\r\n" in text
        assert re.search(r"profile-level-id=[0-9a-f]{6}; sprop-parameter-sets=[\w+/=]+,[\w+/=]+\r\n", text)
        (control,) = re.findall(r"a=control:(track\S+)", text)
        set_up = one.ask("SETUP", f"{one.url}/{control}", Transport="RTP/AVP/TCP;unicast;interleaved=4-5")
        assert "interleaved=4-5" in set_up.headers["Transport"]
        session = set_up.headers["Session"]
        assert session.endswith(";timeout=60")
        played = one.ask("PLAY", Session=session.partition(";")[0], Range="npt=0.000-")
        info = re.fullmatch(rf"url={one.url}/{control};seq=(\d+);rtptime=(\d+)", played.headers["RTP-Info"])
        assert info
        assert one.order.index("packet") > 4 if "packet" in one.order else True, "the answer comes first"
        channel, report = one.packet()
        assert channel == 5
        assert report[1] == 200, "a sender report leads"
        assert b"deeplab-stream" in report
        channel, first = one.packet()
        sequence, timestamp, ssrc = struct.unpack(">HII", first[2:12])
        assert (channel, sequence, timestamp) == (4, int(info[1]), int(info[2]))
        assert f"ssrc={ssrc:08X}" in set_up.headers["Transport"]
        assert struct.unpack(">I", report[4:8])[0] == ssrc
        seconds, fraction = struct.unpack(">II", report[8:16])
        assert abs(seconds - 2_208_988_800 + fraction / 2**32 - time.time()) < 5
        assert first[12] & 31 in (7, 24), "parameter sets before the first picture"
        assert one.ask("GET_PARAMETER", Session=session).status == 200
        assert one.ask("GET_PARAMETER", body=b"packets_received\r\n").status == 200
        assert sink.clients == 1
        assert one.ask("TEARDOWN").status == 200
        until(lambda: sink.clients == 0)
        assert one.ask("OPTIONS", "*").status == 200, "the connection stays"


def test_answers_keep_the_order_of_requests() -> None:
    with served(rate=4) as (port, _), client(port) as one:
        one.ask("SETUP", one.url + "/trackID=0", Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        methods = ("PLAY", "GET_PARAMETER", "PAUSE", "PLAY", "TEARDOWN")
        several = (f"{each} {one.url} RTSP/1.0\r\nCSeq: {number}\r\n\r\n" for number, each in enumerate(methods, 7))
        one.wire.sendall("".join(several).encode())
        answers = [one.answer() for _ in range(5)]
    assert [(each.status, each.headers["CSeq"]) for each in answers] == [(200, str(number)) for number in range(7, 12)]
    assert "RTP-Info" in answers[0].headers


def test_keyframes_that_are_asked_for_are_few() -> None:
    """Ten seconds in which each picture is asked to be one: a few at once, then one a second."""
    stream = H264Stream("test", VideoOptions())
    stream.configure(SHOWN.info())
    results = [SHOWN.result(index).frame for index in range(len(SHOWN.ticks))]
    keys = []
    for index in range(250):
        frame = replace(results[index % len(results)], pts=Fraction(index, 25))
        unit = stream.encode(frame, key=True)
        assert unit is not None
        if unit.keyframe:
            keys.append(index / 25)
    stream.close()
    assert keys[1] <= 0.3, "one who comes is not kept waiting"
    assert len(keys) <= 4 + 10 + 1
    assert keys[-1] - keys[-6] >= 4.5


def test_nothing_comes_before_a_keyframe() -> None:
    with served(rate=50) as (port, _):
        for _ in range(4):
            with client(port) as one:
                one.play()
                while one.packet()[0] != 0:
                    pass
                first = one.packets[-1][1]
                assert first[12] & 31 in (7, 24)


def test_datagrams_go_to_the_client_alone_and_its_reports_keep_it_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.rtsp.server.IDLE_S", 1.0)
    with served() as (port, sink), client(port) as one, socket.socket(type=socket.SOCK_DGRAM) as rtp:
        assert isinstance(sink, Live)
        rtp.bind(("127.0.0.1", 0))
        rtp.settimeout(5)
        mine = rtp.getsockname()[1]
        wanted = f"RTP/AVP;unicast;destination=127.0.0.2;client_port={mine}-{mine + 1 if mine < 65535 else 9}"
        told = one.ask("SETUP", one.url + "/trackID=0", Transport=wanted).headers["Transport"]
        match = re.search(r"server_port=(\d+)-(\d+)", told)
        assert match
        assert int(match[1]) % 2 == 0
        assert int(match[2]) == int(match[1]) + 1
        one.ask("PLAY")
        data, sender = rtp.recvfrom(2000)
        assert sender == ("127.0.0.1", int(match[1]))
        assert len(data) <= 1400
        until_silent = time.monotonic() + 1.8
        while time.monotonic() < until_silent:
            rtp.sendto(b"\x80\xc9\0\1\0\0\0\0", ("127.0.0.1", int(match[2])))
            time.sleep(0.2)
        assert sink.clients == 1
        until(lambda: sink.clients == 0, 5, "the end of a client that says nothing any more")


REFUSED = {
    "no such stream": (("DESCRIBE", "/other", {}), 404),
    "no such method": (("ANNOUNCE", "", {}), 501),
    "play without set-up": (("PLAY", "", {}), 455),
    "pause without set-up": (("PAUSE", "", {}), 455),
    "a foreign session": (("GET_PARAMETER", "", {"Session": "12345678"}), 454),
    "multicast": (("SETUP", "/trackID=0", {"Transport": "RTP/AVP;multicast"}), 461),
    "port 0": (("SETUP", "/trackID=0", {"Transport": "RTP/AVP;unicast;client_port=0-1"}), 461),
    "a feature": (("DESCRIBE", "", {"Require": "www.onvif.org/ver20/backchannel"}), 551),
    "no transport": (("SETUP", "/trackID=0", {}), 461),
    "record": (("SETUP", "/trackID=0", {"Transport": "RTP/AVP/TCP;interleaved=0-1;mode=record"}), 461),
}


def test_what_is_refused() -> None:
    with served() as (port, _):
        for name, ((method, more, headers), status) in REFUSED.items():
            with client(port) as one:
                answer = one.ask(method, one.url + more, **headers)
                assert answer.status == status, name
                assert answer.headers.get("Unsupported") == headers.get("Require")


RUBBISH = {
    "no request": (b"hello\r\n\r\n", 400),
    "no CSeq": (b"OPTIONS * RTSP/1.0\r\n\r\n", 400),
    "HTTP": (b"GET / HTTP/1.1\r\nCSeq: 1\r\n\r\n", 505),
    "RTSP 2": (b"OPTIONS * RTSP/2.0\r\nCSeq: 1\r\n\r\n", 505),
    "no UTF-8": (b"OPTIONS * RTSP/1.0\r\nCSeq: \xff\r\n\r\n", 400),
    "a long header": (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nX: " + b"x" * 20000 + b"\r\n\r\n", 431),
    "many headers": (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n" + b"X: x\r\n" * 100 + b"\r\n", 431),
    "a large body": (b"SET_PARAMETER * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 99999999\r\n\r\n", 413),
    "a number in other digits": ("OPTIONS * RTSP/1.0\r\nCSeq: ٣\r\n\r\n".encode(), 400),
    "a body in other digits": ("OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: ٣\r\n\r\nabc".encode(), 400),
    "a negative body": (b"SET_PARAMETER * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: -1\r\n\r\n", 400),
    "two lengths": (b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 400),
}


def test_rubbish_is_answered_and_cut_off() -> None:
    with served() as (port, _):
        for name, (data, status) in RUBBISH.items():
            with client(port) as one:
                one.wire.sendall(data)
                assert one.answer().status == status, name
                with pytest.raises((EOFError, ConnectionResetError)):
                    one.answer()


def test_the_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.serve.admission.CONNECTIONS", 3)
    with served() as (port, _):
        time.sleep(0.1)  # the fixture's own probe has gone
        some = [Client(port) for _ in range(3)]
        assert [one.ask("DESCRIBE").status for one in some] == [200] * 3
        with client(port) as one, pytest.raises((EOFError, ConnectionError)):
            one.ask("OPTIONS", "*")
        some.pop().close()
        until(lambda: _welcome(port), 5, "a free place")
        for one in some:
            one.close()


def _welcome(port: int) -> bool:
    with client(port) as one:
        try:
            return one.ask("OPTIONS", "*").status == 200
        except (EOFError, ConnectionError):
            return False


def test_a_client_that_says_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.sinks.serve.server.FIRST_REQUEST_S", 0.5)
    with served() as (port, _), client(port) as one:
        one.wire.sendall(b"OPTIONS * RTSP/1.0\r\n")
        with pytest.raises((EOFError, ConnectionResetError)):
            one.answer()


def test_a_slow_client_loses_its_own_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stops reading is sent no more, the other gets every picture, and the slow one goes on at a keyframe."""
    monkeypatch.setattr("pipeline.sinks.serve.outflow.LATE_S", 0.2)
    port = free_port()
    sink = open_output(f"rtsp://@:{port}/cam")
    assert isinstance(sink, Live)
    with on_air(sink, NOISE, 25):
        until(lambda: listens(port), 10)
        with client(port) as slow:
            slow.play()
            until(lambda: sink.lost, 20, "a picture that is left out")
            ticks = [frame.pts for frame in play(f"rtsp://127.0.0.1:{port}/cam", 20)[1:]]
            assert {round(b - a, -1) for a, b in pairwise(ticks)} == {3600}, "the other gets every picture"
            numbers = []
            while len(numbers) < 2 or numbers[-1] == (numbers[-2] + 1) & 0xFFFF:
                channel, packet = slow.packet()
                if channel == 0:
                    numbers.append(int.from_bytes(packet[2:4]))
            assert packet[12] & 31 in (7, 24), "after the gap comes a keyframe"


def test_a_player_that_asks_and_does_not_read_is_asked_nothing_more() -> None:
    with served() as (port, _), client(port) as one:
        one.wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        one.play()
        one.wire.settimeout(1.0)
        deadline = time.monotonic() + 8
        with pytest.raises(TimeoutError):
            while time.monotonic() < deadline:
                one.wire.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n" * 300)
        assert _welcome(port)


def test_several_streams_share_a_port() -> None:
    port = free_port()
    door, yard = (open_output(f"rtsp://@:{port}/{name}") for name in ("door", "yard/left"))
    with on_air(door), on_air(yard, TAKES[0]):
        until(lambda: listens(port), 10)
        assert play(f"rtsp://127.0.0.1:{port}/door", 3)[2].width == 128
        assert play(f"rtsp://127.0.0.1:{port}/yard/left", 3)[2].width == 64
        twin = open_output(f"rtsp://@:{port}/door")
        with pytest.raises(SinkError, match="served already"):
            twin.open(SHOWN.info())
    assert not listens(port)


def test_a_name_with_a_space() -> None:
    port = free_port()
    with on_air(open_output(f"rtsp://@:{port}/my cam")):
        until(lambda: listens(port), 10)
        assert len(play(f"rtsp://127.0.0.1:{port}/my%20cam", 3)) == 3


def test_a_change_of_size_reaches_those_who_look() -> None:
    port = free_port()
    sink = open_output(f"rtsp://@:{port}/cam")
    assert isinstance(sink, Live)
    small = SHOWN.smaller()
    sink.open(SHOWN.info())
    task = Task(lambda: play(f"rtsp://127.0.0.1:{port}/cam"))
    until(lambda: sink.clients, 10)
    for index in range(4):
        sink.write(SHOWN.result(index))
    sink.reconfigure(small.info())
    for index in range(4, 8):
        sink.write(small.result(index))
    sink.close()
    assert [frame.width for frame in task.result()] == [128] * 4 + [66] * 4
