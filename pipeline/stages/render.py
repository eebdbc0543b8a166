"""Labels made visible: colours laid over the picture, in the planes that the encoder wants.

Nothing is converted to RGB and back: the palette is converted to the picture's own matrix,
range and depth instead, once, and blended with the samples.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from engines.labels import RGB, LabelSet
from pipeline import _native
from pipeline.errors import ConfigError
from pipeline.frame import Colour, Frame, PixelFormat, Plane, UInt8
from pipeline.stages.colour import rgb_to_yuv
from pipeline.stages.legend import Legend
from pipeline.stages.upsample import Counts

Mode = Literal["overlay", "mask", "side-by-side"]

Planes = tuple[Plane, Plane, Plane]

_BLACK: RGB = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How results are shown.

    Attributes:
        mode: ``"overlay"`` (colours over the picture), ``"mask"`` (colours alone) or
            ``"side-by-side"`` (the picture, and the overlay to its right).
        alpha: opacity of the colours in an overlay, 0 to 1.
        classes: names of the classes to show, or None for all but the background; in an
            overlay the others leave the picture as it is, in a mask they are black.
        legend: draw class names with their shares of the picture.
    """

    mode: Mode = "overlay"
    alpha: float = 0.5
    classes: tuple[str, ...] | None = None
    legend: bool = True

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"render {self.mode!r} is unknown: choose from {', '.join(get_args(Mode))}")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"alpha {self.alpha} is out of range: 0 (invisible) to 1 (opaque)")


class Renderer:
    """Paints one stream's results, in their order; holds its palettes and its legend."""

    def __init__(self, labels: LabelSet, options: RenderOptions | None = None) -> None:
        """Decide what is shown.

        Args:
            labels: names and colours of the classes.
            options: see `RenderOptions`.

        Raises:
            ConfigError: a class that is shown has a name that the labels do not know.
        """
        self._options = options or RenderOptions()
        self._classes = len(labels)
        self._shown = _shown(labels, self._options)
        self._legend = Legend(self._listed(labels)) if self._options.legend else None
        self._paints: dict[tuple[Colour, int], NDArray[np.uint32]] = {}

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of what is painted from a picture of this size.

        Side by side, a picture of odd width is first continued by a column, so that the
        halves meet between two chroma samples.
        """
        if self._options.mode == "side-by-side":
            return height, 2 * (width + width % 2)
        return height, width

    def render(self, frame: Frame, labels: UInt8, counts: Counts) -> Frame:
        """Paint one frame.

        Args:
            frame: the picture as decoded; it is not changed.
            labels: H×W uint8 at the frame's size; a value that is no class is not shown.
            counts: C pixels a class, as `pipeline.stages.upsample.upsample_argmax` gives them.

        Returns:
            The frame with new planes of its own, rows contiguous, of `output_size`, and its
            colour's matrix decided (`Colour.resolved`).

        Raises:
            ValueError: planes, labels or counts of a wrong shape, type or layout.
        """
        if counts.shape != (self._classes,):
            raise ValueError(f"counts are {counts.shape}, not one for each of {self._classes} classes")
        colour = frame.colour.resolved(frame.height)
        height, width = self.output_size(frame.height, frame.width)
        planes = new_planes(frame.format, height, width)
        half = planes
        if self._options.mode == "side-by-side":
            half = self._place_beside(frame, planes)
        paint = self._paint(colour, frame.format.depth)
        shifts = frame.format.log2_chroma_w, frame.format.log2_chroma_h
        _native.overlay(*frame.planes, *shifts, labels, paint, *half)
        if half is not planes and frame.width % 2:
            _repeat_column(planes, width - 1)
        if self._legend is not None:
            self._legend.draw(half, frame.format, colour, counts / labels.size, frame.pts)
        return replace(frame, planes=planes, colour=colour)

    def _listed(self, labels: LabelSet) -> dict[int, tuple[str, RGB]]:
        """The classes that the legend may name: what is shown, but for an unasked background."""
        unasked = labels.background if self._options.classes is None else None
        return {index: (labels.names[index], rgb) for index, rgb in self._shown.items() if index != unasked}

    def _place_beside(self, frame: Frame, planes: Planes) -> Planes:
        """Copy the picture to the left, and give views of the picture's size to the right."""
        beside = []
        for ours, theirs in zip(planes, frame.planes, strict=True):
            start, columns = ours.shape[1] // 2, theirs.shape[1]
            np.copyto(ours[:, :columns], theirs)
            beside.append(ours[:, start : start + columns])
        if frame.width % 2:
            _repeat_column(planes, frame.width)
        return (beside[0], beside[1], beside[2])

    def _paint(self, colour: Colour, depth: int) -> NDArray[np.uint32]:
        """256×4 uint32: what each label keeps of a sample, and adds to Y, U and V; see the kernel."""
        paint = self._paints.get((colour, depth))
        if paint is None:
            one = 256 if depth == 8 else 1 << 14
            paint = np.zeros((256, 4), np.uint32)
            mask = self._options.mode == "mask"
            paint[:, 0] = 0 if mask else one
            paint[:, 1:] = _samples(_BLACK, colour, depth, one) if mask else 0
            for index, rgb in self._shown.items():
                alpha = one if mask else round(self._options.alpha * one)
                paint[index] = (one - alpha, *_samples(rgb, colour, depth, alpha))
            self._paints[colour, depth] = paint
        return paint


def new_planes(layout: PixelFormat, height: int, width: int) -> Planes:
    """Fresh planes of a picture, contiguous, not filled."""
    y, u, v = (np.empty(shape, layout.dtype) for shape in layout.plane_shapes(height, width))
    return (y, u, v)


def _samples(rgb: RGB, colour: Colour, depth: int, scale: int) -> tuple[int, int, int]:
    """Y, U, V of a palette colour times ``scale``, rounded."""
    y, u, v = np.rint(rgb_to_yuv(colour, depth) @ np.array([*rgb, 1.0]) * scale).astype(int).tolist()
    return (y, u, v)


def _shown(labels: LabelSet, options: RenderOptions) -> dict[int, RGB]:
    """Colour by index of the classes that are shown."""
    if options.classes is None:
        hidden = labels.background if options.mode != "mask" else None
        return {index: rgb for index, rgb in enumerate(labels.palette) if index != hidden}
    chosen = {}
    for name in options.classes:
        if name not in labels.names:
            close = difflib.get_close_matches(name, labels.names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"class {name!r} is unknown: {hint}this model knows {', '.join(labels.names)}")
        index = labels.names.index(name)
        chosen[index] = labels.palette[index]
    return chosen


def _repeat_column(planes: Planes, column: int) -> None:
    """Fill one luma column (and its chroma in 4:4:4) from its left neighbour."""
    for plane in planes:
        if plane.shape[1] == planes[0].shape[1]:
            plane[:, column] = plane[:, column - 1]
