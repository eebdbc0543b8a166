"""Any decoded picture made planar YUV, progressive and upright, once; nothing copied that is so already."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Generic, TypeVar, cast

import av
import numpy as np
from av.filter import Graph
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline import _native
from pipeline.frame import FORMATS, Colour, PixelFormat, Plane

T = TypeVar("T")

MAX_SIDE = 16384
"""Longest side of a picture that is taken, in pixels."""

MAX_PIXELS = 100_000_000
"""Largest picture that is taken; what lies above is a broken header or an attack on memory."""

MAX_LIVE_PIXELS = 40_000_000
"""The same for what comes from a network, where others decide what is sent: 8K (7680×4320) fits."""

_MPEG, _JPEG = 1, 2  # libav's AVColorRange


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture fit to flow.

    Attributes:
        picture: the memory, as libav sees it.
        format: its layout.
        colour: its meaning.
        turned: rows became columns, so the pixel aspect ratio must be inverted.
    """

    picture: av.VideoFrame
    format: PixelFormat
    colour: Colour
    turned: bool


def plane_views(picture: av.VideoFrame, pixel_format: PixelFormat) -> tuple[Plane, Plane, Plane]:
    """Read-only Y, U, V over the picture's own memory, shapes as ``pixel_format.plane_shapes``."""
    views: list[Plane] = []
    for plane, (rows, columns) in zip(
        picture.planes, pixel_format.plane_shapes(picture.height, picture.width), strict=True
    ):
        flat = cast(Plane, np.frombuffer(cast(memoryview, plane), pixel_format.dtype))
        view = flat.reshape(rows, -1)[:, :columns]
        if plane.line_size < 0:  # stored bottom up; the buffer begins with the last row
            view = view[::-1]
        view.flags.writeable = False  # decoders predict from the same memory
        views.append(view)
    return views[0], views[1], views[2]


FOLDED = ("p010le", "p210le", "p410le")
"""Layouts of 10 bits with U and V in turn, as GPUs give them: libswscale takes four times as long for them."""


def unfolded(frame: av.VideoFrame, target: PixelFormat) -> av.VideoFrame:
    """A picture of `FOLDED` in the layout ``target``, sample for sample; of its tags it keeps the colour's."""
    made = av.VideoFrame(frame.width, frame.height, target.name)
    made.colorspace, made.color_range = frame.colorspace, frame.color_range
    luma, u, v = target.plane_shapes(frame.height, frame.width)
    _native.unfold(
        _samples(frame.planes[0], luma),
        _samples(frame.planes[1], (u[0], 2 * u[1])),
        target.log2_chroma_w,
        target.log2_chroma_h,
        *(_samples(plane, shape) for plane, shape in zip(made.planes, (luma, u, v), strict=True)),
    )
    return made


def _samples(plane: VideoPlane, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """A plane's own memory, without what lies beside its rows."""
    return np.frombuffer(cast(memoryview, plane), np.uint16).reshape(shape[0], -1)[:, : shape[1]]


_SPACES, _PRIMARIES, _TRANSFERS = range(18), range(23), range(19)
"""Codes of ITU-T H.273 that libav takes."""

_UNTAGGED = 2


def pixel_aspect(ratio: Fraction | None) -> Fraction:
    """Width : height of a pixel as tagged; 1 where nothing, or nothing that can be meant, is tagged."""
    return ratio if ratio and Fraction(1, 10) < ratio < 10 else Fraction(1)


@cache
def nearest_format(name: str) -> tuple[PixelFormat, bool]:
    """The layout of `FORMATS` that keeps most of libav's format ``name``, and whether that is it already.

    RGB keeps its full chroma (4:4:4); gray gets the smallest chroma that there is (4:2:0); chroma
    is never subsampled further; more than 8 bits become 10.
    """
    if name.replace("yuvj", "yuv") in FORMATS:
        return FORMATS[name.replace("yuvj", "yuv")], True
    given = av.VideoFormat(name, 64, 64)
    deep = "" if max(c.bits for c in given.components) <= 8 else "10le"
    if given.is_bayer or _is_gray(given):
        return FORMATS[f"yuv420p{deep}"], False
    if _is_rgb(given):
        return FORMATS[f"yuv444p{deep}"], False
    chroma = {(32, 32): "420", (16, 16): "420", (32, 64): "422", (16, 64): "422"}
    sampling = chroma.get((given.chroma_width(64), given.chroma_height(64)), "444")
    return FORMATS[f"yuv{sampling}p{deep}"], False


def _is_rgb(given: av.VideoFormat) -> bool:
    return given.is_rgb or given.has_palette or given.is_bayer or given.name.startswith("xyz")


def _is_gray(given: av.VideoFormat) -> bool:
    return len(given.components) <= 2 and not given.has_palette


def colour_of(frame: av.VideoFrame) -> Colour:
    """The tags of a decoded picture; RGB says what it will be as YUV, gray is full range unless tagged."""
    full_range = frame.color_range == _JPEG or frame.format.name.startswith("yuvj")
    colour = Colour(frame.colorspace, full_range, frame.color_primaries, frame.color_trc)
    if _is_rgb(frame.format):
        space = Colour().resolved(frame.height).space
        return Colour(space, False, frame.color_primaries, frame.color_trc)
    if _is_gray(frame.format):
        space = 2 if frame.colorspace == 0 else frame.colorspace
        return Colour(space, frame.color_range != _MPEG, frame.color_primaries, frame.color_trc)
    return colour


def _forget_unknown_colours(frame: av.VideoFrame) -> None:
    """Codes that mean nothing, of damaged headers, become those of what is not tagged: filters refuse them."""
    if frame.colorspace not in _SPACES:
        frame.colorspace = _UNTAGGED
    if frame.color_primaries not in _PRIMARIES:
        frame.color_primaries = _UNTAGGED
    if frame.color_trc not in _TRANSFERS:
        frame.color_trc = _UNTAGGED


class Converter:
    """Converts by libswscale what is not planar YUV yet; keeps its tables between pictures."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def planar(self, frame: av.VideoFrame, target: PixelFormat) -> av.VideoFrame:
        """The picture in the layout ``target``; the same object where it is that already.

        Samples keep their range, and gray keeps its values: only RGB is converted from light to
        light, to limited range and the matrix that `colour_of` tells.
        """
        if frame.format.name.replace("yuvj", "yuv") == target.name:
            return frame
        if _is_rgb(frame.format):
            space = 1 if colour_of(frame).space == 1 else 5  # libswscale's numbers for 709 and 601
            return self._reformatter.reformat(
                frame, format=target.name, dst_colorspace=space, src_color_range=_JPEG, dst_color_range=_MPEG, threads=1
            )
        # libswscale takes gray for full range whatever its tag, so equal ranges keep the values.
        full = _is_gray(frame.format) or colour_of(frame).full_range
        kept = _JPEG if full else _MPEG
        return self._reformatter.reformat(
            frame, format=target.name, src_color_range=kept, dst_color_range=kept, threads=1
        )


def turn_filters(frame: av.VideoFrame) -> tuple[str, ...]:
    """The libav filters that stand a picture upright as its display matrix says; empty for upright ones.

    An angle between the quarters goes to the nearest of them.
    """
    try:
        raw = bytes(cast(memoryview, _small(frame).side_data["DISPLAYMATRIX"]))  # type: ignore[typeddict-item]
    except KeyError:
        return ()
    except ValueError:
        # Side data that PyAV has no name for (EXIF) hides all of it; the angle is still read.
        return _by_angle(frame.rotation)
    matrix = np.frombuffer(raw, np.int32).reshape(3, 3)
    return _by_matrix(int(matrix[0, 0]), int(matrix[0, 1]), int(matrix[1, 0]), int(matrix[1, 1]))


def _small(frame: av.VideoFrame) -> av.VideoFrame:
    """A tiny copy with the frame's side data.

    Reading side data ties a frame and its list of side data into a cycle, which stays in memory
    until the collector of garbage comes by: better a few bytes than a whole picture.
    """
    graph = _graph(frame, ("scale=16:16:flags=neighbor",))
    graph.vpush(frame)
    return graph.vpull()


def _by_matrix(a: int, b: int, c: int, d: int) -> tuple[str, ...]:
    # A pixel at (x, y) is shown at (a·x + c·y, b·x + d·y).
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (("hflip",) if a < 0 else ()) + (("vflip",) if d < 0 else ())
    if c > 0:
        return ("transpose=cclock_flip",) if b > 0 else ("transpose=cclock",)
    return ("transpose=clock",) if b > 0 else ("transpose=clock_flip",)


def _by_angle(degrees: int) -> tuple[str, ...]:
    quarter = round(degrees / 90) % 4
    return ((), ("transpose=cclock",), ("hflip", "vflip"), ("transpose=clock",))[quarter]


class Upright(Generic[T]):
    """Makes every picture planar, progressive and upright, and keeps with each what belongs to it.

    Deinterlacing begins with the first picture that is flagged interlaced and stays on; it gives
    one picture for each, one picture late.
    """

    def __init__(self, *, deinterlace: bool = True) -> None:
        self._deinterlace = deinterlace
        self._interlaced = False
        self._converter = Converter()
        self._graph: Graph | None = None
        self._key: object = None
        self._seen: object = None
        self._turn: tuple[str, ...] = ()
        self._within: deque[tuple[T, PixelFormat, Colour, bool]] = deque()

    def push(self, frame: av.VideoFrame, belonging: T, turn: tuple[str, ...] | None = None) -> list[tuple[Picture, T]]:
        """Take a decoded picture; returns those that are ready, each with its belonging.

        Args:
            frame: as decoded.
            belonging: comes back with the picture.
            turn: filters that stand it upright, None to ask its display matrix.
        """
        _forget_unknown_colours(frame)
        turn = self._turn_of(frame) if turn is None else turn
        turned = any(step.startswith("transpose") for step in turn)
        self._interlaced |= self._deinterlace and frame.interlaced_frame
        steps = (("bwdif=mode=send_frame:deint=interlaced",) if self._interlaced else ()) + turn
        colour = colour_of(frame)
        target, _ = nearest_format(frame.format.name)
        if turned and target.log2_chroma_w != target.log2_chroma_h:
            target = FORMATS[target.name.replace("422", "444")]  # else the chroma would be halved the wrong way
        # Not for filters, which look at tags that a new picture does not have, nor bottom up.
        folded = not steps and frame.format.name in FOLDED and frame.planes[0].line_size > 0
        picture = unfolded(frame, target) if folded else self._converter.planar(frame, target)
        key = (steps, picture.format.name, picture.width, picture.height, colour)
        ready = self.flush() if key != self._key else []
        self._key = key
        if not steps:
            return [*ready, (Picture(picture, target, colour, False), belonging)]
        if self._graph is None:
            self._graph = _graph(picture, steps)
        self._within.append((belonging, target, colour, turned))
        self._graph.vpush(picture)
        return ready + self._pull()

    def _turn_of(self, frame: av.VideoFrame) -> tuple[str, ...]:
        """As `turn_filters`, which is asked again only where the angle, the size or the format changes."""
        seen = (frame.rotation, frame.format.name, frame.width, frame.height)
        if seen != self._seen:
            self._seen, self._turn = seen, turn_filters(frame)
        return self._turn

    def flush(self) -> list[tuple[Picture, T]]:
        """What is still inside, at the end or before a change."""
        if self._graph is None:
            return []
        self._graph.vpush(None)
        ready = self._pull()
        self._graph = None
        self._within.clear()
        return ready

    def _pull(self) -> list[tuple[Picture, T]]:
        assert self._graph is not None
        ready: list[tuple[Picture, T]] = []
        while self._within:
            try:
                picture = self._graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                break
            belonging, target, colour, turned = self._within.popleft()
            ready.append((Picture(self._converter.planar(picture, target), target, colour, turned), belonging))
        return ready


def _graph(picture: av.VideoFrame, steps: tuple[str, ...]) -> Graph:
    graph = Graph()
    graph.threads = 1
    nodes = [
        graph.add(
            "buffer",
            video_size=f"{picture.width}x{picture.height}",
            pix_fmt=picture.format.name,
            time_base="1/1000000",
            pixel_aspect="1/1",
            colorspace=str(picture.colorspace),
            range=str(picture.color_range),
        )
    ]
    for step in steps:
        filter_name, _, arguments = step.partition("=")
        nodes.append(graph.add(filter_name, arguments or None))
    nodes.append(graph.add("buffersink"))
    graph.link_nodes(*nodes).configure()
    return graph
