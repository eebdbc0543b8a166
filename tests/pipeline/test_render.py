from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.labels import CAMVID, VOC, LabelSet
from pipeline import _native
from pipeline.errors import ConfigError
from pipeline.frame import FORMATS, Colour, Frame, PixelFormat
from pipeline.stages.colour import rgb_to_yuv, yuv_to_rgb
from pipeline.stages.prepare import to_rgb
from pipeline.stages.render import Renderer, RenderOptions

PLAIN = RenderOptions(legend=False)


def picture(rng: np.random.Generator, layout: PixelFormat, height: int, width: int, colour: Colour) -> Frame:
    """Noise in legal sample values, in boards with padded rows."""
    planes = []
    for shape in layout.plane_shapes(height, width):
        board = rng.integers(16, 236, (shape[0] + 1, shape[1] + 5)) << (layout.depth - 8)
        planes.append(board.astype(layout.dtype)[: shape[0], : shape[1]])
    return Frame(
        (planes[0], planes[1], planes[2]),
        layout,
        colour,
        7,
        Fraction(1, 3),
        Fraction(1, 90000),
        11,
        12,
        "clip",
        Fraction(4, 3),
    )


def reference(frame: Frame, labels: np.ndarray, names: LabelSet, alphas: np.ndarray) -> list[np.ndarray]:
    """Blend in RGB (chroma repeated), convert back, average chroma over what it covers: float64."""
    colour, layout = frame.colour.resolved(frame.height), frame.format
    rows = np.arange(frame.height) >> layout.log2_chroma_h
    columns = np.arange(frame.width) >> layout.log2_chroma_w
    yuv = np.stack([frame.planes[0], *(p[rows][:, columns] for p in frame.planes[1:])], -1).astype(float)
    back, there = yuv_to_rgb(colour, layout.depth), rgb_to_yuv(colour, layout.depth)
    rgb = yuv @ back[:, :3].T + back[:, 3]
    alpha = alphas[labels][..., None]
    rgb = rgb * (1 - alpha) + alpha * np.array(names.palette, float)[np.minimum(labels, len(names) - 1)]
    blended = rgb @ there[:, :3].T + there[:, 3]
    planes = [blended[..., 0]]
    for c, (ch, cw) in zip((1, 2), layout.plane_shapes(frame.height, frame.width)[1:], strict=True):
        total, number = np.zeros((ch, cw)), np.zeros((ch, cw))
        np.add.at(total, (rows[:, None], columns[None]), blended[..., c])
        np.add.at(number, (rows[:, None], columns[None]), 1)
        planes.append(total / number)
    return planes


def patches(rng: np.random.Generator, height: int, width: int, classes: int, side: int) -> np.ndarray:
    coarse = rng.integers(0, classes, (-(-height // side), -(-width // side))).astype(np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((side, side), np.uint8))[:height, :width])


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_overlay_equals_blending_in_rgb(data: st.DataObject) -> None:
    draw = data.draw
    layout = draw(st.sampled_from(list(FORMATS.values())))
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 140))
    colour = Colour(draw(st.sampled_from([1, 2, 6, 9])), draw(st.booleans()))
    names = draw(st.sampled_from([CAMVID, VOC]))
    alpha = draw(st.floats(0, 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frame = picture(rng, layout, height, width, colour)
    labels = patches(rng, height, width, len(names), draw(st.sampled_from([1, 3, 40])))
    alphas = np.full(256, alpha)
    if names.background is not None:
        alphas[names.background] = 0
    painted = Renderer(names, RenderOptions(alpha=alpha, legend=False)).render(frame, labels, np.zeros(len(names)))
    step = 2 ** (layout.depth - 8)
    for ours, want in zip(painted.planes, reference(frame, labels, names, alphas), strict=True):
        assert ours.dtype == layout.dtype
        assert ours.flags.c_contiguous
        assert np.abs(ours - want).max() <= 1.01 * step


def test_what_is_not_shown_stays_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for layout in FORMATS.values():
        frame = picture(rng, layout, 37, 71, Colour())
        labels = patches(rng, 37, 71, 21, 5)
        labels[labels == 15] = 0
        painted = Renderer(VOC, replace(PLAIN, classes=("person",))).render(frame, labels, np.zeros(21))
        unknown = Renderer(CAMVID, PLAIN).render(frame, np.full_like(labels, 200), np.zeros(11))
        for before, after, other in zip(frame.planes, painted.planes, unknown.planes, strict=True):
            assert np.array_equal(before, after)
            assert np.array_equal(before, other)


def test_metadata_travel_and_the_matrix_is_decided() -> None:
    frame = picture(np.random.default_rng(0), FORMATS["yuv420p"], 20, 30, Colour(2, False, 5, 6))
    painted = Renderer(VOC, PLAIN).render(frame, np.zeros((20, 30), np.uint8), np.zeros(21))
    assert replace(painted, planes=frame.planes, colour=frame.colour) == frame
    assert painted.colour == Colour(6, False, 5, 6)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_mask_shows_the_palette_alone(name: str) -> None:
    rng = np.random.default_rng(1)
    frame = picture(rng, FORMATS[name], 41, 67, Colour(1))
    labels = patches(rng, 41, 67, 11, 8)
    painted = Renderer(CAMVID, replace(PLAIN, mode="mask")).render(frame, labels, np.zeros(11))
    inner = np.zeros(labels.shape, bool)  # pixels that share no chroma sample with another label
    inner[:40, :66] = np.kron(
        np.ptp(labels[:40, :66].reshape(20, 2, 33, 2).transpose(0, 2, 1, 3).reshape(20, 33, 4), axis=-1) == 0,
        np.ones((2, 2), bool),
    )
    error = np.abs(to_rgb(painted).astype(int) - np.array(CAMVID.palette)[labels])
    assert error[inner].max() <= 3
    only = Renderer(CAMVID, replace(PLAIN, mode="mask", classes=("road",))).render(frame, labels, np.zeros(11))
    assert (to_rgb(only)[inner & (labels != 3)] == 0).all()


@pytest.mark.parametrize("name", list(FORMATS))
@pytest.mark.parametrize(("height", "width"), [(30, 40), (31, 41), (5, 1)])
def test_side_by_side(name: str, height: int, width: int) -> None:
    rng, layout = np.random.default_rng(2), FORMATS[name]
    frame = picture(rng, layout, height, width, Colour())
    labels = patches(rng, height, width, 11, 4)
    renderer = Renderer(CAMVID, replace(PLAIN, mode="side-by-side"))
    both = renderer.render(frame, labels, np.zeros(11))
    assert (both.height, both.width) == renderer.output_size(height, width) == (height, 2 * (width + width % 2))
    overlay = Renderer(CAMVID, PLAIN).render(frame, labels, np.zeros(11))
    for whole, left, right in zip(both.planes, frame.planes, overlay.planes, strict=True):
        half = whole.shape[1] // 2
        assert np.array_equal(whole[:, : left.shape[1]], left)
        assert np.array_equal(whole[:, half : half + right.shape[1]], right)
        for edge, part in ((whole[:, :half], left), (whole[:, half:], right)):
            assert (edge[:, part.shape[1] :] == part[:, -1:]).all()


def test_options_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'person'.*background.*tvmonitor"):
        Renderer(VOC, RenderOptions(classes=("persons",)))
    with pytest.raises(ConfigError, match="side-by-side"):
        RenderOptions(mode="both")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="alpha"):
        RenderOptions(alpha=1.5)


def test_bad_arrays_are_refused() -> None:
    frame = picture(np.random.default_rng(3), FORMATS["yuv420p"], 20, 30, Colour())
    renderer, good = Renderer(VOC, PLAIN), np.zeros((20, 30), np.uint8)
    for labels in (good[:-1], good.astype(np.int32), np.zeros((20, 60), np.uint8)[:, ::2], good[0]):
        with pytest.raises(ValueError):
            renderer.render(frame, labels, np.zeros(21))
    y, u, v = frame.planes
    for planes in ((y, u[:-1], v), (y, u, v.astype(np.uint16)), (y[:, ::2], u, v)):
        with pytest.raises(ValueError):
            renderer.render(replace(frame, planes=planes), good, np.zeros(21))
    paint = np.full((256, 4), 70000, np.uint32)
    with pytest.raises(ValueError, match="more than one whole colour"):
        _native.overlay(y, u, v, 1, 1, good, paint, y.copy(), u.copy(), v.copy())
    for shifts in ((0, 1), (2, 1)):
        with pytest.raises(ValueError):
            _native.overlay(y, u, v, *shifts, good, np.zeros((256, 4), np.uint32), y.copy(), u.copy(), v.copy())


def test_a_real_frame_is_blended_within_two_levels(data: Path) -> None:
    clip = data / "video" / "one-by-one-person-detection.mp4"
    if not clip.exists():
        pytest.skip(f"{clip.name} is missing")
    with av.open(str(clip)) as container:
        decoded = next(container.decode(video=0))
    layout, rng = FORMATS["yuv420p"], np.random.default_rng(4)
    arrays = decoded.to_ndarray().reshape(-1)
    y, u, v = (part.reshape(s) for part, s in zip(
        np.split(arrays, np.cumsum([a * b for a, b in layout.plane_shapes(decoded.height, decoded.width)])[:2]),
        layout.plane_shapes(decoded.height, decoded.width), strict=True))  # fmt: skip
    frame = Frame((y, u, v), layout, Colour(), 0, Fraction(0), Fraction(1, 25), 0, 0, "clip")
    labels = patches(rng, frame.height, frame.width, 11, 37)
    painted = Renderer(CAMVID, PLAIN).render(frame, labels, np.zeros(11))
    for ours, want in zip(painted.planes, reference(frame, labels, CAMVID, np.full(256, 0.5)), strict=True):
        assert np.abs(ours - want).max() <= 1.01
