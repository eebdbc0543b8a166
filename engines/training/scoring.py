"""Scores of single pictures: as the stream would get them, or the mean over several scales and mirrored pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import ColorRange, Colorspace

from engines.base import Engine, EngineError, Model
from engines.facts import SIZES
from engines.training.datasets import Sample, UInt8, read_sample
from pipeline.frame import Colour, Float32, Geometry
from pipeline.stages.prepare import geometry_for, prepare

TIMEOUT = 600.0
"""Seconds that a single picture may take."""

PICTURE_COLOUR = Colour(space=6, full_range=True)
"""BT.601 at full range: what pictures are turned into on their way to the stream's own scaling."""

Size = int | Literal["own"]
"""Short side of the network's picture in pixels, or each picture's own: published figures are measured so."""

LEAST = np.float32(1e-30)
"""A probability whose logarithm is still a number."""


@dataclass(frozen=True, slots=True)
class _Picture:
    """The shape of a labelled picture, whose pixels are square."""

    height: int
    width: int
    sample_aspect_ratio: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Views:
    """How often and in which sizes the network sees a picture.

    Attributes:
        scales: by which the network's own size is multiplied.
        flip: each is seen mirrored, too.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if (
            not self.scales
            or len(set(self.scales)) != len(self.scales)
            or not all(0 < each <= 8 for each in self.scales)
        ):
            raise ValueError("scales are different numbers above 0 and up to 8")

    @property
    def single(self) -> bool:
        """Whether a picture is seen once, as it is."""
        return self.scales == (1.0,) and not self.flip

    def sizes(self, model: Model, size: int) -> list[int]:
        """Short side of each scale, in pixels.

        Raises:
            EngineError: one is out of range, or the model takes no size but its own.
        """
        found = [round(size * scale) for scale in self.scales]
        if model.fixed_size is not None and self.scales != (1.0,):
            raise EngineError(f"--scales: {model.name} takes pictures of one size alone: leave it out")
        if not all(SIZES[0] <= each <= SIZES[1] for each in found):
            raise EngineError(
                f"--scales: {min(found)} to {max(found)} pixels are out of range: {SIZES[0]} to {SIZES[1]}"
            )
        return found


def labelled_pictures(
    samples: Sequence[Sample], classes: int, ignore: Sequence[int] = ()
) -> Iterator[tuple[UInt8, UInt8]]:
    """RGB pictures, H×W×3, and their labels, H×W with 255 for none; the next is read while one is in use.

    Raises:
        EngineError: a file cannot be used.
    """
    none = sorted({classes, *ignore} - {255})
    return _ahead(lambda sample: read_sample(sample, classes, none), samples)


def score(engine: Engine, image: UInt8, size: Size) -> tuple[Float32, Geometry]:
    """Scores of one picture, as the stream would get them.

    Args:
        engine: the network.
        image: RGB, H×W×3.
        size: of the network's picture.

    Returns:
        C×h×w logits, and where they lie in the picture.

    Raises:
        EngineError: the network failed.
    """
    geometry = picture_geometry(engine.model, image, size)
    session = engine.session(geometry.input_height, geometry.input_width)
    scores = np.empty(session.score_shape, np.float32)
    session.start(network_picture(image, geometry), scores).wait(TIMEOUT)
    return scores, geometry


def score_views(engine: Engine, image: UInt8, size: Size, views: Views) -> tuple[Float32, Geometry]:
    """Scores of one picture over all its views.

    Several views are averaged as DeepLab does (arXiv 1706.05587, section 4.1, and its code): the scores of each are
    enlarged to the picture's size, and the mean of their probabilities is taken there.

    Args:
        engine: the network.
        image: RGB, H×W×3.
        size: of the network's picture at scale 1.
        views: scales and mirroring.

    Returns:
        C×h×w logits, and where they lie in the picture: those of `score` for a single view, else the logarithm of the
        mean probability of every pixel.

    Raises:
        EngineError: the network failed, or a size is out of range.
    """
    if views.single:
        return score(engine, image, size)
    height, width = image.shape[:2]
    seen = [(image, 1)] + ([(np.ascontiguousarray(image[:, ::-1]), -1)] if views.flip else [])
    total = np.zeros((len(engine.model.labels), height, width), np.float32)
    for each in views.sizes(engine.model, short_side(image, size)):
        for view, direction in seen:
            total += softmax(enlarge(*score(engine, view, each)))[:, :, ::direction]
    np.log(np.maximum(total / np.float32(len(seen) * len(views.scales)), LEAST), out=total)
    return total, Geometry(height, width, height, width, height, width)


def enlarge(scores: Float32, geometry: Geometry) -> Float32:
    """C×h×w scores, interpolated bilinearly to C×H×W at the picture's pixels."""
    scale_y, offset_y, scale_x, offset_x = geometry.score_map(*scores.shape[1:])
    # Columns first: they are gathered one by one, rows are copied whole.
    wide = _interpolate(scores, 2, scale_x * np.arange(geometry.frame_width) + offset_x)
    return _interpolate(wide, 1, scale_y * np.arange(geometry.frame_height) + offset_y)


def _interpolate(values: Float32, axis: int, places: npt.NDArray[np.floating]) -> Float32:
    """Values between those of an axis; beyond its ends they are the last ones."""
    last = values.shape[axis] - 1
    places = np.clip(places, 0, last)
    low = np.floor(places).astype(np.intp)
    share = np.expand_dims((places - low).astype(np.float32), tuple(i for i in range(values.ndim) if i != axis))
    found: Float32 = values.take(low, axis)
    found += share * (values.take(np.minimum(low + 1, last), axis) - found)
    return found


def softmax(scores: Float32) -> Float32:
    """Probabilities over the first axis."""
    found = np.exp(scores - scores.max(0))
    return np.asarray(found / found.sum(0))


def network_picture(image: UInt8, geometry: Geometry) -> UInt8:
    """A picture, RGB, H×W×3, scaled as the stream does: input_height×input_width×3."""
    given = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
    frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(
        format="yuv444p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.JPEG
    )
    prepare(frame, geometry, given, PICTURE_COLOUR)
    return given


def picture_geometry(model: Model, image: UInt8, size: Size) -> Geometry:
    """Where a model's input and scores lie in a picture of H×W×3 square pixels."""
    return geometry_for(_Picture(*image.shape[:2]), model, short_side(image, size))


def short_side(image: UInt8, size: Size) -> int:
    """Short side of the network's picture in pixels, for a picture of H×W×3."""
    return min(image.shape[:2]) if size == "own" else size


def _ahead(read: Callable[[Sample], tuple[UInt8, UInt8]], samples: Sequence[Sample]) -> Iterator[tuple[UInt8, UInt8]]:
    """Pictures in order, the next one being read while one is in use."""
    with ThreadPoolExecutor(1, "read") as pool:
        ready = None
        for sample in samples:
            following = pool.submit(read, sample)
            if ready is not None:
                yield ready.result()
            ready = following
        if ready is not None:
            yield ready.result()
