"""The program that publishes, run by `pipeline.sinks.publish` as a process of its own.

libav's publishers know of no time-out, and PyAV holds Python's lock while they connect: a server that
is silent would stop the whole run.  Here it stops this process alone, which an alarm of the system ends.

Standard input: a line of JSON (``address``, ``container``, ``options``, ``open_timeout``,
``write_timeout``), then a NUT stream, whose pictures are handed on as they are.  A line on standard
output says that the server takes it, the last one on standard error why it has ended.
"""

import json
import os
import signal
import sys
from typing import Any

import av


class _Input:
    """Standard input for libav, as much at a time as there is."""

    def read(self, size: int) -> bytes:
        return os.read(0, size)


def _alarm(seconds: float) -> None:
    """End this process in so many seconds, whatever it waits for; 0: do not."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _first_line() -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            sys.exit(0)
        line += byte
    task: dict[str, Any] = json.loads(line)
    return task


def main() -> None:
    """Publish until the input ends."""
    task = _first_line()
    given = av.open(
        _Input(), "r", format="nut", options={"probesize": "32", "analyzeduration": "0", "fflags": "nobuffer"}
    )
    _alarm(task["open_timeout"])
    made = av.open(task["address"], "w", format=task["container"], container_options=task["options"])
    stream = made.add_stream_from_template(given.streams.video[0])
    made.start_encoding()
    _alarm(0)
    os.write(1, b"ready\n")
    for packet in given.demux(video=0):
        if packet.dts is None:
            continue
        packet.stream = stream
        _alarm(task["write_timeout"])
        made.mux(packet)
        _alarm(0)
    _alarm(task["write_timeout"])
    made.close()


if __name__ == "__main__":
    try:
        main()
    except (av.FFmpegError, OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print(" ".join(told.split()), file=sys.stderr)
        os._exit(1)  # what is left open would be closed politely, which may take for ever
