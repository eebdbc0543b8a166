"""Clips with exact truth of every frame, made on demand: ``build("vfr", folder)``.

Every picture carries its number (see `painting`), so that a test tells frames apart after any
codec, filter or turn.  `Clip` says what must come out: numbers, times, sizes, layout, colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from pipeline.frame import FORMATS, Colour
from tests.pipeline.painting import Array, paint, turned

SAMPLE_RATE = 48000


@dataclass(frozen=True)
class Clip:
    """A file and the truth about it.

    Attributes:
        name: of the recipe.
        path: the file.
        numbers: painted numbers in order of presentation; for damaged files those that were encoded.
        pts: presentation times in seconds, one a number.
        time_base: tick of the container in seconds.
        width, height: upright, in pixels; of the first picture where they change.
        layout: name in `FORMATS` of what must flow.
        colour: tags that must flow.
        aspect: width : height of a pixel, upright.
        audio: seconds of sound, 0 without.
        exact: samples must equal `paint`'s: lossless codec, nothing converted.
        intact: no damage, all frames come.
        seams: lost-data marks that joining parts left in an otherwise intact stream.
        stamped: the container's own times are the truth (else it has none, or they were put right).
        sizes: (width, height) a frame where they change, else empty.
    """

    name: str
    path: Path
    numbers: tuple[int, ...]
    pts: tuple[Fraction, ...]
    time_base: Fraction
    width: int
    height: int
    layout: str
    colour: Colour
    aspect: Fraction
    audio: Fraction
    exact: bool
    intact: bool = True
    seams: int = 0
    stamped: bool = True
    sizes: tuple[tuple[int, int], ...] = ()

    def planes(self, position: int) -> tuple[Array, Array, Array]:
        """The exact planes of a frame; meaningful where ``exact``."""
        width, height = self.sizes[position] if self.sizes else (self.width, self.height)
        return paint(self.numbers[position], height, width, FORMATS[self.layout])


@dataclass(frozen=True)
class Recipe:
    """How a clip is made.

    Attributes:
        ending: of the file.
        codec, options: libav's encoder.
        stored: libav's layout that is encoded; the planar layout to paint is ``layout``.
        layout: name in `FORMATS` to paint and to expect.
        ticks: presentation times in ticks of ``time_base``.
        turn: what the display matrix says to do, in order: left, right, half, mirror, flip.
        colour: tags, None for none.
        exact: see `Clip`.
        rgb: pictures are given to the encoder by way of RGB, so colour and values change.
    """

    ending: str = "mp4"
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    stored: str = "yuv420p"
    layout: str = "yuv420p"
    width: int = 96
    height: int = 80
    time_base: Fraction = Fraction(1, 12800)
    ticks: tuple[int, ...] = tuple(range(0, 30 * 512, 512))
    turn: tuple[str, ...] = ()
    colour: Colour | None = None
    expected: Colour | None = None
    aspect: Fraction = Fraction(1)
    audio: str = ""
    exact: bool = True
    numbers: tuple[int, ...] = ()


def _x264(**more: str) -> dict[str, str]:
    return {"preset": "ultrafast", "qp": "0", "bf": "3", "g": "12", **more}


_MS = Fraction(1, 1000)
_VFR = (0, 33, 40, 41, 90, 200, 240, 1000, 1001, 1500, 1533, 1566, 1600, 3000, 3040, 3041, 3100, 4000, 4040, 4500)
_FFV1 = Recipe("mkv", "ffv1", time_base=_MS, ticks=tuple(range(0, 40 * 20, 40)))
_RAW = replace(
    _FFV1, ending="nut", codec="rawvideo", time_base=Fraction(1, 51200), ticks=tuple(range(0, 20 * 2048, 2048))
)
_H264 = Recipe(options=_x264())
_B = {"x264-params": "b-adapt=0:bframes=3:scenecut=0"}

RECIPES: dict[str, Recipe] = {
    "h264": replace(_H264, options=_x264(**_B)),
    "h264 lossy": replace(_H264, options={"preset": "ultrafast", "crf": "23"}, exact=False),
    "hevc": Recipe(codec="libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:bframes=3"}, exact=False),
    "vp9": Recipe("webm", "libvpx-vp9", {"lossless": "1", "cpu-used": "8"}, time_base=_MS, ticks=_VFR),
    "mpeg4 avi": Recipe("avi", "mpeg4", {"qscale": "2"}, time_base=Fraction(1, 25), ticks=tuple(range(30)), exact=False),
    "vfr": replace(_H264, ending="mkv", options=_x264(**_B), time_base=_MS, ticks=_VFR),
    "vfr mp4": replace(_H264, options=_x264(**_B), time_base=Fraction(1, 90000), ticks=tuple(90 * t for t in _VFR)),
    "late": replace(_H264, ending="mkv", time_base=_MS, ticks=tuple(5000 + t for t in _VFR)),
    "late ts": replace(
        _H264, ending="ts", options=_x264(**_B), time_base=Fraction(1, 90000), ticks=tuple(range(900000, 1008000, 3600)),
    ),
    "10 bit": replace(_H264, stored="yuv420p10le", layout="yuv420p10le", exact=False),
    "hdr": replace(
        _FFV1, stored="yuv420p10le", layout="yuv420p10le", colour=Colour(9, False, 9, 16), expected=Colour(9, False, 9, 16)
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
        _RAW, ending="avi", codec="mjpeg", options={"qmin": "1", "qmax": "2"}, stored="yuvj420p", colour=Colour(5, True),
        expected=Colour(5, True), exact=False, time_base=Fraction(1, 25), ticks=tuple(range(20)),
    ),
    "raw h264": replace(
        _H264, ending="h264", options=_x264(**_B), time_base=Fraction(1, 30), ticks=tuple(range(30))
    ),
    "interlaced": replace(_H264, options=_x264(**{"x264-params": "tff=1"}), exact=False),
    "single": replace(_H264, ticks=(0,)),
    "long": replace(_H264, ending="mkv", options=_x264(g="50", **_B), time_base=_MS, ticks=tuple(range(0, 250 * 40, 40)),
                    audio="aac"),
}  # fmt: skip
"""All clips that are made in one go; see `BROKEN` for those that are made from them."""


def build(name: str, folder: Path) -> Clip:
    """Make the clip ``name`` of `RECIPES`, `COMPOSED` or `BROKEN` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in RECIPES:
        return _make(name, RECIPES[name], folder)
    return (COMPOSED | BROKEN)[name](folder)


def _make(name: str, recipe: Recipe, folder: Path) -> Clip:
    numbers = recipe.numbers or tuple(range(len(recipe.ticks)))
    clip = Clip(
        name=name,
        path=folder / f"{name}.{recipe.ending}".replace(" ", "_"),
        numbers=numbers,
        pts=tuple(tick * recipe.time_base for tick in recipe.ticks),
        time_base=recipe.time_base,
        width=recipe.width,
        height=recipe.height,
        layout=recipe.layout,
        colour=recipe.expected or Colour(),
        aspect=recipe.aspect,
        audio=_length(recipe) if recipe.audio else Fraction(0),
        exact=recipe.exact,
        stamped=recipe.ending != "h264",
    )
    with av.open(str(clip.path), "w") as container:
        video = _video_stream(container, recipe)
        sound = _sound_packets(container, recipe)
        for number, tick in zip(numbers, recipe.ticks, strict=True):
            for packet in video.encode(_picture(number, tick, recipe)):
                container.mux(packet)
            sound(tick * recipe.time_base, False)
        for packet in video.encode():
            container.mux(packet)
        sound(_length(recipe), True)
    return clip


def _length(recipe: Recipe) -> Fraction:
    return (recipe.ticks[-1] - recipe.ticks[0]) * recipe.time_base + Fraction(1, 25)


def _video_stream(container: av.container.OutputContainer, recipe: Recipe) -> av.VideoStream:
    turned_over = any(step in ("left", "right") for step in recipe.turn)
    video = container.add_stream(recipe.codec, options=dict(recipe.options))
    assert isinstance(video, av.VideoStream)
    video.width, video.height = (recipe.height, recipe.width) if turned_over else (recipe.width, recipe.height)
    video.pix_fmt = recipe.stored
    context = video.codec_context
    context.time_base = recipe.time_base
    video.time_base = recipe.time_base
    context.framerate = Fraction(25) if recipe.ending != "h264" else 1 / recipe.time_base
    context.sample_aspect_ratio = 1 / recipe.aspect if turned_over else recipe.aspect
    video.thread_count = 1
    if recipe.colour is not None:
        context.colorspace, context.color_range = recipe.colour.space, 2 if recipe.colour.full_range else 1
        context.color_primaries, context.color_trc = recipe.colour.primaries, recipe.colour.transfer
    if recipe.turn:
        angle = {"left": 90, "right": -90, "half": 180}.get(recipe.turn[0], 0)
        video.set_display_rotation(angle, hflip="mirror" in recipe.turn, vflip="flip" in recipe.turn)
    return video


def _picture(number: int, tick: int, recipe: Recipe) -> av.VideoFrame:
    """The frame that is encoded; paints in the recipe's layout, stores in the encoder's."""
    planes = [turned(plane, recipe.turn) for plane in paint(number, recipe.height, recipe.width, FORMATS[recipe.layout])]
    if "tff" in recipe.options.get("x264-params", ""):
        planes[0][1::2] = np.roll(planes[0][1::2], 4, axis=1)  # the second field is somewhere else by then
    frame = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], recipe.layout)
    for target, plane in zip(frame.planes, planes, strict=True):
        view = np.frombuffer(target, plane.dtype).reshape(target.height, -1)  # type: ignore[call-overload]
        view[:, : plane.shape[1]] = plane
    frame.color_range = 2 if recipe.stored.startswith("yuvj") or recipe.stored.startswith("gray") else 1
    if recipe.stored != recipe.layout:
        same = recipe.stored.startswith(("yuvj", "gray"))
        kept = 2 if same else 0
        frame = frame.reformat(format=recipe.stored, src_color_range=kept, dst_color_range=kept)
    frame.pts, frame.time_base = tick, recipe.time_base
    return frame


def _sound_packets(container: av.container.OutputContainer, recipe: Recipe) -> Callable[[Fraction, bool], None]:
    """A function that muxes a tone up to a time."""
    if not recipe.audio:
        return lambda moment, last: None
    stream = container.add_stream(recipe.audio, rate=SAMPLE_RATE)
    assert isinstance(stream, av.AudioStream)
    stream.layout = "mono"
    kind = "flt" if recipe.audio == "libopus" else stream.format.name
    done = 0

    def up_to(moment: Fraction, last: bool) -> None:
        nonlocal done
        until = int((moment - recipe.ticks[0] * recipe.time_base) * SAMPLE_RATE)
        while done + 960 <= until:
            tone = np.sin(np.arange(done, done + 960) * (440 * 2 * np.pi / SAMPLE_RATE))[None, :] * 0.3
            samples = (tone * 32767).astype(np.int16) if kind.startswith("s16") else tone.astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, kind, "mono")
            frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, done, Fraction(1, SAMPLE_RATE)
            done += 960
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None) if last else []:
            container.mux(packet)

    return up_to


def _joined(name: str, folder: Path, recipes: Sequence[Recipe], ticks: Sequence[int] | None = None) -> Clip:
    """Transport streams one after the other in one file, as a camera's restart leaves them."""
    parts = [_make(f"{name} {number}", recipe, folder) for number, recipe in enumerate(recipes)]
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


_TS = replace(_H264, ending="ts", options=_x264(**_B), time_base=Fraction(1, 90000))
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
    clip = replace(_make("size change mjpeg", base, folder), sizes=tuple(sizes))
    with av.open(str(clip.path), "w") as container:
        stream = _video_stream(container, base)
        for number, (size, tick) in enumerate(zip(sizes, base.ticks, strict=True)):
            recipe = replace(base, width=size[0], height=size[1])
            encoder = stream.codec_context if number == 0 else _encoder(recipe)
            for packet in [*encoder.encode(_picture(number, tick, recipe)), *(encoder.encode() if number else [])]:
                packet.stream = stream
                packet.time_base = base.time_base
                container.mux(packet)
    return clip


def _encoder(recipe: Recipe) -> av.VideoCodecContext:
    encoder = av.CodecContext.create(recipe.codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = recipe.width, recipe.height, recipe.stored
    encoder.time_base, encoder.framerate, encoder.color_range = recipe.time_base, Fraction(25), 2
    encoder.options = dict(recipe.options)
    return encoder


COMPOSED: dict[str, Callable[[Path], Clip]] = {
    "size change": _size_change,
    "size change mjpeg": _size_change_mjpeg,
    "restart": _restart,
}
"""Clips made of several encodings."""


def _index_first(folder: Path) -> Clip:
    """An MP4 that begins with its index, so that a cut leaves something to play."""
    clip = _make("index first", RECIPES["long"], folder)
    path = folder / "index_first.mp4"
    with av.open(str(clip.path)) as given, av.open(str(path), "w", options={"movflags": "+faststart"}) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)
    return replace(clip, path=path, audio=Fraction(0), time_base=Fraction(1, 16000), intact=False)


def _cut(name: str, whole: Callable[[Path], Clip], part: float) -> Callable[[Path], Clip]:
    def make(folder: Path) -> Clip:
        clip = whole(folder)
        path = clip.path.with_stem(name.replace(" ", "_"))
        data = clip.path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])
        return replace(clip, name=name, path=path, intact=False)

    return make


def _spoilt(name: str, whole: Callable[[Path], Clip], places: Sequence[float], length: int) -> Callable[[Path], Clip]:
    def make(folder: Path) -> Clip:
        clip = whole(folder)
        path = clip.path.with_stem(name.replace(" ", "_"))
        data = bytearray(clip.path.read_bytes())
        for place in places:
            at = int(len(data) * place)
            data[at : at + length] = bytes(byte ^ 0x5A for byte in data[at : at + length])
        path.write_bytes(data)
        return replace(clip, name=name, path=path, intact=False)

    return make


def _recipe(name: str) -> Callable[[Path], Clip]:
    return lambda folder: _make(name, RECIPES[name], folder)


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
