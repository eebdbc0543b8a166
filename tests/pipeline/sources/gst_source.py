"""A live source by GStreamer, a program of its own for the system's Python.

    gst_source.py rtsp PORT CODEC WIDTH HEIGHT PROTOCOLS   an RTSP server: rtsp://127.0.0.1:PORT/cam
    gst_source.py udp PORT CODEC WIDTH HEIGHT              an MPEG transport stream to udp://127.0.0.1:PORT

Each RTSP client gets an encoder of its own, which begins with a keyframe.  Standard output tells ``ready`` and, for
each keyframe, ``key`` and the monotonic nanoseconds at which it left the encoder.
"""

import sys
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

# One slice a picture: the payloader puts parameter sets in front of each.
ENCODERS = {
    "h264": "x264enc name=enc tune=zerolatency speed-preset=ultrafast key-int-max=25 threads=1",
    "h265": "x265enc name=enc tune=zerolatency speed-preset=ultrafast key-int-max=25",
}
PARSERS = {"h264": "h264parse config-interval=-1", "h265": "h265parse config-interval=-1"}
PAYLOADERS = {"h264": "rtph264pay config-interval=-1", "h265": "rtph265pay config-interval=-1"}


def picture(codec, width, height):
    shape = f"video/x-raw,format=I420,width={width},height={height},framerate=25/1"
    return f"videotestsrc is-live=true pattern=ball ! {shape} ! {ENCODERS[codec]} ! {PARSERS[codec]}"


def on_buffer(_pad, info):
    if not info.get_buffer().has_flags(Gst.BufferFlags.DELTA_UNIT):
        print("key", time.monotonic_ns(), flush=True)
    return Gst.PadProbeReturn.OK


def listen_to(pipeline):
    pipeline.get_by_name("enc").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, on_buffer)


def rtsp(port, codec, width, height, protocols):
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {picture(codec, width, height)} ! {PAYLOADERS[codec]} name=pay0 pt=96 )")
    allowed = GstRtsp.RTSPLowerTrans(0)
    for name in protocols.split("+"):
        allowed |= getattr(GstRtsp.RTSPLowerTrans, name.upper())
    factory.set_protocols(allowed)
    factory.connect("media-configure", lambda _, media: listen_to(media.get_element()))
    server.get_mount_points().add_factory("/cam", factory)
    server.attach(None)
    return server


def udp(port, codec, width, height):
    sink = f"mpegtsmux alignment=7 ! udpsink host=127.0.0.1 port={port} sync=false"
    pipeline = Gst.parse_launch(f"{picture(codec, width, height)} ! {sink}")
    listen_to(pipeline)
    pipeline.set_state(Gst.State.PLAYING)
    return pipeline


def main():
    Gst.init(None)
    kept = {"rtsp": rtsp, "udp": udp}[sys.argv[1]](*sys.argv[2:])
    print("ready", flush=True)
    GLib.MainLoop().run()
    return kept


main()
