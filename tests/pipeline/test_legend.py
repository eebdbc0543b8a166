from __future__ import annotations

from fractions import Fraction
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from engines.labels import CAMVID, VOC, LabelSet
from pipeline import _native
from pipeline.frame import FORMATS, Colour, Frame, PixelFormat
from pipeline.stages import lettering
from pipeline.stages.colour import rgb_to_yuv
from pipeline.stages.legend import Legend
from pipeline.stages.prepare import to_rgb
from pipeline.stages.render import Renderer, RenderOptions, new_planes

GREY = (120, 120, 120)
BT601 = Colour(6)


def grey(
    layout: PixelFormat, height: int, width: int, colour: Colour = BT601
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    planes = new_planes(layout, height, width)
    for plane, value in zip(planes, rgb_to_yuv(colour, layout.depth) @ np.array([*GREY, 1]), strict=True):
        plane[:] = round(value)
    return planes


def legend_of(names: LabelSet) -> Legend:
    pairs = zip(names.names, names.palette, strict=True)
    return Legend({i: pair for i, pair in enumerate(pairs) if i != names.background})


def rgb_of(planes: tuple[np.ndarray, ...], layout: PixelFormat, colour: Colour = BT601) -> np.ndarray:
    y, u, v = planes
    return to_rgb(Frame((y, u, v), layout, colour, 0, Fraction(0), Fraction(1, 25), 0, 0, "x"))


def drawn(legend: Legend, shares: list[float], pts: Fraction, height: int = 360, width: int = 640) -> np.ndarray:
    layout = FORMATS["yuv444p"]
    planes = grey(layout, height, width)
    legend.draw(planes, layout, BT601, np.array(shares), pts)
    return rgb_of(planes, layout)


def box_of(rgb: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what differs from the grey picture."""
    changed = np.abs(rgb.astype(np.int16) - np.int16(GREY)).max(-1) > 3
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if len(rows) else (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("height", "width"), [(240, 426), (360, 640), (1080, 1920), (2160, 3840), (640, 360), (241, 427)]
)
@pytest.mark.parametrize("name", ["yuv420p", "yuv444p10le"])
def test_it_is_a_dark_box_with_bright_letters_and_the_palette(height: int, width: int, name: str) -> None:
    layout, shares = FORMATS[name], np.full(11, 1 / 11)
    planes = grey(layout, height, width)
    legend_of(CAMVID).draw(planes, layout, BT601, shares, Fraction(0))
    rgb = rgb_of(planes, layout)
    top, left, bottom, right = box_of(rgb)
    line = (bottom - top) / 12
    assert line > 0.03 * min(height, width)
    assert line >= 13  # pixels: still legible
    assert right - left < 0.4 * max(height, width)
    assert (left, top) < (width // 8, height // 8)
    box = rgb[top:bottom, left:right].astype(int)
    assert np.median(box) < 80
    letters = (box.min(-1) > 200).sum()
    assert 0.01 < letters / box[..., 0].size < 0.3
    for colour in CAMVID.palette:
        # at least a quarter of the swatch's area in the very colour
        assert (np.abs(box - colour).max(-1) <= 6).sum() >= (0.25 * line) ** 2, colour


def test_nothing_outside_the_box_changes() -> None:
    for layout in FORMATS.values():
        for height, width in ((241, 427), (121, 161)):
            before, after = grey(layout, height, width), grey(layout, height, width)
            legend_of(VOC).draw(after, layout, BT601, np.array([0.4, *[0.03] * 20]), Fraction(0))
            assert box_of(rgb_of(after, layout)) != (0, 0, 0, 0)
            for old, new in zip(before, after, strict=True):
                assert np.array_equal(old[-2:], new[-2:])
                far = old.shape[1] * 3 // 4
                assert np.array_equal(old[:, far:], new[:, far:])


def test_only_visible_classes_the_largest_where_not_all_fit() -> None:
    shares = [0.0] * 11
    assert box_of(drawn(legend_of(CAMVID), shares, Fraction(0))) == (0, 0, 0, 0)
    shares[3], shares[4] = 0.6, 0.0015
    one = box_of(drawn(legend_of(CAMVID), shares, Fraction(0)))
    shares[8] = 0.3
    two = box_of(drawn(legend_of(CAMVID), shares, Fraction(0)))
    assert one[2] < two[2]
    assert one[:2] == two[:2]
    shares = [0.01, 0.02, 0.5, 0.01, 0.02, 0.01, 0.01, 0.01, 0.01, 0.3, 0.1]
    small = drawn(legend_of(CAMVID), shares, Fraction(0), 80, 200).astype(int)
    assert 0 < box_of(small)[2] <= 80
    present = [(np.abs(small - colour).max(-1) <= 6).sum() >= 9 for colour in CAMVID.palette]
    assert present[2]
    assert present[9]
    assert sum(present) < 6


def test_there_is_no_room_in_a_stamp() -> None:
    for height, width in ((1, 1), (7, 300), (300, 30), (2, 5)):
        assert (np.abs(drawn(legend_of(VOC), [1 / 21] * 21, Fraction(0), height, width).astype(int) - GREY) <= 1).all()


def test_digits_follow_within_a_second_and_do_not_dance() -> None:
    legend = legend_of(CAMVID)
    shares = [0.0] * 11

    def at(tick: int, share: float) -> np.ndarray:
        shares[3] = share
        return drawn(legend, shares, Fraction(tick, 25))

    first = at(0, 0.414)
    wobbling = [at(tick, 0.414 + (-1) ** tick * 0.01) for tick in range(1, 40)]
    assert all(np.array_equal(first, later) for later in wobbling)
    moved = [at(tick, 0.8) for tick in range(40, 120)]
    assert not np.array_equal(first, moved[5])
    assert np.array_equal(moved[-1], drawn(legend_of(CAMVID), [*[0.0] * 3, 0.8, *[0.0] * 7], Fraction(0)))
    assert len({picture.tobytes() for picture in moved}) <= 41
    # a cut, or time running back: shown at once
    assert np.array_equal(at(1000, 0.414), first)
    assert np.array_equal(at(3, 0.8), moved[-1])


def test_pictures_that_have_nothing_to_do_with_one_another_show_their_own_shares() -> None:
    legend = legend_of(VOC)
    for tick, (index, share) in enumerate([(3, 0.21), (8, 0.4), (15, 0.65), (8, 0.4)]):
        shares = [0.0] * 21
        shares[index] = share
        assert np.array_equal(drawn(legend, shares, Fraction(tick, 25)), drawn(legend_of(VOC), shares, Fraction(0))), (
            VOC.names[index]
        )


def test_a_number_below_one_percent_and_a_full_picture() -> None:
    tiny, none = [0.0] * 11, [0.0] * 11
    tiny[0], none[0] = 0.004, 0.012
    assert not np.array_equal(drawn(legend_of(CAMVID), tiny, Fraction(0)), drawn(legend_of(CAMVID), none, Fraction(0)))
    full = drawn(legend_of(CAMVID), [1.0, *[0.0] * 10], Fraction(0))
    assert box_of(full)[2] > 0


def test_a_long_name_is_cut() -> None:
    names = LabelSet(("a" * 200, "b"), ((200, 0, 0), (0, 200, 0)))
    rgb = drawn(legend_of(names), [0.5, 0.5], Fraction(0))
    assert box_of(rgb)[3] < 0.7 * rgb.shape[1]


def test_the_size_may_change() -> None:
    legend = legend_of(CAMVID)
    shares = [1 / 11] * 11
    before = drawn(legend, shares, Fraction(0))
    drawn(legend, shares, Fraction(1, 25), 720, 1280)
    assert np.array_equal(before, drawn(legend, shares, Fraction(2, 25)))


@pytest.mark.parametrize(("mode", "name"), [*product(("overlay", "mask", "side-by-side"), ("yuv420p", "yuv422p10le"))])
def test_the_renderer_draws_it(mode: str, name: str) -> None:
    layout = FORMATS[name]
    frame = Frame(grey(layout, 361, 641), layout, Colour(), 0, Fraction(0), Fraction(1, 25), 0, 0, "x")
    labels = np.zeros((361, 641), np.uint8)
    labels[:, 320:] = 15
    counts = np.bincount(labels.ravel(), minlength=21)
    plain, told = (
        Renderer(VOC, RenderOptions(mode=mode, legend=legend)).render(frame, labels, counts)  # type: ignore[arg-type]
        for legend in (False, True)
    )
    changed = np.flatnonzero((plain.planes[0] != told.planes[0]).any(0))
    start = told.width // 2 if mode == "side-by-side" else 0
    assert start <= changed[0] < start + 40
    # one row only, for the person: the background is no class to be named
    rows = np.flatnonzero((plain.planes[0] != told.planes[0]).any(1))
    assert rows[-1] - rows[0] < 60


@pytest.mark.parametrize("has_font", [True, False])
def test_names_in_other_letters(
    has_font: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A font of the system's stands in where Pillow's own lacks letters; without one it is told that boxes stand."""
    font = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    monkeypatch.setattr(lettering, "SYSTEM_FONTS", ("no such font.ttf", str(font)) if has_font else ())
    lettering._fitting.cache_clear()
    once, turned = (drawn(Legend({0: (name, (200, 0, 0))}), [1.0], Fraction(0)) for name in ("жя Straße", "яж Straße"))
    drawn(Legend({0: ("road", (200, 0, 0))}), [1.0], Fraction(0))
    lettering._fitting.cache_clear()
    assert np.array_equal(once, turned) is not has_font, "boxes look all the same"
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in told] == ([] if has_font else ["no font has ß ж я"])


def test_the_kernel_refuses_bad_sprites() -> None:
    plane = np.zeros((4, 6), np.uint8)
    keep, add = np.zeros((4, 6), np.uint16), np.zeros((4, 6), np.uint32)
    _native.composite(plane, keep, add)
    for bad in ((plane[:3], keep, add), (plane, keep.astype(np.uint32), add), (plane, keep, add[:, :5]),
                (plane[:, ::2], keep[:, :3], add[:, :3]), (plane.astype(np.int16), keep, add)):  # fmt: skip
        with pytest.raises(ValueError):
            _native.composite(*bad)
