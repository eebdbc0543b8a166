"""A stand-in for NVIDIA's driver, for programs with its environment.

`nvidia_shim.c` and `nvenc_shim.c` tell what it does not prove.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np

from tests.conftest import absent

_NAMES = ("libcuda.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1")


def build_driver(folder: Path, names: tuple[str, ...] = _NAMES, *, encodes: bool = False) -> dict[str, str]:
    """Compile the stand-in; the environment of programs that shall find these of its libraries."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        absent("a C compiler")
    assert compiler is not None
    for shim in ("nvidia_shim", "nvenc_shim") if encodes else ("nvidia_shim",):
        source, library = Path(__file__).with_name(f"{shim}.c"), folder / f"{shim}.so"
        command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source)]
        subprocess.run(command, check=True, timeout=60)
    for name in names:
        encoder = encodes and name == "libnvidia-encode.so.1"
        (folder / name).symlink_to(folder / ("nvenc_shim.so" if encoder else "nvidia_shim.so"))
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


def nvdec_pictures(clip: Path, file: Path) -> None:
    """Write what NVDEC would make of a clip: whole coded pictures as NV12, or P016, in the order of decoding."""
    pictures: dict[int | None, bytes] = {}
    order: list[int] = []
    with av.open(str(clip)) as container:
        video = container.streams.video[0]
        for packet in container.demux(video):
            if packet.pts is not None:
                order.append(packet.pts)
            for frame in video.codec_context.decode(packet if packet.size else None):
                pictures[frame.pts] = _surface(frame)
    file.write_bytes(b"".join(pictures[pts] for pts in order))


def _surface(frame: av.VideoFrame) -> bytes:
    deep = frame.format.name.endswith("10le")
    dtype, shift = (np.uint16, 6) if deep else (np.uint8, 0)
    luma, *chroma = (
        np.frombuffer(memoryview(plane), dtype).reshape(plane.height, -1)[:, : plane.width] << shift
        for plane in frame.planes
    )
    rows = 32 if frame.interlaced_frame else 16  # of a macroblock, or of one in each field
    height, width = -(-frame.height // rows) * rows, -(-frame.width // 16) * 16
    surface = np.zeros((height * 3 // 2, width), dtype)
    surface[: frame.height, : frame.width] = luma
    rows, columns = chroma[0].shape
    for part, samples in enumerate(chroma):
        surface[height : height + rows, part : part + 2 * columns : 2] = samples
    return surface.tobytes()
