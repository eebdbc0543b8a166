"""Pictures with the scores of real networks, and synthetic ones: what the CRF is measured and tested on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines import zoo
from engines.backends import open_engine
from engines.base import EngineOptions
from pipeline.frame import Geometry

SIZES = ((360, 640), (513, 513))
"""Height and width."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture and its scores.

    Attributes:
        name: where it comes from.
        image: H×W×3 uint8 RGB.
        logits: C×h×w float32, as the network gave them.
        geometry: where they lie in the picture.
    """

    name: str
    image: NDArray[np.uint8]
    logits: NDArray[np.float32]
    geometry: Geometry


def camera_pictures(data: Path, size: tuple[int, int]) -> Iterator[Picture]:
    """Street frames with the scores of ``street`` (11 classes); people and animals with those of ``voc`` (21)."""
    street = sorted((data / "camvid" / "val" / "images").glob("*.jpg"))
    yield from _scored("street", {f"camvid {path.stem}": Image.open(path) for path in street[::45]}, data, size)
    found: dict[str, Image.Image] = {path.stem: Image.open(path) for path in sorted((data / "photos").glob("*.bmp"))}
    with av.open(str(data / "video" / "one-by-one-person-detection.mp4")) as clip:
        for index, frame in enumerate(clip.decode(video=0)):
            if index in (230, 300, 380):
                found[f"people {index}"] = Image.fromarray(frame.to_ndarray(format="rgb24"))
            if index == 380:
                break
    yield from _scored("voc", found, data, size)


def synthetic(size: tuple[int, int], classes: int, alive: int, seed: int = 0, *, grain: float = 4.0) -> Picture:
    """Blobs of colour with noisy scores at an eighth of the resolution.

    Args:
        size: height and width, in pixels.
        classes, alive: that there are, and that occur.
        seed: of the noise.
        grain: standard deviation of the colours' noise, in levels.
    """
    height, width = size
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 8), -(-width // 8)
    field = rng.normal(size=(alive, 6, 9))
    blobs = np.stack(
        [np.asarray(Image.fromarray(layer).resize((columns, rows), Image.Resampling.BICUBIC)) for layer in field]
    )
    logits = np.full((classes, rows, columns), -9, np.float32)
    logits[:alive] = 4 * blobs
    logits += rng.normal(0, 0.4, logits.shape)
    label = Image.fromarray(blobs.argmax(0).astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    palette = rng.integers(40, 216, (alive, 3))
    image = palette[np.asarray(label)] + rng.normal(0, grain, (height, width, 3))
    return Picture(
        f"synthetic, {alive} of {classes}" + (f", grain {grain:g}" if grain != 4.0 else ""),
        image.clip(0, 255).astype(np.uint8),
        logits.astype(np.float32),
        Geometry(height, width, height, width, rows * 8, columns * 8),
    )


def _scored(model: str, images: Mapping[str, Image.Image], data: Path, size: tuple[int, int]) -> Iterator[Picture]:
    loaded = zoo.load_model(model, weights_dir=data / "weights", progress=False)
    engine = open_engine(loaded, "openvino", EngineOptions(requests=1))
    height, width = size
    geometry = Geometry.fit(
        height, width, size=loaded.size, multiple=loaded.output_stride, align_corners=loaded.align_corners
    )
    session = engine.session(geometry.input_height, geometry.input_width)
    for name, original in images.items():
        image = np.array(original.convert("RGB").resize((width, height), Image.Resampling.BICUBIC))
        small = Image.fromarray(image).resize(
            (geometry.picture_width, geometry.picture_height), Image.Resampling.BILINEAR
        )
        below, beside = (
            geometry.input_height - geometry.picture_height,
            geometry.input_width - geometry.picture_width,
        )
        given = np.pad(np.asarray(small), ((0, below), (0, beside), (0, 0)), mode="edge")
        logits = np.empty(session.score_shape, np.float32)
        session.start(np.ascontiguousarray(given), logits).wait(60)
        yield Picture(f"{model}: {name}", image, logits, geometry)
    engine.close()
