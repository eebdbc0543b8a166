"""The legend: a colour, a name and a share of the picture for each class in sight.

Text is rasterised once a size, turned into sprites in the stream's own
sample values, and laid over the planes row by row.  What changes from frame to frame is
a few digits, and those are sprites too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, exp

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engines.labels import RGB
from pipeline import _native
from pipeline.frame import Colour, Float32, PixelFormat, Plane
from pipeline.stages.colour import rgb_to_yuv
from pipeline.stages.lettering import font_for

SMOOTHING_S = 0.5
"""Time constant of the shares shown: digits follow the picture within a second and do not dance."""

JUMP = 0.05
"""Share of the picture by which a class must differ from what is shown for all shares to be shown at once: after a cut,
and in pictures that have nothing to do with one another, a mean with the ones before is wrong."""

APPEAR, VANISH = 0.002, 0.001
"""Shares of the picture from which a class is listed, and below which it is no longer."""

_BOX_COLOUR, _BOX_ALPHA = (16, 18, 22), 0.62
_TEXT_COLOUR = (245, 245, 245)
_FONT_SHARE, _SMALLEST_FONT = 0.033, 11  # of the short side; pixels
_WIDEST = 0.6  # of the picture: longer names are cut


class Legend:
    """Draws the legend of one stream; remembers shares between its frames.

    Attributes:
        classes: index, name and colour of the classes that may be listed, in their order.
    """

    def __init__(self, classes: Mapping[int, tuple[str, RGB]]) -> None:
        self.classes = dict(classes)
        self._shares: dict[int, float] = {}
        self._listed: set[int] = set()
        self._last: Fraction | None = None
        self._board: _Board | None = None

    def draw(
        self,
        planes: tuple[Plane, Plane, Plane],
        layout: PixelFormat,
        colour: Colour,
        shares: NDArray[np.float64],
        pts: Fraction,
    ) -> None:
        """Draw onto a picture, in place, at its top left.

        Nothing is drawn where not even one row has room.

        Args:
            planes: Y, U, V to draw on; views of a larger picture will do, as long as luma and chroma begin together.
            layout: of the planes.
            colour: of the planes, its matrix decided.
            shares: share of the picture by class, C floats.
            pts: time of the picture in seconds; going back, a gap, or shares that differ by a `JUMP` forget what was.

        Raises:
            ValueError: planes do not fit the layout.
        """
        self._follow(shares, pts)
        height, width = planes[0].shape
        key = (height, width, layout, colour)
        if self._board is None or self._board.key != key:
            self._board = _Board(self.classes, *key)
        listed = sorted(self._listed, key=lambda index: -self._shares[index])[: self._board.room]
        self._board.draw(planes, [(index, self._shares[index]) for index in sorted(listed)])

    def _follow(self, shares: NDArray[np.float64], pts: Fraction) -> None:
        elapsed = None if self._last is None else float(pts - self._last)
        self._last = pts
        fresh = elapsed is None or not 0 <= elapsed < 4 * SMOOTHING_S or self._jumps(shares)
        step = 1.0 if elapsed is None or fresh else 1 - exp(-elapsed / SMOOTHING_S)
        for index in self.classes:
            before = self._shares.get(index, 0.0)
            share = before + step * (float(shares[index]) - before)
            self._shares[index] = share
            if share >= APPEAR:
                self._listed.add(index)
            elif share < VANISH or fresh:
                self._listed.discard(index)

    def _jumps(self, shares: NDArray[np.float64]) -> bool:
        return any(abs(float(shares[index]) - self._shares.get(index, 0.0)) > JUMP for index in self.classes)


@dataclass(slots=True)
class _Sprite:
    """What to keep of the samples below and what to add, by plane; see `_native.composite`."""

    keep: tuple[NDArray[np.uint16], ...]
    add: tuple[NDArray[np.uint32], ...]

    def copy(self) -> _Sprite:
        return _Sprite(tuple(k.copy() for k in self.keep), tuple(a.copy() for a in self.add))


class _Board:
    """The legend's sprites for one size and kind of picture.

    All lengths are even, so that sprites begin and end with whole chroma samples.
    """

    def __init__(
        self, classes: Mapping[int, tuple[str, RGB]], height: int, width: int, layout: PixelFormat, colour: Colour
    ) -> None:
        self.key = (height, width, layout, colour)
        self._layout, self._matrix = layout, rgb_to_yuv(colour, layout.depth)
        size = max(_SMALLEST_FONT, round(min(height, width) * _FONT_SHARE))
        self._font = font_for("0123456789<%…" + "".join(name for name, _ in classes.values()), size)
        self._line = _even(size * 1.42)
        self._pad = _even(size * 0.6)
        self._margin = _even(size * 0.75)
        self._digit = max(self._font.getlength(d) for d in "0123456789")
        self._number_width = _even(2 * self._digit + self._font.getlength("<%") + 2)
        self._name_left = self._pad + round(size * 1.35)
        names = {index: name for index, (name, _) in classes.items()}
        longest = max((self._font.getlength(name) for name in names.values()), default=0.0)
        fixed = self._name_left + size * 0.7 + self._number_width + self._pad
        widest = int(_WIDEST * width) - fixed
        self._width = 2 * ceil((fixed + min(longest, max(widest, 4 * self._digit))) / 2)
        self._names = {index: self._cut(name, self._width - fixed) for index, name in names.items()}
        self._colours = {index: rgb for index, (_, rgb) in classes.items()}
        rows = (height - 2 * self._margin - 2 * self._pad) // self._line
        self.room = max(0, rows) if self._width + 2 * self._margin <= width else 0
        self._top, self._bottom = (self._edge(flip) for flip in (False, True))
        self._numbers: dict[str, _Sprite] = {}
        self._rows: dict[int, _Sprite] = {}
        self._written: dict[int, int] = {}

    def draw(self, planes: tuple[Plane, ...], rows: list[tuple[int, float]]) -> None:
        """Lay the box with a row for each (class, share) over the planes."""
        if not rows or self.room == 0:
            return
        y = self._margin
        sprites = [self._top, *(self._row(index, share) for index, share in rows), self._bottom]
        for sprite in sprites:
            for p, plane in enumerate(planes):
                shift_x, shift_y = self._shifts(p)
                keep = sprite.keep[p]
                top, left = y >> shift_y, self._margin >> shift_x
                part = plane[top : top + keep.shape[0], left : left + keep.shape[1]]
                _native.composite(part, keep, sprite.add[p])
            y += sprite.keep[0].shape[0]

    def _row(self, index: int, share: float) -> _Sprite:
        percent = 100 * share
        shown = self._written.get(index)
        # A number stays until the share has left it clearly: 41.5 must not flicker.
        if shown is None or abs(percent - shown) > 0.65:
            shown = round(percent)
        row = self._rows.get(index)
        if row is None:
            row = self._rows[index] = self._name(index)
            self._written.pop(index, None)
        if self._written.get(index) != shown:
            self._written[index] = shown
            self._place(row, self._number(f"{shown}%" if shown else "<1%"))
        return row

    def _place(self, row: _Sprite, number: _Sprite) -> None:
        """Write a number's sprite at the right of a row's."""
        for p in range(3):
            left = (self._width - self._pad - self._number_width) >> self._shifts(p)[0]
            columns = slice(left, left + number.keep[p].shape[1])
            row.keep[p][:, columns] = number.keep[p]
            row.add[p][:, columns] = number.add[p]

    def _name(self, index: int) -> _Sprite:
        """A row with the class's colour and name, the number still missing."""
        canvas = _Canvas(self._line, self._width)
        side = round(self._line * 0.56)
        top = (self._line - side) // 2
        swatch = (self._pad, top, self._pad + side, top + side)
        radius = side * 0.22
        canvas.paint(_rounded(self._line, self._width, swatch, radius), (255, 255, 255), 0.55)
        edge = max(1, round(side / 14))
        inner = (swatch[0] + edge, swatch[1] + edge, swatch[2] - edge, swatch[3] - edge)
        canvas.paint(_rounded(self._line, self._width, inner, radius - edge / 2), self._colours[index], 1.0)
        text = _mask(self._line, self._width)
        ImageDraw.Draw(text).text((self._name_left, self._baseline), self._names[index], 255, self._font, "ls")
        canvas.paint(_coverage(text), _TEXT_COLOUR, 1.0)
        return self._sprite(canvas)

    def _number(self, text: str) -> _Sprite:
        """A number, right-aligned, every digit in a cell of the same width."""
        sprite = self._numbers.get(text)
        if sprite is None:
            mask = _mask(self._line, self._number_width)
            draw, right = ImageDraw.Draw(mask), float(self._number_width - 1)
            for character in reversed(text):
                cell = self._digit if character.isdigit() else self._font.getlength(character)
                draw.text((right - cell / 2, self._baseline), character, 255, self._font, "ms")
                right -= cell
            canvas = _Canvas(self._line, self._number_width)
            canvas.paint(_coverage(mask), _TEXT_COLOUR, 1.0)
            sprite = self._numbers[text] = self._sprite(canvas)
        return sprite

    def _edge(self, flip: bool) -> _Sprite:
        """The box's rounded upper edge, or its lower one."""
        box = (0, 0, self._width, 4 * self._pad)
        shape = _rounded(4 * self._pad, self._width, box, self._pad * 0.8)
        canvas = _Canvas(self._pad, self._width, shape[-self._pad :] if flip else shape[: self._pad])
        return self._sprite(canvas)

    def _cut(self, name: str, room: float) -> str:
        if self._font.getlength(name) <= room + 0.5:
            return name
        while name and self._font.getlength(name + "…") > room:
            name = name[:-1]
        return name + "…"

    @property
    def _baseline(self) -> int:
        """Where letters stand: capitals are centred in the line."""
        top = self._font.getbbox("H", anchor="ls")[1]
        return round((self._line - top) / 2)

    def _shifts(self, plane: int) -> tuple[int, int]:
        return (self._layout.log2_chroma_w, self._layout.log2_chroma_h) if plane else (0, 0)

    def _sprite(self, canvas: _Canvas) -> _Sprite:
        """The canvas in sample values: affine in RGB, so alpha-weighted colours convert as they are."""
        one = 256 if self._layout.depth == 8 else 1 << 14
        height, width = canvas.keep.shape
        keeps, adds = [], []
        for p in range(3):
            coefficients, offset = self._matrix[p, :3], self._matrix[p, 3]
            add = canvas.colour @ coefficients + offset * (1 - canvas.keep)
            sx, sy = self._shifts(p)
            shape = (height >> sy, 1 << sy, width >> sx, 1 << sx)
            keeps.append(np.rint(canvas.keep.reshape(shape).mean((1, 3)) * one).astype(np.uint16))
            adds.append(np.rint(np.maximum(add.reshape(shape).mean((1, 3)), 0) * one).astype(np.uint32))
        return _Sprite(tuple(keeps), tuple(adds))


class _Canvas:
    """Paint in RGB over an unknown picture: how much of it shows, and the colour laid over it."""

    def __init__(self, height: int, width: int, box: Float32 | None = None) -> None:
        self.keep = np.ones((height, width))
        self.colour = np.zeros((height, width, 3))
        self.paint(np.ones((height, width), np.float32) if box is None else box, _BOX_COLOUR, _BOX_ALPHA)

    def paint(self, coverage: Float32, rgb: RGB, alpha: float) -> None:
        """Lay a colour over what is there, as far as ``coverage`` (H×W, 0–1) goes."""
        over = coverage * alpha
        self.keep *= 1 - over
        self.colour = self.colour * (1 - over)[..., None] + over[..., None] * np.array(rgb, float)


def _even(length: float) -> int:
    return 2 * max(1, round(length / 2))


def _mask(height: int, width: int) -> Image.Image:
    return Image.new("L", (width, height))


def _coverage(mask: Image.Image) -> Float32:
    return np.asarray(mask, np.float32) / np.float32(255)


def _rounded(height: int, width: int, box: tuple[int, int, int, int], radius: float) -> Float32:
    """Coverage of a rounded rectangle (left, top, right, bottom), smoothed by drawing it four times as large."""
    left, top, right, bottom = box
    large = _mask(4 * (bottom - top), 4 * (right - left))
    corner = (large.width - 1, large.height - 1)
    ImageDraw.Draw(large).rounded_rectangle((0, 0, *corner), 4 * max(radius, 0.0), 255)
    coverage = np.zeros((height, width), np.float32)
    coverage[top:bottom, left:right] = _coverage(large.resize((right - left, bottom - top), Image.Resampling.BOX))
    return coverage
