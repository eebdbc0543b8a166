"""Cameras that paint the time into their pictures: the milliseconds of the monotonic clock, 16 bits of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.on_air import free_port

_SHIM = Path(__file__).resolve().parents[1] / "tests" / "pipeline" / "sources" / "v4l2_shim.c"

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


@contextmanager
def rtsp_camera(width: int, height: int, fps: int) -> Iterator[str]:
    """GStreamer's RTSP server; gives its address."""
    port = free_port()
    command = ["/usr/bin/python3", "-c", _CAMERA, str(port), str(fps), str(width), str(height)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                sys.exit("GStreamer's RTSP server does not run: install gir1.2-gst-rtsp-server-1.0 and python3-gi")
            yield f"rtsp://127.0.0.1:{port}/cam"
        finally:
            process.kill()


def local_camera(folder: Path) -> dict[str, str]:
    """A stand-in for a V4L2 camera, at ``cam97`` for programs that run in the environment that this gives."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not _SHIM.is_file():
        sys.exit("the stand-in for a camera needs a C compiler, and a checkout of the project")
    library = folder / "v4l2_shim.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SHIM), "-ldl", "-lpthread"]
    subprocess.run(command, check=True, timeout=60)
    (folder / "clock").touch()
    return {**os.environ, "LD_PRELOAD": str(library), "V4L2_SHIM": str(folder)}
