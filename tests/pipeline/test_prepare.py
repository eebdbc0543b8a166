from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.frame import FORMATS, Colour, Frame, Geometry, PixelFormat
from pipeline.stages.colour import rgb_to_yuv
from pipeline.stages.prepare import prepare, to_rgb

PATCHES = ((250, 20, 30), (10, 200, 90), (128, 128, 128), (255, 255, 255), (0, 0, 0), (30, 60, 220))


def reference_rgb(planes: list[np.ndarray], layout: PixelFormat, space: int, full: bool) -> np.ndarray:
    """H×W×3 float64 from BT.601 / BT.709's own equations, written out a second time."""
    kr, kb = {1: (0.2126, 0.0722), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}[space]
    height, width = planes[0].shape
    rows, columns = np.arange(height) >> layout.log2_chroma_h, np.arange(width) >> layout.log2_chroma_w
    y, u, v = (
        planes[0].astype(float),
        planes[1][rows][:, columns].astype(float),
        planes[2][rows][:, columns].astype(float),
    )
    step = 2.0 ** (layout.depth - 8)
    if full:
        y, u, v = y / (256 * step - 1), (u - 128 * step) / (256 * step - 1), (v - 128 * step) / (256 * step - 1)
    else:
        y, u, v = (y - 16 * step) / (219 * step), (u - 128 * step) / (224 * step), (v - 128 * step) / (224 * step)
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    return np.clip(np.stack([red, green, blue], -1) * 255, 0, 255)


def video_frame(planes: list[np.ndarray], name: str) -> av.VideoFrame:
    picture = av.VideoFrame(planes[0].shape[1], planes[0].shape[0], name)
    for plane, samples in zip(picture.planes, planes, strict=True):
        board = np.frombuffer(plane, samples.dtype).reshape(plane.height, -1)
        board[:, : samples.shape[1]] = samples
    return picture


def from_rgb(rgb: np.ndarray, layout: PixelFormat, colour: Colour) -> list[np.ndarray]:
    """Planes of a picture whose RGB changes slowly: chroma taken at the middle of what it covers."""
    yuv = np.einsum("ij,hwj->ihw", rgb_to_yuv(colour, layout.depth)[:, :3], rgb)
    yuv += rgb_to_yuv(colour, layout.depth)[:, 3, None, None]
    planes = [yuv[0]]
    for plane, (rows, columns) in zip(yuv[1:], layout.plane_shapes(*rgb.shape[:2])[1:], strict=True):
        ph, pw = rows << layout.log2_chroma_h, columns << layout.log2_chroma_w
        padded = np.pad(plane, ((0, ph - rgb.shape[0]), (0, pw - rgb.shape[1])), mode="edge")
        planes.append(padded.reshape(rows, ph // rows, columns, pw // columns).mean((1, 3)))
    return [np.rint(plane).astype(layout.dtype) for plane in planes]


def frame_of(planes: list[np.ndarray], layout: PixelFormat, colour: Colour) -> Frame:
    return Frame((planes[0], planes[1], planes[2]), layout, colour, 0, Fraction(0), Fraction(1, 25), 0, 0, "test")


@pytest.mark.parametrize(
    ("name", "space", "full"), [*product(FORMATS, (1, 6, 9, 2), (False, True)), ("yuvj420p", 6, True)]
)
def test_flat_patches_keep_their_colour(name: str, space: int, full: bool) -> None:
    layout = FORMATS[name.replace("j", "")]
    for (height, width, size), rgb in product(
        ((60, 90, 60), (61, 91, 61), (90, 161, 47), (40, 31, 70), (720, 9, 9)), PATCHES
    ):
        geometry = Geometry.fit(height, width, size=size, multiple=8)
        colour = Colour(space, full)
        samples = rgb_to_yuv(colour.resolved(height), layout.depth) @ np.array([*rgb, 1])
        planes = [
            np.full(shape, round(sample), layout.dtype)
            for shape, sample in zip(layout.plane_shapes(height, width), samples, strict=True)
        ]
        out = np.full((geometry.input_height, geometry.input_width, 3), 77, np.uint8)
        prepare(video_frame(planes, name), geometry, out, colour)
        assert np.abs(out.astype(int) - rgb).max() <= 2, (height, width, rgb)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(360, 640, 360), (359, 641, 200), (720, 1280, 360), (120, 90, 200)]
)
@pytest.mark.parametrize("name", ["yuv420p", "yuv422p10le", "yuv444p"])
def test_the_picture_lies_where_the_geometry_says(height: int, width: int, size: int, name: str) -> None:
    """Ramps stay ramps under any symmetric filter: every pixel shows its own place."""
    geometry = Geometry.fit(height, width, size=size, multiple=16)
    colour, layout = Colour(6), FORMATS[name]
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([40 + 170 * x / width, 40 + 170 * y / height, np.full(x.shape, 90.0)], -1)
    out = np.zeros((geometry.input_height, geometry.input_width, 3), np.uint8)
    prepare(video_frame(from_rgb(rgb, layout, colour), name), geometry, out, colour, VideoReformatter())
    ph, pw = geometry.picture_height, geometry.picture_width
    y, x = np.mgrid[0:ph, 0:pw]
    at_x, at_y = (x + 0.5) * width / pw - 0.5, (y + 0.5) * height / ph - 0.5
    want = np.stack([40 + 170 * at_x / width, 40 + 170 * at_y / height, np.full(x.shape, 90.0)], -1)
    error = np.abs(out[:ph, :pw] - want)[4:-4, 4:-4]
    assert error.max() <= 3.5
    assert error.mean() < 0.8
    assert (out[:ph, pw:] == out[:ph, pw - 1 : pw]).all()
    assert (out[ph:] == out[ph - 1]).all()


def test_shrinking_averages_instead_of_picking() -> None:
    """A chequerboard three times as fine as the input becomes grey, not a moiré."""
    board = (np.indices((540, 960)).sum(0) % 2 * 200 + 20).astype(np.uint8)
    grey = np.full((270, 480), 128, np.uint8)
    geometry = Geometry.fit(540, 960, size=180, multiple=4)
    out = np.empty((180, 320, 3), np.uint8)
    prepare(video_frame([board, grey, grey], "yuv420p"), geometry, out, Colour(6, True))
    assert np.abs(out.astype(int) - 120).max() <= 13  # 5 of 9 pixels of one kind: 120 ± 200/18


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_to_rgb_equals_the_float_reference(data: st.DataObject) -> None:
    draw = data.draw
    layout = draw(st.sampled_from(list(FORMATS.values())))
    height, width = draw(st.integers(1, 20)), draw(st.integers(1, 150))
    colour = Colour(draw(st.sampled_from([1, 6, 9])), draw(st.booleans()))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    planes = []
    for shape in layout.plane_shapes(height, width):
        rows = shape[0] + draw(st.integers(0, 3))
        board = rng.integers(0, 2**layout.depth, (rows, shape[1] + draw(st.integers(0, 9)))).astype(layout.dtype)
        planes.append(board[: shape[0], : shape[1]])
    out = np.full((height, width + 2, 3), 5, np.uint8)
    rgb = to_rgb(frame_of(planes, layout, colour), out[:, 1:-1])
    assert np.abs(rgb - reference_rgb(planes, layout, colour.space, colour.full_range)).max() <= 0.51
    assert (out[:, 0] == 5).all()
    assert (out[:, -1] == 5).all()


def test_an_untagged_matrix_goes_by_the_height() -> None:
    for height, space in ((719, 6), (720, 1)):
        planes = [np.full(shape, value, np.uint8) for shape, value in zip(
            FORMATS["yuv420p"].plane_shapes(height, 4), (100, 90, 200), strict=True)]  # fmt: skip
        layout = FORMATS["yuv420p"]
        untagged, tagged = (to_rgb(frame_of(planes, layout, Colour(s))) for s in (2, space))
        assert np.array_equal(untagged, tagged)


def test_real_frames_equal_libswscales(data: Path) -> None:
    """A decoded frame, scaled and not, beside libswscale's own accurate RGB."""
    clip = data / "video" / "one-by-one-person-detection.mp4"
    if not clip.exists():
        pytest.skip(f"{clip.name} is missing")
    with av.open(str(clip)) as container:
        picture = next(container.decode(video=0))
    colour = Colour(picture.colorspace, picture.color_range == 2)
    for size in (picture.height, picture.height // 2, picture.height + 50):
        geometry = Geometry.fit(picture.height, picture.width, size=size, multiple=1)
        out = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
        prepare(picture, geometry, out, colour)
        theirs = picture.reformat(
            out.shape[1], out.shape[0], "rgb24", src_colorspace=5 if picture.height < 720 else 1, dst_color_range=2,
            interpolation="BILINEAR", threads=1,
        ).to_ndarray()  # fmt: skip
        assert np.abs(out.astype(int) - theirs).mean() < 2.5


def test_wrong_sizes_and_arrays_are_refused() -> None:
    planes = [np.zeros(shape, np.uint8) for shape in FORMATS["yuv420p"].plane_shapes(16, 24)]
    picture, geometry = video_frame(planes, "yuv420p"), Geometry.fit(16, 24, size=16, multiple=8)
    good = np.zeros((16, 24, 3), np.uint8)
    prepare(picture, geometry, good, Colour())
    for out in (
        good[:8],
        good.astype(np.int8),
        np.zeros((16, 24, 6), np.uint8)[:, :, ::2],
        np.zeros((16, 24), np.uint8),
    ):
        with pytest.raises(ValueError):
            prepare(picture, geometry, out, Colour())
    with pytest.raises(ValueError):
        prepare(picture, Geometry.fit(18, 24, size=16, multiple=8), good, Colour())
    layout = FORMATS["yuv420p"]
    for bad in (
        [planes[0], planes[1][:, 1:], planes[2]],
        [planes[0], planes[1].astype(np.uint16), planes[2]],
        [planes[0].astype(np.float32), planes[1], planes[2]],
        [planes[0][0], planes[1], planes[2]],
        [planes[0][:0], planes[1], planes[2]],
    ):
        with pytest.raises(ValueError):
            to_rgb(frame_of(bad, layout, Colour()), good)
    good.flags.writeable = False
    with pytest.raises(ValueError):
        to_rgb(frame_of(planes, layout, Colour()), good)
