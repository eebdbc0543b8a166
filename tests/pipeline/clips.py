"""Clips with exact truth of every frame, made on demand: ``build("vfr", folder)``.

Every picture carries its number (see `painting`), so that a test tells frames apart after any
codec, filter or turn.  `Clip` says what must come out: numbers, times, sizes, layout, colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from pipeline.frame import Colour
from tests.pipeline.encoding import Clip, Recipe, encoder, make, picture, video_stream

__all__ = ["BROKEN", "COMPOSED", "RECIPES", "Clip", "build", "names"]


def _x264(**more: str) -> dict[str, str]:
    return {"preset": "ultrafast", "qp": "0", "bf": "3", "g": "12", **more}


_MS = Fraction(1, 1000)
_VFR = (0, 33, 40, 41, 90, 200, 240, 1000, 1001, 1500, 1533, 1566, 1600, 3000, 3040, 3041, 3100, 4000, 4040, 4500)
_FFV1 = Recipe("mkv", "ffv1", time_base=_MS, ticks=tuple(range(0, 40 * 20, 40)))
_RAW = replace(
    _FFV1, ending="nut", codec="rawvideo", time_base=Fraction(1, 51200), ticks=tuple(range(0, 20 * 2048, 2048))
)
_H264 = Recipe(options=_x264())
_PQ = Colour(9, False, 9, 16)
# x264 has no B-frames when it is lossless.
_B = {"qp": "4", "x264-params": "b-adapt=0:scenecut=0"}

RECIPES: dict[str, Recipe] = {
    "h264": replace(_H264, options=_x264(**_B), exact=False),
    "h264 lossless": _H264,
    "h264 lossy": replace(_H264, options={"preset": "ultrafast", "crf": "23"}, exact=False),
    "hevc": Recipe(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none"}, exact=False),
    "vp9": Recipe("webm", "libvpx-vp9", {"lossless": "1", "cpu-used": "8"}, time_base=_MS, ticks=_VFR),
    "mpeg4 avi": Recipe(
        "avi", "mpeg4", {"qscale": "2"}, time_base=Fraction(1, 25), ticks=tuple(range(30)), exact=False
    ),
    "vfr": replace(_H264, ending="mkv", options=_x264(**_B), exact=False, time_base=_MS, ticks=_VFR),
    "vfr mp4": replace(
        _H264, options=_x264(**_B), exact=False, time_base=Fraction(1, 90000), ticks=tuple(90 * t for t in _VFR)
    ),
    "late": replace(_H264, ending="mkv", time_base=_MS, ticks=tuple(5000 + t for t in _VFR)),
    "late ts": replace(
        _H264, ending="ts", options=_x264(**_B), exact=False, time_base=Fraction(1, 90000),
        ticks=tuple(range(900000, 1008000, 3600)),
    ),
    "10 bit": replace(_H264, stored="yuv420p10le", layout="yuv420p10le", exact=False),
    "hdr": replace(
        _FFV1, stored="yuv420p10le", layout="yuv420p10le", colour=_PQ, expected=_PQ,
    ),
    "422": replace(_H264, stored="yuv422p", layout="yuv422p"),
    "444": replace(_H264, stored="yuv444p", layout="yuv444p"),
    "422 10 bit": replace(_FFV1, stored="yuv422p10le", layout="yuv422p10le"),
    "444 10 bit": replace(_FFV1, stored="yuv444p10le", layout="yuv444p10le"),
    "odd": replace(_FFV1, width=97, height=83),
    "odd 422": replace(_FFV1, stored="yuv422p", layout="yuv422p", width=97, height=83),
    "tagged": replace(_H264, colour=Colour(1, False, 1, 1), expected=Colour(1, False, 1, 1)),
    "full range": replace(_H264, colour=Colour(6, True, 6, 6), expected=Colour(6, True, 6, 6)),
    "left": replace(_H264, turn=("left",)),
    "right": replace(_H264, turn=("right",)),
    "half": replace(_H264, turn=("half",)),
    "mirror": replace(_H264, turn=("mirror",)),
    "flip": replace(_H264, turn=("flip",)),
    "left 444": replace(_H264, stored="yuv444p", layout="yuv444p", turn=("left",)),
    "right 10 bit": replace(_H264, stored="yuv420p10le", layout="yuv420p10le", turn=("right",), exact=False),
    "anamorphic": replace(_H264, aspect=Fraction(16, 11)),
    "anamorphic left": replace(_H264, aspect=Fraction(11, 16), turn=("left",)),
    "aac": replace(_H264, audio="aac"),
    "opus": replace(_H264, ending="mkv", time_base=_MS, ticks=_VFR, audio="libopus"),
    "pcm": replace(_H264, ending="mov", audio="pcm_s16le"),
    "nv12": replace(_RAW, stored="nv12"),
    "uyvy": replace(_RAW, stored="uyvy422", layout="yuv422p"),
    "10 bit big endian": replace(_RAW, stored="yuv420p10be", layout="yuv420p10le"),
    "411": replace(_RAW, stored="yuv411p", layout="yuv422p", exact=False),
    "410": replace(_RAW, stored="yuv410p", layout="yuv420p", exact=False),
    "440": replace(_RAW, stored="yuv440p", layout="yuv444p", exact=False),
    "12 bit": replace(_FFV1, stored="yuv422p12le", layout="yuv422p10le", exact=False),
    "alpha": replace(_FFV1, stored="yuva420p", layout="yuv420p"),
    "gray": replace(_FFV1, stored="gray", layout="yuv420p", expected=Colour(2, True), exact=False),
    "gray 10 bit": replace(_FFV1, stored="gray10le", layout="yuv420p10le", expected=Colour(2, True), exact=False),
    "bgr0": replace(_FFV1, stored="bgr0", layout="yuv444p", expected=Colour(6), exact=False),
    "png": replace(_RAW, ending="mov", codec="png", stored="rgb24", layout="yuv444p", expected=Colour(6), exact=False,
                   time_base=Fraction(1, 12800), ticks=tuple(range(0, 20 * 512, 512))),
    "palette": replace(_RAW, stored="rgb8", layout="yuv444p", expected=Colour(6), exact=False),
    "mjpeg": replace(
        _RAW, ending="avi", codec="mjpeg", options={"qmin": "1", "qmax": "2"}, stored="yuvj420p", exact=False,
        colour=Colour(5, True), expected=Colour(5, True), time_base=Fraction(1, 25), ticks=tuple(range(20)),
    ),
    "raw h264": replace(
        _H264, ending="h264", options=_x264(**_B), exact=False, time_base=Fraction(1, 30), ticks=tuple(range(30))
    ),
    "interlaced": replace(_H264, options=_x264(**{"x264-params": "tff=1"}), exact=False),
    "single": replace(_H264, ticks=(0,)),
    "long": replace(
        _H264, ending="mkv", options=_x264(g="50", **_B), exact=False, audio="aac", time_base=_MS,
        ticks=tuple(range(0, 250 * 40, 40)),
    ),
}  # fmt: skip
"""All clips that are made in one go; see `BROKEN` for those that are made from them."""


def build(name: str, folder: Path) -> Clip:
    """Make the clip ``name`` of `RECIPES`, `COMPOSED` or `BROKEN` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in RECIPES:
        return make(name, RECIPES[name], folder)
    return (COMPOSED | BROKEN)[name](folder)


def _joined(name: str, folder: Path, recipes: Sequence[Recipe], ticks: Sequence[int] | None = None) -> Clip:
    """Transport streams one after the other in one file, as a camera's restart leaves them."""
    parts = [make(f"{name} {number}", recipe, folder) for number, recipe in enumerate(recipes)]
    path = folder / f"{name}.ts".replace(" ", "_")
    path.write_bytes(b"".join(part.path.read_bytes() for part in parts))
    pts = [t for part in parts for t in part.pts]
    return replace(
        parts[0],
        name=name,
        path=path,
        numbers=tuple(n for part in parts for n in part.numbers),
        pts=tuple(pts if ticks is None else (tick * recipes[0].time_base for tick in ticks)),
        seams=len(parts) - 1,
        stamped=ticks is None,
        sizes=tuple((part.width, part.height) for part in parts for _ in part.numbers),
    )


_TS = replace(_H264, ending="ts", options=_x264(**_B), exact=False, time_base=Fraction(1, 90000))
_TICKS = tuple(range(90000, 90000 + 24 * 3600, 3600))
_NEXT = tuple(tick + 24 * 3600 for tick in _TICKS)


def _size_change(folder: Path) -> Clip:
    second = replace(_TS, ticks=_NEXT, width=64, height=48, numbers=tuple(range(100, 124)))
    return _joined("size change", folder, (replace(_TS, ticks=_TICKS), second))


def _restart(folder: Path) -> Clip:
    late = tuple(tick + 10 * 90000 for tick in _TICKS)
    again = replace(_TS, ticks=_TICKS, numbers=tuple(range(100, 124)))
    followed = (*late, *(tick + 10 * 90000 for tick in _NEXT))
    return _joined("restart", folder, (replace(_TS, ticks=late), again), followed)


def _size_change_mjpeg(folder: Path) -> Clip:
    sizes = [(96, 80)] * 5 + [(97, 61)] * 5 + [(96, 80)] * 5
    base = replace(RECIPES["mjpeg"], ending="mkv", time_base=_MS, ticks=tuple(range(0, 600, 40)))
    clip = replace(make("size change mjpeg", base, folder), sizes=tuple(sizes))
    with av.open(str(clip.path), "w") as container:
        stream = video_stream(container, base)
        for number, (size, tick) in enumerate(zip(sizes, base.ticks, strict=True)):
            recipe = replace(base, width=size[0], height=size[1])
            own = stream.codec_context if number == 0 else encoder(recipe)
            for packet in [*own.encode(picture(number, tick, recipe)), *(own.encode() if number else [])]:
                packet.stream = stream
                packet.time_base = base.time_base
                container.mux(packet)
    return clip


COMPOSED: dict[str, Callable[[Path], Clip]] = {
    "size change": _size_change,
    "size change mjpeg": _size_change_mjpeg,
    "restart": _restart,
}
"""Clips made of several encodings."""


def _index_first(folder: Path) -> Clip:
    """An MP4 that begins with its index, so that a cut leaves something to play."""
    recipe = replace(
        RECIPES["h264"],
        options=_x264(g="50", **_B),
        ticks=tuple(range(0, 250 * 512, 512)),
        muxer={"movflags": "+faststart"},
    )
    return make("index first", recipe, folder)


def _cut(name: str, whole: Callable[[Path], Clip], part: float) -> Callable[[Path], Clip]:
    def spoil(folder: Path) -> Clip:
        clip = whole(folder)
        path = clip.path.with_stem(name.replace(" ", "_"))
        data = clip.path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])
        return replace(clip, name=name, path=path, intact=False)

    return spoil


def _spoilt(name: str, whole: Callable[[Path], Clip], places: Sequence[float], length: int) -> Callable[[Path], Clip]:
    def spoil(folder: Path) -> Clip:
        clip = whole(folder)
        path = clip.path.with_stem(name.replace(" ", "_"))
        data = bytearray(clip.path.read_bytes())
        for place in places:
            at = int(len(data) * place)
            data[at : at + length] = bytes(byte ^ 0x5A for byte in data[at : at + length])
        path.write_bytes(data)
        return replace(clip, name=name, path=path, intact=False)

    return spoil


def _recipe(name: str) -> Callable[[Path], Clip]:
    return lambda folder: make(name, RECIPES[name], folder)


BROKEN: dict[str, Callable[[Path], Clip]] = {
    "cut mp4": _cut("cut mp4", _index_first, 0.6),
    "cut mkv": _cut("cut mkv", _recipe("long"), 0.6),
    "cut ts": _cut("cut ts", _recipe("late ts"), 0.7),
    "spoilt mp4": _spoilt("spoilt mp4", _index_first, (0.4, 0.5, 0.7), 40),
    "spoilt mkv": _spoilt("spoilt mkv", _recipe("long"), (0.3, 0.6), 300),
    "spoilt ts": _spoilt("spoilt ts", _recipe("late ts"), (0.4, 0.6), 400),
}
"""Clips that lack something or hold rubbish: what can be decoded must come, the rest be counted."""


def names() -> Iterator[str]:
    """All intact clips."""
    yield from RECIPES
    yield from COMPOSED
