"""The sheet that shows one frame's way: its steps in a row, the classes' probabilities below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from engines.labels import RGB
from pipeline.frame import Float32, UInt8
from pipeline.stages.lettering import font_for

WIDTH = 1920
MAX_CLASSES = 18
"""As many as three rows hold; the classes with the least of the picture are left out."""

_MARGIN, _ARROW, _GAP = 40, 44, 16
_ACROSS = 6
_INK, _SOFT, _PAPER = (24, 26, 30), (112, 116, 124), (255, 255, 255)

# Matplotlib's "magma" (van der Walt and Smith, CC0), at nine points.
_MAGMA = np.array(
    [
        (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
        (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
    ],
    np.float64,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One picture of the row at the top.

    Attributes:
        title: what it is, in a word or two.
        detail: one more line about it.
        picture: H×W×3 RGB; a coarse one is shown as the cells that it has.
    """

    title: str
    detail: str
    picture: UInt8


@dataclass(frozen=True, slots=True)
class ClassMap:
    """Where the network sees one class.

    Attributes:
        name, colour: of the class.
        share: of the picture, 0 to 1.
        picture: h×w×3 RGB, see `heat`.
    """

    name: str
    colour: RGB
    share: float
    picture: UInt8


def heat(shares: Float32) -> UInt8:
    """Values of 0 to 1 as RGB, dark to bright."""
    at = np.clip(shares, 0, 1) * (len(_MAGMA) - 1)
    channels = [np.interp(at, np.arange(len(_MAGMA)), _MAGMA[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def scaled(picture: UInt8, width: int, height: int) -> Image.Image:
    """The picture at a size; cells stay cells."""
    grows = width > 2 * picture.shape[1]
    kind = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
    return Image.fromarray(picture).resize((width, height), kind)


def sheet(heading: str, subtitle: str, steps: Sequence[Step], maps: Sequence[ClassMap], aspect: float) -> Image.Image:
    """Draw it all.

    Args:
        heading, subtitle: two lines at the top.
        steps: the row of large pictures.
        maps: the classes, in the order in which they shall stand.
        aspect: width : height of every picture as it is shown.
    """
    large = (WIDTH - 2 * _MARGIN - (len(steps) - 1) * _ARROW) // len(steps)
    small = (WIDTH - 2 * _MARGIN - (_ACROSS - 1) * _GAP) // _ACROSS
    large_height, small_height = (max(1, round(width / aspect)) for width in (large, small))
    rows = -(-len(maps) // _ACROSS)
    steps_top = _MARGIN + 84
    maps_top = steps_top + large_height + 116
    height = maps_top + rows * (small_height + 46) + _MARGIN // 2
    page = _Page(height)
    page.text(_MARGIN, _MARGIN - 8, heading, 34)
    page.text(_MARGIN, _MARGIN + 38, subtitle, 20, _SOFT)
    for number, step in enumerate(steps):
        x = _MARGIN + number * (large + _ARROW)
        page.picture(scaled(step.picture, large, large_height), x, steps_top)
        page.text(x, steps_top + large_height + 8, step.title, 23)
        page.text(x, steps_top + large_height + 36, step.detail, 17, _SOFT)
        if number:
            page.arrow(x - _ARROW // 2, steps_top + large_height // 2)
    page.scale(maps_top - 40, "Probability of each class, in the cells of the score grid")
    for number, one in enumerate(maps):
        x = _MARGIN + number % _ACROSS * (small + _GAP)
        y = maps_top + number // _ACROSS * (small_height + 46)
        page.picture(scaled(one.picture, small, small_height), x, y)
        page.chip(x, y + small_height + 11, one.colour)
        page.text(x + 22, y + small_height + 6, one.name, 19)
        page.text(x + small, y + small_height + 6, _percent(one.share), 19, _SOFT, right=True)
    return page.image


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else f"{share:.1%}"


class _Page:
    """A white sheet and the few things that are drawn on it."""

    def __init__(self, height: int) -> None:
        self.image = Image.new("RGB", (WIDTH, height), _PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: int, y: int, text: str, size: int, colour: RGB = _INK, *, right: bool = False) -> None:
        """A line, its upper left (or right) corner at a point."""
        self._draw.text((x, y), text, colour, font_for(text, size), anchor="ra" if right else "la")

    def picture(self, picture: Image.Image, x: int, y: int) -> None:
        """A picture with a thin frame."""
        self.image.paste(picture, (x, y))
        self._draw.rectangle((x - 1, y - 1, x + picture.width, y + picture.height), outline=(205, 208, 214))

    def chip(self, x: int, y: int, colour: RGB) -> None:
        """A little square of a class's colour."""
        self._draw.rounded_rectangle((x, y, x + 14, y + 14), 3, colour)

    def arrow(self, x: int, y: int) -> None:
        """From one step to the next, around a point."""
        self._draw.line((x - 13, y, x + 8, y), _SOFT, 3)
        self._draw.polygon([(x + 14, y), (x + 4, y - 7), (x + 4, y + 7)], _SOFT)

    def scale(self, y: int, title: str) -> None:
        """A title with the colours of 0 to 1 at its right."""
        self.text(_MARGIN, y, title, 23)
        ramp = heat(np.tile(np.linspace(0, 1, 200, dtype=np.float32), (14, 1)))
        x = WIDTH - _MARGIN - 220
        self.image.paste(Image.fromarray(ramp), (x, y + 8))
        self.text(x - 16, y + 4, "0", 18, _SOFT)
        self.text(WIDTH - _MARGIN, y + 4, "1", 18, _SOFT, right=True)
