"""Our kernels compile for every GPU that is served, and compute what the processor's own code does."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from engines.backends.nvidia import pixels
from engines.base import FrameMap, Model
from pipeline.frame import Colour, Geometry
from pipeline.stages.colour import yuv_to_rgb
from pipeline.stages.prepare import prepare
from pipeline.stages.upsample import upsample_argmax
from tests.conftest import absent
from tests.engines.support import foreign, picture
from tests.engines.tensorrt.host_kernels import host_kernels

kernels = pytest.importorskip("engines.backends.nvidia.kernels", reason="cuda-bindings is not here", exc_type=Exception)

CAPABILITIES = [
    *((7, 5), (8, 9), (12, 0)),
    *(
        pytest.param(pair, marks=pytest.mark.slow)
        for pair in ((8, 0), (8, 6), (8, 7), (9, 0), (10, 0), (11, 0), (12, 1))
    ),
]


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda pair: "sm_{}{}".format(*pair))
def test_they_compile(capability: tuple[int, int]) -> None:
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception:  # the bindings' own where the library is missing
        absent("NVRTC (nvidia-cuda-nvrtc)")
    code = kernels.compile_kernels(capability)
    assert code.startswith(b"\x7fELF")
    for name in kernels.KERNELS:
        assert name.encode() in code


def test_what_cannot_be_compiled_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    text = kernels.source().replace("return rintf(", "return rint_of(", 1)
    monkeypatch.setattr(kernels, "source", lambda: text)
    with pytest.raises(kernels.EngineError, match=r"cannot compile for 8\.9: .*rint_of"):
        kernels.compile_kernels((8, 9))


def test_both_languages_lay_structures_out_alike() -> None:
    library = host_kernels()
    library.size_of.restype = library.offset_of.restype = ctypes.c_size_t
    for which, structure in enumerate((pixels.Planes, pixels.Target, pixels.Labels)):
        assert ctypes.sizeof(structure) == library.size_of(which)
        last = structure._fields_[-1][0]
        assert getattr(structure, last).offset == library.offset_of(which)


def launch(name: str, size: tuple[int, int], *arguments: ctypes.Structure) -> None:
    columns, rows = kernels.BLOCK
    pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
    blocks = (-(-size[1] // columns), -(-size[0] // rows))
    getattr(host_kernels(), f"launch_{name}")(*blocks, columns, rows, pointers)


PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}
"""What interleaved layouts are made planar as, at decode."""


def decoded(name: str, size: tuple[int, int]) -> tuple[av.VideoFrame, list[np.ndarray]]:
    """A picture with soft edges as the stream decodes it, and its planes in a layout of libav's, dense."""
    frame = av.VideoFrame.from_ndarray(picture(size, 7), format="rgb24")
    if name == "rgb24":
        return frame, [np.ascontiguousarray(frame.to_ndarray())]
    frame = frame.reformat(format=PLANAR.get(name, name))
    layout = pixels.LAYOUTS[frame.format.name]
    dtype = np.dtype(np.uint8 if layout.depth == 8 else np.uint16)
    planes = []
    for plane, shape in zip(frame.planes, pixels.plane_shapes(layout, size), strict=True):
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: shape[0]]
        planes.append(np.ascontiguousarray(rows[:, : shape[1] * dtype.itemsize]).view(dtype).reshape(shape))
    if name in PLANAR:
        y, u, v = planes
        shift = pixels.LAYOUTS[name].shift
        planes = [y << shift, np.stack([u, v], axis=-1) << shift]
    return frame, planes


def where(geometry: Geometry, colour: Colour, scores: tuple[int, int] = (1, 1)) -> object:
    return FrameMap(
        layout="yuv420p",
        frame=(geometry.frame_height, geometry.frame_width),
        picture=(geometry.picture_height, geometry.picture_width),
        matrix=yuv_to_rgb(colour, 8).tolist(),
        score_map=geometry.score_map(*scores),
    )


def by_kernel(name: str, planes: list[np.ndarray], model: Model, geometry: Geometry, colour: Colour) -> np.ndarray:
    layout = pixels.LAYOUTS[name]
    size = (geometry.input_height, geometry.input_width)
    shape = (*size, 3) if model.layout == "nhwc" else (3, *size)
    out = np.zeros(shape, model.input_dtype)
    source = pixels.planes_at(layout, (geometry.frame_height, geometry.frame_width), [p.ctypes.data for p in planes])
    target = pixels.target_at(model, size, where(geometry, colour), out.ctypes.data)
    launch("prepare_rgb" if name == "rgb24" else "prepare_yuv", size, source, target)
    return out


GEOMETRIES = {
    "as it is": Geometry.fit(96, 128, size=96, multiple=16),
    "with an edge": Geometry.fit(90, 121, size=90, multiple=16),
    "shrunk by halves": Geometry.fit(192, 256, size=96, multiple=16),
    "shrunk": Geometry.fit(271, 353, size=96, multiple=16, align_corners=True),
    "shrunk a little": Geometry.fit(110, 140, size=96, multiple=16),
    "enlarged": Geometry.fit(60, 80, size=96, multiple=16),
    "wide pixels": Geometry.fit(192, 160, size=96, multiple=16, sample_aspect_ratio=Fraction(16, 11)),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("name", pixels.LAYOUTS)
def test_pictures_are_those_of_the_processor(name: str, geometry: Geometry, models: dict[str, Model]) -> None:
    """Against libswscale and the native kernel: its filters have 14 bits and round several times."""
    size = (geometry.frame_height, geometry.frame_width)
    colour = Colour(space=1, full_range=False)
    frame, planes = decoded(name, size)
    frame.colorspace = av.video.reformatter.Colorspace.ITU709
    found = by_kernel(name, planes, models["street"], geometry, colour).astype(int)
    expected = np.empty((geometry.input_height, geometry.input_width, 3), np.uint8)
    if name == "rgb24":
        frame = frame.reformat(format="yuv444p", dst_colorspace="ITU709")
    prepare(frame, geometry, expected, colour)
    difference = np.abs(found - expected)
    exact = name != "rgb24" and size == (geometry.picture_height, geometry.picture_width)
    if exact:
        assert difference.max() <= 1
    assert difference.mean() < 0.7, difference.mean()
    assert np.percentile(difference, 99) <= 3
    assert difference.max() <= 12


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("channels", ["rgb", "bgr"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_anybodys_networks_get_what_they_want(layout: str, channels: str, dtype: str, tmp_path: Path) -> None:
    from engines.backends.common import prepare as as_wanted

    yaml = f"layout: {layout}\nchannels: {channels}\nmean: [120, 110, 100]\nstd: [60, 50, 40]\n"
    model = foreign(tmp_path / "x.onnx", yaml, layout=layout, dtype=dtype)
    geometry, colour = Geometry.fit(96, 128, size=96, multiple=16), Colour(space=1)
    image = picture((96, 128))
    found = by_kernel("rgb24", [image], model, geometry, colour)
    expected = as_wanted(image, model)[0]
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found.astype(float), expected.astype(float), rtol=2e-3, atol=2e-6)


def labelled(scores: np.ndarray, geometry: Geometry) -> np.ndarray:
    out = np.full((geometry.frame_height, geometry.frame_width), 255, np.uint8)
    place = where(geometry, Colour(), scores.shape[1:])
    work = pixels.labels_at(scores.ctypes.data, scores.shape, place, out.ctypes.data)
    launch("label", out.shape, work)
    return out


@pytest.mark.parametrize("classes", [1, 2, 21, 150])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(6, 8), (1, 1), (1, 9), (7, 1)])
def test_labels_are_those_of_the_processor(classes: int, align_corners: bool, shape: tuple[int, int]) -> None:
    geometry = Geometry.fit(107, 143, size=96, multiple=16, align_corners=align_corners)
    rng = np.random.default_rng(classes)
    scores = rng.normal(0, 3, (classes, *shape)).astype(np.float32)
    found = labelled(scores, geometry)
    expected, _ = upsample_argmax(scores, geometry)
    # Where two classes are equal but for rounding, the processor's kernel compares their difference.
    assert (found == expected).mean() > 0.9999
    assert found.max() < classes


def test_the_lowest_of_equal_classes_wins() -> None:
    geometry = Geometry.fit(40, 56, size=32, multiple=8)
    scores = np.zeros((5, 4, 6), np.float32)
    scores[2:] = 1
    assert (labelled(scores, geometry) == 2).all()


def test_real_scores_give_the_processors_labels(models: dict[str, Model]) -> None:
    from tests.engines.support import open_engine_for, score

    geometry = Geometry.fit(180, 320, size=96, multiple=16)
    size = (geometry.input_height, geometry.input_width)
    with open_engine_for(replace(models["street"], half=False), "openvino") as engine:
        scores = score(engine.session(*size), picture(size))
    expected, _ = upsample_argmax(scores, geometry)
    assert (labelled(scores, geometry) == expected).all()
