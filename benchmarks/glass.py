"""Glass to glass: the age of a picture when a player has decoded it, told by a time code painted in the source.

    python -m benchmarks.glass --json out/glass.json

Two ways, each at 15 and 30 pictures a second of 640×360, `street` at its own size on every core there is: an RTSP
camera (GStreamer's server) to the RTSP server of the run, and a file played at its own pace to the same.  A process of
its own watches, as a player does, with PyAV.  The camera paints the milliseconds of the monotonic clock, the file
paints the picture's number, whose age counts from the moment at which it came.  Once more with six clients at
15 pictures a second, none of which may lose any.  What the watcher's own decoder holds back is counted too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks.machine import describe
from benchmarks.on_air import Tally, free_port, percentiles
from pipeline.options import InputOptions, ModelOptions, RunOptions
from pipeline.reports import Percentiles
from pipeline.runner import Runner
from pipeline.sources import SourceOptions
from pipeline.stages.render import RenderOptions

WIDTH, HEIGHT = 640, 360
ROWS, COLUMNS = 5, 4
MARKER = (1, 0, 1, 1)
BRIGHT, DARK = 192, 64
WARM_UP_S = 3.0
TARGET_P50_MS, TARGET_P99_MS = 150.0, 300.0

_CAMERA = """
import sys, time, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
port, rate, width, height = map(int, sys.argv[1:])
chroma = bytes([128]) * (width * height // 2)
def paint(number):
    bits = [1, 0, 1, 1] + [number >> place & 1 for place in range(15, -1, -1)]
    cells = [bytes([192 if bit else 64]) * (width // 4) for bit in bits]
    return b"".join(b"".join(cells[at:at + 4]) * (height // 5) for at in range(0, 20, 4)) + chroma
def begin(factory, media):
    source = media.get_element().get_by_name_recurse_up("source")
    began, sent = time.monotonic(), [0]
    def push():
        picture = Gst.Buffer.new_wrapped(paint(time.monotonic_ns() // 1000000 & 65535))
        if source.emit("push-buffer", picture) != Gst.FlowReturn.OK:
            return False
        sent[0] += 1
        GLib.timeout_add(max(0, int((began + sent[0] / rate - time.monotonic()) * 1000)), push)
        return False
    GLib.idle_add(push)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(str(port))
factory = GstRtspServer.RTSPMediaFactory()
factory.set_shared(True)
factory.connect("media-configure", begin)
factory.set_launch(f"( appsrc name=source is-live=true do-timestamp=true format=time "
    f"caps=video/x-raw,format=I420,width={width},height={height},framerate={rate}/1 "
    f"! x264enc tune=zerolatency speed-preset=ultrafast key-int-max={rate} threads=1 "
    "! rtph264pay name=pay0 pt=96 config-interval=-1 )")
server.get_mount_points().add_factory("/cam", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


@dataclass(frozen=True, slots=True)
class Figures:
    """One way at one rate.

    Attributes:
        way: from where to where.
        fps: pictures a second of the source.
        age_ms: of pictures, from painted to decoded by the watcher.
        seen: pictures that the watcher decoded.
        read: pictures that the run decoded.
        dropped: of those, left out before the engine.
        left_out: results that the output dropped or, of several watchers, pictures that one saw and another did not.
    """

    way: str
    fps: int
    age_ms: Percentiles
    seen: int
    read: int
    dropped: int
    left_out: int


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each way, after a warm-up of 3 s")
    parser.add_argument("--model", default="street")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    flags = parser.parse_args()
    figures = []
    print(f"{'way':<32}{'FPS':>5}{'p50 ms':>9}{'p99 ms':>9}{'seen':>7}{'read':>7}{'dropped':>9}{'left out':>10}")
    for way, fps, clients in (
        ("RTSP to RTSP", 15, 1),
        ("RTSP to RTSP", 30, 1),
        ("file to RTSP", 15, 1),
        ("file to RTSP", 30, 1),
        ("RTSP to RTSP, 6 clients", 15, 6),
    ):
        one = measure(way, fps, clients, flags.model, flags.seconds)
        ages = f"{one.age_ms.p50:>9.0f}{one.age_ms.p99:>9.0f}"
        print(f"{way:<32}{fps:>5}{ages}{one.seen:>7}{one.read:>7}{one.dropped:>9}{one.left_out:>10}", flush=True)
        figures.append(one)
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        told = {"machine": describe(), "seconds": flags.seconds, "figures": [asdict(one) for one in figures]}
        flags.json.write_text(json.dumps(told, indent=2) + "\n")
    late = [one for one in figures if one.age_ms.p50 > TARGET_P50_MS or one.age_ms.p99 > TARGET_P99_MS]
    late = [one for one in late if one.fps == 15]
    if late or any(one.left_out for one in figures if one.fps == 15):
        sys.exit(f"aims at 15 FPS: p50 {TARGET_P50_MS:.0f} ms, p99 {TARGET_P99_MS:.0f} ms, and no picture left out")


def measure(way: str, fps: int, clients: int, model: str, seconds: float) -> Figures:
    """One way, watched by so many clients."""
    context = multiprocessing.get_context("spawn")
    told: Queue[list[tuple[int, int]]] = context.Queue()
    tally, port = Tally(), free_port()
    uri = f"rtsp://127.0.0.1:{port}/glass"
    by_clock = way.startswith("RTSP")
    with ExitStack() as undo:
        if by_clock:
            source, reading = undo.enter_context(camera(fps)), SourceOptions(rtsp_transport="tcp")
        else:
            folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
            length = int((WARM_UP_S + seconds + 20) * fps)
            source, reading = painted(folder / "glass.mp4", fps, length), SourceOptions(realtime=True)
        options = RunOptions(
            inputs=(InputOptions(source, "glass", outputs=(f"rtsp://@:{port}/glass",)),),
            source=reading,
            model=ModelOptions(model),
            render=RenderOptions(alpha=0.1, legend=False),
        )
        with Runner(options, extra=[tally]) as runner:
            runner.start()
            wait_for(port)
            watchers = [context.Process(target=watch, args=(uri, seconds, told)) for _ in range(clients)]
            for one in watchers:
                one.start()
            seen = [told.get(timeout=WARM_UP_S + seconds + 60) for _ in watchers]
            for one in watchers:
                one.join(10)
            runner.stop()
            report = runner.finish()
    due_ns = None if by_clock else {one.index: one.captured_ns for one in tally.arrivals}
    ages = [ages_of(pictures, due_ns) for pictures in seen]
    (read,) = report.inputs
    return Figures(
        way=way,
        fps=fps,
        age_ms=percentiles([age for one in ages for age in one]),
        seen=min(len(one) for one in seen),
        read=read.read,
        dropped=read.dropped,
        left_out=sum(sink.dropped for sink in read.sinks) if clients == 1 else lost(seen),
    )


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("the run serves nothing after 30 s")
            time.sleep(0.1)
        else:
            return


def ages_of(pictures: list[tuple[int, int]], due_ns: dict[int, int] | None) -> list[float]:
    """Milliseconds of each (painted number, nanoseconds of its decoding)."""
    if due_ns is None:  # the number is a clock of 16 bits
        return [float((there // 1_000_000 - number) % 65_536) for number, there in pictures]
    return [(there - due_ns[number]) / 1e6 for number, there in pictures if number in due_ns]


def lost(seen: list[list[tuple[int, int]]]) -> int:
    """Pictures that some watcher saw and another did not, within the time in which all watched."""
    first, last = max(one[0][1] for one in seen), min(one[-1][1] for one in seen)
    edge = 500_000_000  # what one has decoded at the edges, another may be about to
    every = {number for one in seen for number, there in one if first + edge < there < last - edge}
    return sum(len(every - {number for number, _ in one}) for one in seen)


def watch(uri: str, seconds: float, told: Queue[list[tuple[int, int]]]) -> None:
    """Decode what comes as a player does, in a process of its own, and tell (number, when) of each picture."""
    options = {"rtsp_transport": "tcp", "fflags": "nobuffer", "flags": "low_delay", "analyzeduration": "200000"}
    pictures = []
    with av.open(uri, options=options, timeout=20) as stream:
        video = stream.streams.video[0]
        video.codec_context.thread_count = 1
        began = time.monotonic()
        for frame in stream.decode(video):
            there = time.monotonic_ns()
            if time.monotonic() - began > WARM_UP_S + seconds:
                break
            if time.monotonic() - began > WARM_UP_S:
                pictures.append((number_of(frame), there))
    told.put(pictures)


def number_of(frame: av.VideoFrame) -> int:
    """The number that a picture carries, by the middles of its cells."""
    plane = frame.planes[0]
    luma = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    rows = [(2 * row + 1) * plane.height // (2 * ROWS) for row in range(ROWS)]
    columns = [(2 * column + 1) * plane.width // (2 * COLUMNS) for column in range(COLUMNS)]
    bits = [int(luma[y - 8 : y + 8, x - 8 : x + 8].mean() > (BRIGHT + DARK) / 2) for y in rows for x in columns]
    if tuple(bits[:COLUMNS]) != MARKER:
        raise ValueError(f"the marker of a painted picture is {bits[:COLUMNS]}")
    return int("".join(map(str, bits[COLUMNS:])), 2)


def painted(path: Path, fps: int, length: int) -> str:
    """A file whose pictures carry their numbers."""
    with av.open(str(path), "w") as file:
        video: Any = file.add_stream("libx264", rate=fps)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options = {"preset": "ultrafast", "tune": "zerolatency"}
        for number in range(length):
            bits = np.array([*MARKER, *(number >> place & 1 for place in range(15, -1, -1))]).reshape(ROWS, COLUMNS)
            luma = np.where(np.kron(bits, np.ones((HEIGHT // ROWS, WIDTH // COLUMNS))), BRIGHT, DARK)
            chroma = np.full((HEIGHT // 2, WIDTH), 128)
            frame = av.VideoFrame.from_ndarray(np.vstack([luma, chroma]).astype(np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            file.mux(video.encode(frame))
        file.mux(video.encode())
    return str(path)


@contextmanager
def camera(fps: int) -> Iterator[str]:
    """GStreamer's server, which sends pictures that carry the clock."""
    port = free_port()
    command = ["/usr/bin/python3", "-c", _CAMERA, str(port), str(fps), str(WIDTH), str(HEIGHT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                sys.exit("GStreamer's RTSP server does not run: install gir1.2-gst-rtsp-server-1.0 and python3-gi")
            yield f"rtsp://127.0.0.1:{port}/cam"
        finally:
            process.kill()


if __name__ == "__main__":
    main()
