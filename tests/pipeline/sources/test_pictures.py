"""Layouts, turns, interlacing, colour: what is done to a picture at decode, and what is not."""

from __future__ import annotations

import gc
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipeline import _native
from pipeline.frame import FORMATS, Colour
from pipeline.sources import Decoded, SourceOptions, open_source
from pipeline.sources.images import natural_key
from pipeline.sources.pictures import FOLDED, Upright, nearest_format, pixel_aspect, plane_views, turn_filters
from tests.pipeline.painting import Array, paint, read_number
from tests.pipeline.sources.conftest import MakeClip

pytestmark = pytest.mark.timeout(30)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("yuvj422p", "yuv422p"), ("nv12", "yuv420p"), ("nv21", "yuv420p"), ("nv16", "yuv422p"), ("nv24", "yuv444p"),
        ("yuyv422", "yuv422p"), ("uyvy422", "yuv422p"), ("yuv411p", "yuv422p"), ("yuvj411p", "yuv422p"),
        ("yuv410p", "yuv420p"), ("yuv440p", "yuv444p"), ("yuv440p10le", "yuv444p10le"), ("yuva422p", "yuv422p"),
        ("p010le", "yuv420p10le"), ("p210le", "yuv422p10le"), ("p410le", "yuv444p10le"), ("p016le", "yuv420p10le"),
        ("yuv420p12le", "yuv420p10le"), ("yuv422p16be", "yuv422p10le"), ("yuv420p10be", "yuv420p10le"),
        ("yuv444p9le", "yuv444p10le"), ("y210le", "yuv422p10le"), ("xv30le", "yuv444p10le"), ("vuya", "yuv444p"),
        ("gray", "yuv420p"), ("gray12le", "yuv420p10le"), ("ya8", "yuv420p"), ("monow", "yuv420p"),
        ("rgb24", "yuv444p"), ("bgra", "yuv444p"), ("gbrp", "yuv444p"), ("rgb48be", "yuv444p10le"),
        ("rgb565le", "yuv444p"),
        ("gbrpf32le", "yuv444p10le"), ("pal8", "yuv444p"), ("xyz12le", "yuv444p10le"), ("bayer_rggb8", "yuv420p"),
        ("x2rgb10le", "yuv444p10le"),
    ],
)  # fmt: skip
def test_every_layout_has_a_nearest_one(given: str, nearest: str) -> None:
    layout, same = nearest_format(given)
    assert layout is FORMATS[nearest]
    assert same == (given == "yuvj422p")
    frame = av.VideoFrame(34, 18, given)
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 0
    [(picture, _)] = Upright[None]().push(frame, None)
    assert picture.picture.format.name.replace("yuvj", "yuv") == nearest
    assert [p.shape for p in plane_views(picture.picture, layout)] == list(layout.plane_shapes(18, 34))


def test_the_layouts_that_flow_are_their_own() -> None:
    assert all(nearest_format(name) == (layout, True) for name, layout in FORMATS.items())


def test_nothing_planar_is_copied() -> None:
    for name in (*FORMATS, "yuvj420p", "yuvj422p", "yuvj444p"):
        frame = av.VideoFrame(50, 30, name)
        [(picture, _)] = Upright[None]().push(frame, None)
        assert picture.picture is frame


def test_rgb_becomes_what_its_colour_says() -> None:
    """Against the definition: BT.601 below 720 lines, BT.709 from there on, limited range."""
    rng = np.random.default_rng(0)
    for height, (kr, kb), space in ((64, (0.299, 0.114), 6), (720, (0.2126, 0.0722), 1)):
        rgb = np.repeat(rng.integers(0, 256, (height, 8, 3)), 8, axis=1).astype(np.uint8)
        [(picture, _)] = Upright[None]().push(av.VideoFrame.from_ndarray(rgb, "rgb24"), None)
        assert picture.colour == Colour(space, False, 2, 2)
        r, g, b = np.moveaxis(rgb / 255, -1, 0)
        y = kr * r + (1 - kr - kb) * g + kb * b
        expected = (16 + 219 * y, 128 + 224 * (b - y) / (2 - 2 * kb), 128 + 224 * (r - y) / (2 - 2 * kr))
        for plane, wanted in zip(plane_views(picture.picture, picture.format), expected, strict=True):
            assert np.abs(plane - wanted).max() < 2


@pytest.mark.parametrize(("range_", "full"), [(0, True), (1, False), (2, True)])
def test_gray_keeps_its_values(range_: int, full: bool) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    frame = av.VideoFrame.from_ndarray(values, "gray")
    frame.color_range = range_
    [(picture, _)] = Upright[None]().push(frame, None)
    luma, u, v = plane_views(picture.picture, picture.format)
    np.testing.assert_array_equal(luma, values)
    assert set(u.ravel()) | set(v.ravel()) == {128}
    assert picture.colour.full_range is full


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("given", "target"), [("nv12", "yuv420p"), ("yuv440p", "yuv444p"), ("yuva420p", "yuv420p")])
def test_conversion_keeps_the_range(given: str, target: str, full: bool) -> None:
    frame = av.VideoFrame(32, 16, given)
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 17
    frame.color_range = 2 if full else 1
    [(picture, _)] = Upright[None]().push(frame, None)
    assert picture.format is FORMATS[target]
    assert picture.colour.full_range is full
    assert all((view == 17).all() for view in plane_views(picture.picture, picture.format))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize(
    ("given", "shift"), [("nv12", 0), ("nv16", 0), ("nv24", 0), ("p010le", 6), ("p210le", 6), ("p410le", 6)]
)
def test_what_a_gpu_gives_is_unfolded_sample_for_sample(given: str, shift: int, odd: int, full: bool) -> None:
    rng = np.random.default_rng(1)
    frame = av.VideoFrame(66 - odd, 34 - odd, given)
    frame.color_range = 2 if full else 1
    dtype, largest = (np.uint16, 1023) if shift else (np.uint8, 255)
    samples = [rng.integers(0, largest + 1, (p.height, p.line_size // np.dtype(dtype).itemsize)) for p in frame.planes]
    for plane, values in zip(frame.planes, samples, strict=True):
        np.frombuffer(plane, dtype)[:] = (values << shift).ravel()
    [(picture, _)] = Upright[None]().push(frame, None)
    planes = plane_views(picture.picture, picture.format)
    for view, wanted in zip(planes, (samples[0], samples[1][:, ::2], samples[1][:, 1::2]), strict=True):
        np.testing.assert_array_equal(view, wanted[: view.shape[0], : view.shape[1]])
    assert picture.colour.full_range is full


@pytest.mark.parametrize("given", FOLDED)
@pytest.mark.parametrize("turn", [(), ("hflip", "vflip"), ("transpose=clock",)])
def test_what_a_gpu_gives_of_ten_bits_is_turned_as_any(given: str, turn: tuple[str, ...]) -> None:
    rng = np.random.default_rng(2)
    target, _ = nearest_format(given)
    folded, plain = av.VideoFrame(64, 32, given), av.VideoFrame(64, 32, target.name)
    y, u, v = (rng.integers(0, 1024, shape).astype(np.uint16) for shape in target.plane_shapes(32, 64))
    pairs = np.stack((u, v), -1).reshape(len(u), -1)
    for frame, planes in ((folded, (y << 6, pairs << 6)), (plain, (y, u, v))):
        for plane, samples in zip(frame.planes, planes, strict=True):
            rows = np.frombuffer(plane, np.uint16).reshape(len(samples), -1)
            rows[:, : samples.shape[1]] = samples
    pictures = [Upright[None]().push(frame, None, turn)[0][0] for frame in (folded, plain)]
    shown = [plane_views(picture.picture, picture.format) for picture in pictures]
    for found, expected in zip(*shown, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert pictures[0].colour == pictures[1].colour


def test_the_kernel_refuses_planes_that_do_not_fit() -> None:
    luma, chroma = np.zeros((4, 6), np.uint16), np.zeros((2, 6), np.uint16)
    out = (np.ones((4, 6), np.uint16), np.ones((2, 3), np.uint16), np.ones((2, 3), np.uint16))
    _native.unfold(luma, chroma, 1, 1, *out)
    assert not any(plane.any() for plane in out)
    for bad in ((luma[:3], chroma, 1, 1, *out), (luma, chroma[:, :5], 1, 1, *out), (luma, chroma[:1], 1, 1, *out),
                (luma, chroma, 0, 1, *out), (luma, chroma, 1, 2, *out), (luma, chroma, 1, 1, *out[:2], luma),
                (luma.astype(np.uint8), chroma, 1, 1, *out), (luma[:, ::2], chroma, 1, 1, *out)):  # fmt: skip
        with pytest.raises(ValueError):
            _native.unfold(*bad)  # type: ignore[arg-type]


def test_a_bottom_up_picture_is_read_top_down(clip: MakeClip) -> None:
    """The flip filter only negates the stride; the view must follow."""
    source = open_source(str(clip("flip").path))
    item = next(item for item in source.read() if isinstance(item, Decoded))
    source.close()
    assert item.picture.planes[0].line_size < 0
    np.testing.assert_array_equal(item.frame.planes[0], clip("flip").planes(0)[0])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation(orientation: int, kind: str, tmp_path: Path) -> None:
    upright = Image.fromarray(paint(5, 60, 84, FORMATS["yuv444p"])[0]).convert("RGB")
    inverse = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    for step in inverse.get(orientation, []):
        upright = upright.transpose(step)
    exif = Image.Exif()
    exif[0x112] = orientation
    upright.save(tmp_path / f"a.{kind}", exif=exif)
    source = open_source(str(tmp_path / f"a.{kind}"))
    [item] = source.read()
    source.close()
    assert isinstance(item, Decoded)
    assert read_number(item.frame.planes[0]) == 5
    assert (item.frame.width, item.frame.height) == (84, 60) == (source.info.width, source.info.height)


def test_images_of_differing_sizes(tmp_path: Path) -> None:
    sizes = [(64, 48), (33, 21), (64, 48)]
    for number, (width, height) in enumerate(sizes):
        Image.fromarray(paint(number, height, width, FORMATS["yuv444p"])[0]).save(tmp_path / f"{number}.png")
    source = open_source(str(tmp_path))
    frames = [item.frame for item in source.read() if isinstance(item, Decoded)]
    source.close()
    assert [(f.width, f.height) for f in frames] == sizes
    assert [read_number(f.planes[0]) for f in frames] == [0, 1, 2]


def test_natural_order() -> None:
    names = ["a2.png", "A10.png", "a1.png", "b.png", "10.png", "9.png", "a1b.png"]
    ordered = [path.name for path in sorted(map(Path, names), key=natural_key)]
    assert ordered == ["9.png", "10.png", "a1.png", "a1b.png", "a2.png", "A10.png", "b.png"]


def _comb(luma: Array) -> float:
    """How much neighbouring rows differ more than rows two apart: high where two fields are woven."""
    rows = luma.astype(float)
    return float(np.abs(rows[1:-1] - rows[2:]).mean() - np.abs(rows[:-2] - rows[2:]).mean() / 2)


def test_interlaced_is_deinterlaced(clip: MakeClip) -> None:
    truth = clip("interlaced")
    combs = {}
    for mode in ("auto", "off"):
        source = open_source(str(truth.path), SourceOptions(deinterlace=mode))  # type: ignore[arg-type]
        frames = [item.frame for item in source.read() if isinstance(item, Decoded)]
        source.close()
        assert [f.pts for f in frames] == list(truth.pts)
        combs[mode] = [_comb(f.planes[0]) for f in frames]
    assert min(combs["off"]) > 1
    assert all(auto < off / 3 for auto, off in zip(combs["auto"], combs["off"], strict=True))


def test_progressive_is_left_alone_after_interlaced() -> None:
    """Once on, the deinterlacer hands progressive pictures through untouched."""
    upright: Upright[int] = Upright()
    upright._interlaced = True
    out = []
    for number in range(5):
        frame = av.VideoFrame(32, 16, "yuv420p")
        for plane in frame.planes:
            np.frombuffer(plane, np.uint8)[:] = 40 + number
        frame.pts = number
        out += upright.push(frame, number)
    out += upright.flush()
    assert [belonging for _, belonging in out] == list(range(5))
    for picture, number in out:
        assert (plane_views(picture.picture, picture.format)[0] == 40 + number).all()


def test_half_turned_matrices_go_to_the_nearest_quarter(clip: MakeClip) -> None:
    with av.open(str(clip("left").path)) as container:
        assert turn_filters(next(container.decode(video=0))) == ("transpose=cclock",)


def test_pixel_aspects_that_cannot_be_meant() -> None:
    assert pixel_aspect(Fraction(16, 11)) == Fraction(16, 11)
    assert [pixel_aspect(ratio) for ratio in (None, Fraction(0), Fraction(1, 1000), Fraction(500))] == [1] * 4


@pytest.mark.parametrize("kind", ["h264", "left"])
def test_pictures_go_without_the_collector_of_garbage(kind: str, clip: MakeClip) -> None:
    def kept() -> int:
        return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())

    source = open_source(str(clip(kind).path))
    gc.collect()
    gc.disable()
    try:
        before = kept()
        pictures = (item for item in source.read() if isinstance(item, Decoded))
        for _ in range(20):
            next(pictures)
        left = kept() - before
    finally:
        gc.enable()
        source.close()
    assert left < 12  # what the decoder's threads and the order of times hold back


def test_colours_that_mean_nothing_count_as_untagged() -> None:
    """A damaged header may tell of any; a filter, such as one that turns, refuses those that there are not."""
    frame = av.VideoFrame(34, 18, "yuv420p")
    frame.colorspace, frame.color_primaries, frame.color_trc = 48, 60, 156
    [(picture, _)] = Upright[None]().push(frame, None, ("transpose=clock",))
    assert picture.colour == Colour()
