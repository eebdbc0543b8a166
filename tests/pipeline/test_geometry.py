from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline
from pipeline.frame import SLIMMEST, Geometry
from tests.pipeline.tiny import tiny_model

sides = st.integers(1, 5000)


@given(
    height=sides,
    width=sides,
    size=st.integers(32, 1200),
    multiple=st.sampled_from([1, 8, 16, 32]),
    align=st.booleans(),
    aspect=st.sampled_from(["1", "4/3", "8/9"]),
)
def test_fit_keeps_aspect_and_fills_up(
    height: int, width: int, *, size: int, multiple: int, align: bool, aspect: str
) -> None:
    ratio = Fraction(aspect)
    g = Geometry.fit(height, width, size=size, multiple=multiple, align_corners=align, sample_aspect_ratio=ratio)
    shown = width * float(ratio)
    slim = max(height, shown) / min(height, shown)
    if slim <= SLIMMEST:
        assert min(g.picture_height, g.picture_width) == size
    else:
        assert max(g.picture_height, g.picture_width) == size * SLIMMEST
    scale = size / max(min(height, shown), max(height, shown) / SLIMMEST)
    assert abs(g.picture_height - max(1, height * scale)) <= 0.5
    assert abs(g.picture_width - max(1, shown * scale)) <= 0.5
    for given_side, picture in ((g.input_height, g.picture_height), (g.input_width, g.picture_width)):
        assert (given_side - align) % multiple == 0
        assert 0 <= given_side - picture < multiple + align * (given_side == multiple + 1)


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.integers(1, 60), st.booleans())
def test_the_map_is_the_way_through_the_input(frame: int, picture: int, more: int, score: int, align: bool) -> None:
    """A pixel's centre, as a place in the scaled picture and then among the scores, step by step."""
    g = Geometry(frame, frame, picture, picture, picture + more, picture + more, align)
    scale, offset, *across = g.score_map(score, score)
    assert (scale, offset) == tuple(across)
    for pixel in {0, frame // 2, frame - 1}:
        at_input = (pixel + 0.5) / frame * picture - 0.5  # areas over areas: how pictures are scaled
        if align:
            at_score = at_input * (score - 1) / (picture + more - 1)
        else:
            at_score = (at_input + 0.5) / (picture + more) * score - 0.5
        assert scale * pixel + offset == pytest.approx(at_score, abs=1e-9)


def test_corners_meet_where_they_are_aligned() -> None:
    g = Geometry(513, 513, 513, 513, 513, 513, align_corners=True)
    scale, offset, _, _ = g.score_map(65, 65)
    assert (offset, scale * 512 + offset) == (0, 64)


def test_areas_meet_where_they_are_not() -> None:
    g = Geometry(512, 512, 512, 512, 512, 512)
    scale, offset, _, _ = g.score_map(64, 64)
    assert scale * -0.5 + offset == -0.5
    assert scale * 511.5 + offset == 63.5


@pytest.mark.parametrize("align", [False, True])
def test_it_agrees_with_torch(align: bool) -> None:
    torch = pytest.importorskip("torch")
    scores = np.random.default_rng(0).normal(size=(2, 9, 13)).astype(np.float32)
    size = (65, 97) if align else (72, 104)
    g = Geometry(*size, *size, *size, align)
    scale_y, offset_y, scale_x, offset_x = g.score_map(9, 13)
    want = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None], size=size, mode="bilinear", align_corners=align
    )[0].numpy()

    def hat(pixels: int, scale: float, offset: float, cells: int) -> np.ndarray:
        at = np.clip(scale * np.arange(pixels) + offset, 0, cells - 1)
        return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(cells)))

    ours = hat(size[0], scale_y, offset_y, 9) @ scores @ hat(size[1], scale_x, offset_x, 13).T
    assert np.abs(ours - want).max() < 1e-5


@given(
    st.integers(1, 2000), st.integers(1, 2000), st.integers(8, 600), st.integers(8, 600), st.sampled_from([1, 2, 0.5])
)
def test_an_input_of_fixed_size_holds_the_whole_picture(h: int, w: int, ih: int, iw: int, aspect: float) -> None:
    shape = Fraction(aspect)
    g = Geometry.inside(h, w, input_height=ih, input_width=iw, sample_aspect_ratio=shape)
    assert (g.input_height, g.input_width) == (ih, iw)
    assert 1 <= g.picture_height <= ih
    assert 1 <= g.picture_width <= iw
    assert g.picture_height == ih or g.picture_width == iw
    if min(g.picture_height, g.picture_width) > 20:
        assert g.picture_width / g.picture_height == pytest.approx(w * aspect / h, rel=0.05)


def test_a_network_of_fixed_size_labels_frames_of_any_other(tmp_path: Path) -> None:
    graph = "color=red:size=96x40:rate=5:duration=1,drawbox=x=48:w=48:h=40:color=blue:t=fill"
    model = tiny_model(tmp_path / "fixed.onnx", fixed=(64, 64))
    labels = [one.labels for one in pipeline.stream(f"lavfi:{graph}", model=str(model), mode="lossless", max_frames=2)]
    assert len(labels) == 2
    for each in labels:
        assert each.shape == (40, 96)
        assert (each[:, :40] == 0).all()
        assert (each[:, 56:] == 2).all()
