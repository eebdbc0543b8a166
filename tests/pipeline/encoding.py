"""Encoding painted pictures, so that what must come out is known for every frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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
        numbers: to paint; counted from 0 where empty.
        muxer: libav's options of the container.
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
    muxer: dict[str, str] = field(default_factory=dict)


def make(name: str, recipe: Recipe, folder: Path) -> Clip:
    """Encode the clip of a recipe."""
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
    with av.open(str(clip.path), "w", options=dict(recipe.muxer)) as container:
        video = video_stream(container, recipe)
        sound = _sound_packets(container, recipe)
        for number, tick in zip(numbers, recipe.ticks, strict=True):
            for packet in video.encode(picture(number, tick, recipe)):
                container.mux(packet)
            sound(tick * recipe.time_base, False)
        for packet in video.encode():
            container.mux(packet)
        sound(_length(recipe), True)
    return clip


def _length(recipe: Recipe) -> Fraction:
    return (recipe.ticks[-1] - recipe.ticks[0]) * recipe.time_base + Fraction(1, 25)


def video_stream(container: av.container.OutputContainer, recipe: Recipe) -> av.VideoStream:
    """Add the recipe's stream, its encoder not open yet."""
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


def picture(number: int, tick: int, recipe: Recipe) -> av.VideoFrame:
    """The frame that is encoded; paints in the recipe's layout, stores in the encoder's."""
    painted = paint(number, recipe.height, recipe.width, FORMATS[recipe.layout])
    planes = [turned(plane, recipe.turn) for plane in painted]
    if "tff" in recipe.options.get("x264-params", ""):
        for field in (0, 1):  # the scene moves from field to field
            planes[0][field::2] = np.roll(planes[0][field::2], (2 * number + field) * 3 % 8, axis=1)
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
        return lambda *_: None
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


def encoder(recipe: Recipe) -> av.VideoCodecContext:
    """An encoder of its own, to be muxed into a stream that has another."""
    made = av.CodecContext.create(recipe.codec, "w")
    assert isinstance(made, av.VideoCodecContext)
    made.width, made.height, made.pix_fmt = recipe.width, recipe.height, recipe.stored
    made.time_base, made.framerate, made.color_range = recipe.time_base, Fraction(25), 2
    made.options = dict(recipe.options)
    return made
