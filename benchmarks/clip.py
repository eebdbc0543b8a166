"""The clip that the benchmarks read: the street sample at 640×360."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from pipeline.sources.sample import sample_path

WIDTH, HEIGHT, RATE = 640, 360, 25


def make_clip(path: Path, frames: int, rate: int = RATE) -> Path:
    """Write ``frames`` pictures of the sample, over and over, as H.264 4:2:0 at 640×360 and ``rate`` a second."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "18"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        done = 0
        while done < frames:
            with av.open(str(sample_path())) as source:
                for picture in source.decode(video=0):
                    scaled = picture.reformat(WIDTH, HEIGHT, "yuv420p")
                    scaled.pts, scaled.time_base = done, Fraction(1, rate)
                    output.mux(stream.encode(scaled))
                    done += 1
                    if done == frames:
                        break
        output.mux(stream.encode(None))
    return path
