"""``--doctor``: what this machine can do, what is missing, and the one command that installs it."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Iterator
from fractions import Fraction

import av

from engines.backends.common import cpu_name
from engines.doctor import MISSING, READY, UNFIT, Finding, advice
from engines.doctor import examine as examine_engines
from pipeline.cpu import available_cpus, available_memory
from pipeline.frame import FORMATS
from pipeline.hwaccel import missing
from pipeline.sinks.nvenc import nvenc_encoders, refusal

ENCODERS = {
    "libx264": "overlays in .mp4 and .mkv, RTSP, the web page",
    "ffv1": "lossless masks in .mkv",
    "libvpx-vp9": "overlays in .webm",
}
"""What outputs are written by."""


_NO_COMMAND = "nothing is missing that one command could install"


def report() -> tuple[str, int]:
    """The findings as a table, and the exit status: 0 where an engine runs here, else 1."""
    logging.getLogger("engines").setLevel(logging.WARNING)  # what an engine says of itself is in the table
    findings = [*_machine(), *_codecs(), *examine_engines()]
    rows = [(each.state, each.area, each.name, each.told) for each in findings]
    widths = [*(max(len(row[i]) for row in rows) for i in range(3)), 0]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    command = advice(findings)
    lines += ["", f"to install what is missing: {command}" if command else _NO_COMMAND]
    runs = any(each.area == "engine" and each.state == READY for each in findings)
    if not runs:
        lines.append("no engine runs here: the stream cannot start")
    return "\n".join(lines), 0 if runs else 1


def _machine() -> Iterator[Finding]:
    memory = available_memory()
    told = f"{available_cpus()} of {os.cpu_count()} processors, {cpu_name()}"
    yield Finding("machine", "processor", READY, told)
    if memory is not None:
        yield Finding("machine", "memory", READY, f"{memory / 2**30:.1f} GiB left")
    yield Finding("machine", "system", READY, f"{platform.platform(terse=True)}, Python {platform.python_version()}")


def _codecs() -> Iterator[Finding]:
    yield Finding("video", "PyAV", READY, f"{av.__version__}, {len(av.codecs_available)} codecs")
    for name, use in ENCODERS.items():
        yield Finding("video", name, *_encoder(name, use))
    reason = missing("NVDEC")
    yield Finding("video", "NVDEC", UNFIT if reason else READY, reason or "decodes on the GPU what that takes")
    lacking = missing("NVENC")
    refusals = {} if lacking else {e.alias: refusal(e, 256, 256, FORMATS["yuv420p"]) for e in nvenc_encoders()}
    able = [alias for alias, why in refusals.items() if not why]
    if able:
        yield Finding("video", "NVENC", READY, f"encodes {', '.join(able)} on the GPU")
    else:
        yield Finding("video", "NVENC", UNFIT, lacking or next(iter(refusals.values()), "not in this PyAV"))


def _encoder(name: str, use: str) -> tuple[str, str]:
    """Whether an encoder is there and opens."""
    try:
        context = av.CodecContext.create(name, "w")
    except ValueError:  # PyAV's, of a name that it does not know
        return MISSING, f"not in this PyAV: {use}"
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height = 256, 256
    context.pix_fmt, context.framerate = "yuv420p", Fraction(30)
    try:
        context.open()
    except (av.FFmpegError, ValueError, OSError) as error:
        return UNFIT, f"{use}: does not open ({' '.join(str(error).split())})"
    return READY, use
