"""A file for every frame: rendered pictures as PNG or JPEG, labels as indexed PNG."""

from __future__ import annotations

import io
import logging
import os
import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image

from pipeline.errors import ConfigError, SinkError
from pipeline.frame import Frame, Result
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.files import PartFile
from pipeline.sinks.picture import Canvas, range_code, scaler_matrix
from pipeline.sinks.places import make_directory, refuse_input, remove_directories
from pipeline.sinks.target import cannot_write, commit
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)
_NUMBER = re.compile(r"%(?:0\d+)?d")


class PictureCoder(Protocol):
    """Makes one file's bytes of one result."""

    def encode(self, result: Result, info: OutputInfo) -> bytes:
        """The whole file."""


@dataclass(frozen=True, slots=True)
class ImageNames:
    """How the files are called.

    Attributes:
        directory: where they lie.
        template: their name, with one ``%06d`` or the like for the frame's index; without it there
            is room for a single frame.
        own: the directory is the output itself, not only the place of its files.

    Raises:
        ConfigError: more than one number in the name, or another use of ``%``.
    """

    directory: Path
    template: str
    own: bool = False

    def __post_init__(self) -> None:
        numbers = len(_NUMBER.findall(self.template))
        if numbers > 1 or "%" in _NUMBER.sub("", self.template).replace("%%", ""):
            raise ConfigError(f"{self.template!r}: write the frame's number once, as %06d, and any other % as %%")

    @property
    def single(self) -> bool:
        """There is room for one frame only."""
        return not _NUMBER.search(self.template)

    def path(self, index: int) -> Path:
        """The file of a frame."""
        return self.directory / (self.template.replace("%%", "%") if self.single else self.template % index)


class _Indices:
    """Frame indices, a bit each: a live run never ends, and dropped frames leave gaps."""

    _CHUNK = 4096

    def __init__(self) -> None:
        self._chunks: dict[int, int] = {}

    def add(self, index: int) -> None:
        chunk, bit = divmod(index, self._CHUNK)
        self._chunks[chunk] = self._chunks.get(chunk, 0) | 1 << bit

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def __contains__(self, index: int) -> bool:
        chunk, bit = divmod(index, self._CHUNK)
        return bool(self._chunks.get(chunk, 0) >> bit & 1)

    def __iter__(self) -> Iterator[int]:
        for chunk, bits in self._chunks.items():
            yield from (chunk * self._CHUNK + bit for bit in range(bits.bit_length()) if bits >> bit & 1)


class ImageSink:
    """Writes every picture beside its final name and renames it at once, so that each one seen is whole.

    The files are numbered by the frame's index in its stream: a picture and a mask of one number
    belong together, also where live frames were dropped.  Files of those names are replaced, others
    stay.  A picture that replaces a file of before the run is renamed only by `close`, so that an
    aborted run takes nothing away.  Pixels are written as they are; what their aspect is, only PNG can tell.

    Args:
        name: the output as the user named it.
        names: how the files are called.
        coder: makes their bytes.
    """

    def __init__(self, name: str, names: ImageNames, coder: PictureCoder) -> None:
        self._name = name
        self._names = names
        self._coder = coder
        self._info: OutputInfo | None = None
        self._made: list[Path] = []
        self._written = _Indices()
        self._held: deque[PartFile] = deque()

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return self._name

    def open(self, info: OutputInfo) -> None:
        """Make the directory and see that files can be made in it."""
        refuse_input(self._name, self._names.path(0) if self._names.single else self._names.directory, info.stream.uri)
        try:
            self._made = make_directory(self._names.directory, own=self._names.own)
            PartFile(self._names.path(0), self._name).discard()
        except OSError as error:
            raise cannot_write(self._name, error) from error
        except SinkError:
            self.abort()
            raise
        self._info = info

    def write(self, result: Result) -> None:
        """Write one file."""
        if self._info is None:
            raise SinkError(f"{self._name} is not open")
        if self._names.single and (self._written or self._held):
            raise self._too_many()
        try:
            data = self._coder.encode(result, self._info)
        except (av.FFmpegError, OSError, ValueError) as error:  # larger than the format can hold
            raise cannot_write(f"{self._name} ({result.frame.width}×{result.frame.height})", error) from error
        path = self._names.path(result.index)
        target = PartFile(path, self._name)
        target.write(data)
        if os.path.lexists(path) and result.index not in self._written:
            self._held.append(target)
            target.finish()
        else:
            commit(target)
            self._written.add(result.index)

    def _too_many(self) -> SinkError:
        stem, dot, suffix = self._names.template.rpartition(".")
        return SinkError(f"{self._name} holds one picture and there are more: name it {stem}_%06d{dot}{suffix}")

    def write_audio(self, audio: AudioPacket) -> None:
        """Pictures are silent."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Every file has its own size."""
        self._info = info

    def close(self) -> None:
        """Replace the files that were there before; without a single picture the directory goes again."""
        if self._info is not None and not (self._written or self._held):
            _LOG.warning("%s: no picture came, nothing is written", self._name)
            self.abort()
        try:
            while self._held:
                self._held[0].publish()
                self._held.popleft()  # the old file is gone: whatever comes, this one stays
        except SinkError:
            self.abort()
            raise
        self._forget()

    def abort(self) -> None:
        """Remove the files that were written, and the directories made for them; what was there before stays."""
        for target in self._held:
            target.discard()
        for index in self._written:
            with suppress(OSError):
                self._names.path(index).unlink()
        remove_directories(self._made)
        self._forget()

    def _forget(self) -> None:
        self._info = None
        self._made = []
        self._written = _Indices()
        self._held.clear()


class _ToRgb:
    """Frames as packed 8-bit sRGB-coded pictures, by the frame's own matrix and range."""

    def __init__(self) -> None:
        self._canvas: Canvas | None = None
        self._scaler = VideoReformatter()

    def __call__(self, frame: Frame) -> av.VideoFrame:
        canvas = self._canvas
        if canvas is None or (canvas.width, canvas.height, canvas.layout) != (
            frame.width,
            frame.height,
            frame.format.name,
        ):
            canvas = self._canvas = Canvas(frame.width, frame.height, frame.format.name)
        return self._scaler.reformat(
            canvas.fill(frame.planes),
            format="rgb24",
            src_colorspace=scaler_matrix(frame.colour),
            src_color_range=range_code(frame.colour),
            dst_color_range=2,
            interpolation=Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND,
            threads=1,
        )


class PngCoder:
    """Rendered pictures as PNG, compressed quickly (5 ms at 640×360; the best takes ten times that for 20 %)."""

    def __init__(self) -> None:
        self._to_rgb = _ToRgb()
        self._context: av.VideoCodecContext | None = None

    def encode(self, result: Result, info: OutputInfo) -> bytes:  # noqa: ARG002
        """One PNG file."""
        picture = self._to_rgb(result.frame)
        context = self._context
        if context is None or (context.width, context.height) != (picture.width, picture.height):
            context = self._context = self._open(result.frame)
        picture.pts = result.index
        return b"".join(bytes(packet) for packet in context.encode(picture))

    @staticmethod
    def _open(frame: Frame) -> av.VideoCodecContext:
        context = av.CodecContext.create("png", "w")
        assert isinstance(context, av.VideoCodecContext)
        context.width, context.height, context.pix_fmt = frame.width, frame.height, "rgb24"
        context.time_base = Fraction(1, 25)
        context.sample_aspect_ratio = frame.sample_aspect_ratio
        context.thread_count = 1  # more would hold pictures back
        context.options = {"compression_level": "1", "pred": "up"}
        return context


class JpegCoder:
    """Rendered pictures as JPEG.

    Args:
        quality: on the common scale, 0 (best) to 51 (worst).
    """

    def __init__(self, quality: float) -> None:
        self._to_rgb = _ToRgb()
        # Fitted to equal PSNR with x264 at CRF 18 to 30 on a street video.
        self._quality = max(5, round(100 - 40 * (quality / 30) ** 5))

    def encode(self, result: Result, info: OutputInfo) -> bytes:  # noqa: ARG002
        """One JPEG file."""
        file = io.BytesIO()
        Image.fromarray(self._to_rgb(result.frame).to_ndarray()).save(file, "JPEG", quality=self._quality)
        return file.getvalue()


class IndexedPngCoder:
    """Labels as PNG of mode P: the pixels are the class indices, the palette the classes' colours."""

    def encode(self, result: Result, info: OutputInfo) -> bytes:
        """One PNG file."""
        # All 256 entries: with fewer, fewer bits a pixel are written and other labels lost.
        palette = np.zeros((256, 3), np.uint8)
        palette[: len(info.labels)] = info.labels.palette
        image = Image.fromarray(np.ascontiguousarray(result.labels))
        image.putpalette(palette.tobytes())
        file = io.BytesIO()
        image.save(file, "PNG", compress_level=3)
        return file.getvalue()
