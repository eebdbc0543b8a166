"""Still pictures as a stream: a directory, a glob, a numbered pattern, a single one."""

from __future__ import annotations

import io
import logging
import re
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext
from PIL import Image

from pipeline.errors import SourceError
from pipeline.frame import Frame
from pipeline.sources.base import AudioPacket, Decoded, Outages, StreamInfo
from pipeline.sources.pictures import MAX_PIXELS, MAX_SIDE, Picture, Upright, pixel_aspect, plane_views

_log = logging.getLogger(__name__)

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff"))
"""Endings of image files, in lower case."""

_CODECS = (
    (b"\xff\xd8", "mjpeg"),
    (b"\x89PNG", "png"),
    (b"BM", "bmp"),
    (b"RIFF", "webp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
)
_ORIENTATION = 0x112
_TURNS: dict[int, tuple[str, ...]] = {
    2: ("hflip",),
    3: ("hflip", "vflip"),
    4: ("vflip",),
    5: ("transpose=cclock_flip",),
    6: ("transpose=clock",),
    7: ("transpose=clock_flip",),
    8: ("transpose=cclock",),
}
"""EXIF orientations as filters that stand the picture upright."""


def natural_key(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Sorts ``2.jpg`` before ``10.jpg``."""
    parts = re.split(r"(\d+)", path.name.casefold())
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts], str(path)


class ImageSource:
    """Images as pictures a fixed time apart; one that cannot be read is counted, logged and left out."""

    def __init__(self, paths: Sequence[Path], *, shown: str, name: str, rate: Fraction, start: Fraction = Fraction(0)):
        """Open: decode the first image.

        Args:
            paths: image files in order, at least one.
            shown: the input as the user named it.
            name: of the input.
            rate: pictures a second; image ``i`` has the time ``i / rate``.
            start: seconds; earlier images are not read.

        Raises:
            SourceError: none of the images can be read.
        """
        self.damaged = 0
        self.repaired = 0
        self.skipped = 0
        self.outages = Outages()
        self.decoder = ""
        self.own_thread_s = 0.0
        self._shown = shown
        self._name = name
        self._rate = rate
        self._first = next((i for i in range(len(paths)) if i / rate >= start), len(paths))
        self._paths = paths
        self._used = self._closed = False
        self._decoders: dict[str, VideoCodecContext] = {}
        self._upright: Upright[None] = Upright(deinterlace=False)
        self._reason = ""
        self._items: Generator[Decoded] = self._play()
        primed = next(self._items, None)
        if primed is None:
            raise SourceError(self._nothing())
        self._primed = [primed]
        first = primed.frame
        self.info = StreamInfo(
            name=name,
            uri=shown,
            height=first.height,
            width=first.width,
            format=first.format,
            colour=first.colour,
            sample_aspect_ratio=first.sample_aspect_ratio,
            time_base=1 / rate,
            average_rate=rate,
            start=Fraction(0),
            duration=len(paths) / rate,
            frames=len(paths),
            live=False,
        )

    def read(self) -> Iterator[Decoded | AudioPacket]:
        """As `Source`."""
        if self._closed or self._used:
            raise SourceError(f"{self._shown}: {'closed' if self._closed else 'read before'}; open it again")
        self._used = True
        return chain(self._primed, self._items)

    def wake(self) -> None:
        """As `Source`; there is nothing to wait for."""

    def close(self) -> None:
        """As `Source`."""
        self._closed = True
        self._items.close()
        self._primed = []
        self._decoders = {}

    def _nothing(self) -> str:
        if self._first == len(self._paths):
            return f"{self._shown}: has no image at the start asked for; choose an earlier one"
        if len(self._paths) == 1:
            return f"{self._paths[0]}: {self._reason}"
        return f"{self._shown}: none of its {len(self._paths)} images can be read; the last: {self._reason}"

    def _play(self) -> Generator[Decoded]:
        index, gap = 0, True
        for position in range(self._first, len(self._paths)):
            path = self._paths[position]
            try:
                picture, ratio = self._decode(path)
            except SourceError as error:
                self._reason = str(error)
                self.damaged += 1
                gap = True
                _log.warning("%s: left out: %s", path, error)
                continue
            yield Decoded(self._frame(picture, ratio, index, position, gap), picture.picture)
            index, gap = index + 1, False

    def _frame(self, picture: Picture, ratio: Fraction, index: int, position: int, gap: bool) -> Frame:
        return Frame(
            planes=plane_views(picture.picture, picture.format),
            format=picture.format,
            colour=picture.colour,
            index=index,
            pts=position / self._rate,
            time_base=1 / self._rate,
            captured_ns=time.monotonic_ns(),
            wall_ns=time.time_ns(),
            source=self._name,
            sample_aspect_ratio=1 / ratio if picture.turned else ratio,
            discontinuity=gap,
        )

    def _decode(self, path: Path) -> tuple[Picture, Fraction]:
        """Decode one file.

        Raises:
            SourceError: the reason, without the file's name.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SourceError(error.strerror or str(error)) from error
        codec = next((codec for magic, codec in _CODECS if data.startswith(magic)), None)
        if codec is None:
            raise SourceError("the file is empty" if not data else "not a JPEG, PNG, BMP, WebP or TIFF image")
        turn = _turn(data)
        decoder = self._decoders.get(codec) or self._new_decoder(codec)
        try:
            frames = decoder.decode(_packet(data))
        except av.FFmpegError as error:
            self._decoders.pop(codec, None)  # what a broken image left in it must not reach the next
            raise SourceError(f"cannot be decoded as {codec} ({error.strerror})") from error
        if not frames:
            self._decoders.pop(codec, None)
            raise SourceError(f"holds no picture ({codec})")
        [(picture, _)] = self._upright.push(frames[0], None, turn)
        return picture, pixel_aspect(decoder.sample_aspect_ratio)

    def _new_decoder(self, codec: str) -> VideoCodecContext:
        decoder = CodecContext.create(codec, "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.thread_count = 1
        decoder.options = {"max_pixels": str(MAX_PIXELS)}
        self._decoders[codec] = decoder
        self.decoder = codec
        return decoder


def _packet(data: bytes) -> av.Packet[Any]:
    """The image as a packet that depends on no other; libav adds the last picture to a PNG without that mark."""
    packet = av.Packet(len(data))  # allocated by libav, with the padding that it reads
    packet.update(data)
    packet.is_keyframe = True
    return packet


def _turn(data: bytes) -> tuple[str, ...]:
    """How to stand the image upright, from its EXIF orientation.

    Raises:
        SourceError: larger than any picture that is taken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the bound below is the one that counts
            image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError:
        raise SourceError(f"above the bound of {MAX_PIXELS:,} pixels") from None
    except (OSError, ValueError, SyntaxError, TypeError, KeyError):
        return ()  # Pillow cannot read it; libav may
    width, height = image.size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise SourceError(f"{width}×{height} is above the bound of {MAX_SIDE} a side and {MAX_PIXELS:,} pixels")
    try:
        # Not image.getexif(): for a PNG that decodes the whole picture first.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError):
        return ()
    return _TURNS.get(orientation, ())
