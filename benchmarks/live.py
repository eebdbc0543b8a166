"""A live input that is cut again and again: whether every cut is survived, how soon, and what has grown.

    python -m benchmarks.live --minutes 10 --json out/live.json
    python -m benchmarks.live --minutes 600 --json soak.json    # overnight: may grow by 1 MiB an hour
    python -m benchmarks.live --minutes 10 --bare               # the input alone

GStreamer's RTSP server (or ffmpeg, `--peer udp`: a transport stream to a port) sends 25 pictures a second
and is cut every 20 seconds, in turn: killed and started anew, stopped and continued (SIGSTOP, SIGCONT),
started anew with another size, a third of its packets lost on the way (RTSP over TCP alone), started anew with H.265
or again H.264.  What runs is the whole stream in this process, `street` at a short side of
96 pixels, serving RTSP (to one client, ffmpeg) and the page and recording in segments of a minute, with the
input's usual time-outs.  With `--bare` its output is thrown away and the time-outs are 1 s to read and 2 s to
open.  The exit status is 1 where a cut was not survived, the client has gone, or something has grown.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe
from benchmarks.memory import Usage, usage, what_differs
from benchmarks.on_air import Arrival, Tally, free_port, percentiles
from benchmarks.relay import Relay, relaying
from pipeline.options import InputOptions, ModelOptions, RunOptions
from pipeline.reports import Percentiles
from pipeline.runner import Runner
from pipeline.sinks import RecordOptions
from pipeline.sources import SourceOptions

SIZES = ((320, 240), (480, 360))
CODECS = ("h264", "h265")
LOSS = 0.3
BAD_S = 3.0
MOST_GROWTH_MIB_H = 1.0
SHORTEST_GROWTH_H = 1 / 3
READ_TIMEOUT_S = 1.0
RETURN_TIMEOUT_S = 15.0

_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
port, width, height, codec = sys.argv[1:]
coded = {"h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 threads=1 ! rtph264pay",
         "h265": "x265enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! rtph265pay"}[codec]
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(f"( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={width},"
    f"height={height},framerate=25/1 ! {coded} name=pay0 pt=96 config-interval=-1 )")
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
GLib.MainLoop().run()
"""


@dataclass(frozen=True, slots=True)
class Cut:
    """One cut.

    Attributes:
        kind: what was done.
        back_s: from the moment at which the source could send again to the first result; None where none came.
        first_ms: from the first picture's arrival to its result.
    """

    kind: str
    back_s: float | None
    first_ms: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run of this gave.

    Attributes:
        cuts: in order.
        usage: after the first round of cuts of each kind, and at the end.
        growth_mib_h: resident memory gained between these, by the hour; None in less than twenty minutes.
        latency_ms: arrival to result, of the first and of the last quarter of the run.
        outages: as the report counts them, by cause.
        dropped: pictures dropped between decoder and engine.
        results: pictures that came out.
        client_stayed: the client was connected to the end; None without one.
    """

    cuts: tuple[Cut, ...]
    usage: tuple[Usage, Usage]
    growth_mib_h: float | None
    latency_ms: tuple[Percentiles, Percentiles]
    outages: dict[str, int]
    dropped: int
    results: int
    client_stayed: bool | None


@dataclass(frozen=True, slots=True)
class Sent:
    """What the program sends: pictures of this size in this coding."""

    width: int
    height: int
    codec: str


FIRST = Sent(*SIZES[0], CODECS[0])


class Peer:
    """The program that sends.

    Args:
        kind: ``"rtsp"`` or ``"udp"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.port = free_port(socket.SOCK_STREAM if kind == "rtsp" else socket.SOCK_DGRAM)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, sent: Sent) -> None:
        """Send."""
        self._process = subprocess.Popen(
            self._command(sent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _command(self, sent: Sent) -> list[str]:
        if self.kind == "rtsp":
            picture = [str(sent.width), str(sent.height), sent.codec]
            return ["/usr/bin/python3", "-c", _SERVER, str(self.port), *picture]
        ffmpeg = shutil.which("ffmpeg") or "ffmpeg"
        source = ["-re", "-f", "lavfi", "-i", f"testsrc2=size={sent.width}x{sent.height}:rate=25"]
        coder = {"h264": "libx264", "h265": "libx265"}[sent.codec]
        coding = ["-c:v", coder, "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p"]
        return [ffmpeg, "-v", "error", *source, *coding, "-f", "mpegts", f"udp://127.0.0.1:{self.port}"]

    def kill(self) -> None:
        """As a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self, seconds: float) -> None:
        """Alive and silent for a while."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds between cuts")
    parser.add_argument("--peer", choices=("rtsp", "udp"), default="rtsp")
    parser.add_argument("--transport", choices=("tcp", "udp"), default="tcp", help="of RTSP")
    parser.add_argument("--model", default="street")
    parser.add_argument("--size", type=int, default=96, help="short side of the network's input: small, to be quick")
    parser.add_argument("--bare", action="store_true", help="no outputs, no client, short time-outs")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    """Measure, print the table, write the JSON."""
    flags = make_parser().parse_args()
    source = SourceOptions(rtsp_transport=flags.transport)
    if flags.bare:
        source = replace(source, read_timeout=READ_TIMEOUT_S, open_timeout=2.0)
    options = RunOptions(inputs=(), source=source, model=ModelOptions(flags.model, flags.size))
    figures = measure(flags.peer, options, flags.minutes * 60, flags.every, bare=flags.bare)
    for line in told(figures):
        print(line)
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        asked = {name: getattr(flags, name) for name in ("minutes", "peer", "transport", "bare")}
        flags.json.write_text(json.dumps({"machine": describe(), **asked, **asdict(figures)}, indent=2) + "\n")
    wrong = [f"{one.kind}: not survived" for one in figures.cuts if one.back_s is None]
    wrong += [f"{what} not as before" for what in what_differs(*figures.usage)]
    if figures.growth_mib_h is not None and figures.growth_mib_h > MOST_GROWTH_MIB_H:
        wrong.append(f"memory grows by {figures.growth_mib_h:.1f} MiB an hour")
    if figures.client_stayed is False:
        wrong.append("the client has gone")
    if wrong:
        sys.exit("; ".join(wrong))


def told(figures: Figures) -> Iterator[str]:
    """The table."""
    yield f"{'cut':<12}{'number':>8}{'back after s, median':>22}{'at most':>9}{'first picture ms, at most':>27}"
    for kind in sorted({one.kind for one in figures.cuts}):
        alike = [one for one in figures.cuts if one.kind == kind]
        back = [one.back_s for one in alike if one.back_s is not None]
        first = [one.first_ms for one in alike if one.first_ms is not None]
        if back:
            yield f"{kind:<12}{len(alike):>8}{median(back):>22.2f}{max(back):>9.2f}{max(first):>27.1f}"
    early, late = figures.latency_ms
    yield f"latency p50/p95 ms: first quarter {early.p50:.0f}/{early.p95:.0f}, last {late.p50:.0f}/{late.p95:.0f}"
    for one in figures.usage:
        yield f"{one.frames} frames: {one.resident_mib:.1f} MiB, {one.descriptors} descriptors, {one.threads} threads"
    if figures.growth_mib_h is not None:
        yield f"resident memory grows by {figures.growth_mib_h:.2f} MiB an hour"
    yield f"{figures.results} results, {figures.dropped} dropped; away: {figures.outages}"


def measure(kind: str, options: RunOptions, seconds: float, every: float, *, bare: bool) -> Figures:
    """Run for so long, and cut."""
    tally, cuts, usages = Tally(), list[Cut](), list[tuple[float, Usage]]()
    client_stayed = None
    with (
        tempfile.TemporaryDirectory() as folder,
        sending(kind) as peer,
        between(peer, options.source.rtsp_transport) as (uri, relay),
    ):
        served = f"{free_port()}/cam"
        outputs = (f"rtsp://@:{served}", f"http://@:{free_port()}/", f"{folder}/cam-%Y%m%d-%H%M%S.mkv")
        inputs = (InputOptions(uri, "cam", () if bare else outputs),)
        options = replace(options, inputs=inputs, record=RecordOptions(segment_time=60, keep_size="100M"))
        with Runner(options, extra=[tally]) as runner, ExitStack() as clients:
            runner.start()
            client = None if bare else clients.enter_context(reading(f"rtsp://127.0.0.1:{served}", tally))
            began = time.monotonic()
            every_way = ways_to_cut(peer, relay)
            ways = cycle(every_way)
            while time.monotonic() - began < seconds:
                time.sleep(every)
                cuts.append(cut(*next(ways), tally))
                if len(cuts) % len(every_way) == 0:
                    usages.append((time.monotonic(), usage(len(tally.arrivals))))
            if client is not None:
                client_stayed = client.poll() is None
            runner.stop()
            report = runner.finish()
    (one,) = report.inputs
    quarter = max(1, len(tally.arrivals) // 4)
    return Figures(
        cuts=tuple(cuts),
        usage=(usages[0][1], usages[-1][1]) if usages else (usage(0), usage(0)),
        growth_mib_h=growth(usages),
        latency_ms=(latency(tally.arrivals[:quarter]), latency(tally.arrivals[-quarter:])),
        outages=one.outages.causes if one.outages is not None else {},
        dropped=one.dropped,
        results=len(tally.arrivals),
        client_stayed=client_stayed,
    )


def growth(usages: list[tuple[float, Usage]]) -> float | None:
    """MiB an hour of resident memory, from the first to the last; None where that is less than twenty minutes."""
    if not usages or (hours := (usages[-1][0] - usages[0][0]) / 3600) < SHORTEST_GROWTH_H:
        return None
    return round((usages[-1][1].resident_mib - usages[0][1].resident_mib) / hours, 2)


def latency(arrivals: list[Arrival]) -> Percentiles:
    """From arrival to result, in milliseconds."""
    return percentiles([(one.there_ns - one.captured_ns) / 1e6 for one in arrivals] or [0.0])


def ways_to_cut(peer: Peer, relay: Relay | None) -> list[tuple[str, Callable[[], None]]]:
    """What is done in turn."""
    sizes, codecs = cycle((SIZES[1], SIZES[0])), cycle((CODECS[1], CODECS[0]))
    now = [FIRST]

    def again(**other: Any) -> None:
        now[0] = replace(now[0], **other)
        peer.kill()
        peer.start(now[0])

    def resized() -> None:
        width, height = next(sizes)
        again(width=width, height=height)

    def thinned() -> None:
        assert relay is not None
        relay.lose(LOSS)
        time.sleep(BAD_S)
        relay.lose(0.0)

    ways = [("restarted", again), ("frozen", lambda: peer.freeze(BAD_S)), ("resized", resized)]
    ways += [("packets lost", thinned)] if relay is not None else []
    return [*ways, ("recoded", lambda: again(codec=next(codecs)))]


def cut(kind: str, do: Callable[[], None], tally: Tally) -> Cut:
    """Cut, and wait for the first picture that was sent afterwards."""
    do()
    began, seen = time.monotonic_ns(), len(tally.arrivals)
    # Pictures of before may still be on their way: a new one comes after a pause, or long after the cut.
    while time.monotonic_ns() - began < RETURN_TIMEOUT_S * 1e9:
        for one in tally.arrivals[seen:]:
            if one.captured_ns > began:
                first_ms = round((one.there_ns - one.captured_ns) / 1e6, 2)
                return Cut(kind, round((one.there_ns - began) / 1e9, 3), first_ms)
        time.sleep(0.005)
    return Cut(kind, None, None)


@contextmanager
def sending(kind: str) -> Iterator[Peer]:
    """A peer that sends."""
    peer = Peer(kind)
    peer.start(FIRST)
    try:
        yield peer
    finally:
        peer.kill()


@contextmanager
def reading(uri: str, tally: Tally) -> Iterator[subprocess.Popen[bytes]]:
    """A client that takes all that is served, once there is something; with time-outs of its own."""
    deadline = time.monotonic() + RETURN_TIMEOUT_S
    while not tally.arrivals and time.monotonic() < deadline:
        time.sleep(0.05)
    command = [shutil.which("ffmpeg") or "ffmpeg", "-v", "error", "-i", uri, "-c", "copy", "-f", "null", "-"]
    client = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield client
    finally:
        client.kill()
        client.wait()


@contextmanager
def between(peer: Peer, transport: str) -> Iterator[tuple[str, Relay | None]]:
    """The peer's address, and the network on the way there that can be bad: that of RTSP over TCP."""
    if peer.kind == "udp" or transport == "udp":
        yield f"{peer.kind}://127.0.0.1:{peer.port}{'/cam' if peer.kind == 'rtsp' else ''}", None
        return
    with relaying(peer.port) as relay:
        yield f"rtsp://127.0.0.1:{relay.port}/cam", relay


if __name__ == "__main__":
    main()
