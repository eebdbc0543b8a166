"""One frame's way through the network, as pictures: the figure of the DeepLab paper, of anybody's own video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engines import zoo
from engines.backends import open_engine
from engines.base import Engine
from engines.labels import LabelSet
from pipeline.errors import SinkError, SourceError
from pipeline.frame import Float32, Frame, UInt8
from pipeline.options import RunOptions
from pipeline.slots import Ring, SlotLayout
from pipeline.sources import open_source
from pipeline.sources.base import Decoded
from pipeline.stages.prepare import geometry_for, prepare, to_rgb
from pipeline.stages.refine import RefineSpec, open_refiner
from pipeline.stages.render import Renderer
from pipeline.stages.upsample import alive_classes, class_counts, coarse_winners, upsample_argmax

_TIMEOUT_S = 120.0
_MARGIN = 12
_CAPTION = 22


def explain(options: RunOptions, folder: Path) -> str:
    """Write the first frame's way (``--start`` chooses it) into ``folder`` as PNG files.

    Returns:
        What was written, a line for people.

    Raises:
        SourceError: no picture can be read.
        SinkError: the folder cannot be written.
    """
    engine = open_engine(zoo.load_model(options.model.name), options.engine.name)
    try:
        decoded = _first_picture(options)
        panels = list(_panels(decoded, engine, options))
    finally:
        engine.close()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, (title, picture) in enumerate(panels):
            name = f"{number:02d}-{title.replace(' ', '-')}.png"
            Image.fromarray(picture).save(folder / name)
        _figure(panels).save(folder / "figure.png")
    except OSError as error:
        raise SinkError(f"{folder} cannot be written: {error.strerror or error}") from error
    return f"{len(panels)} pictures and figure.png in {folder}"


def _first_picture(options: RunOptions) -> Decoded:
    source = open_source(options.inputs[0].uri, replace(options.source, audio=False))
    try:
        for item in source.read():
            if isinstance(item, Decoded):
                return item
    finally:
        source.close()
    raise SourceError(f"{source.info.uri}: no picture to explain at this time")


def _panels(decoded: Decoded, engine: Engine, options: RunOptions) -> Iterator[tuple[str, UInt8]]:
    frame, model = decoded.frame, engine.model
    geometry = geometry_for(frame, model, options.model.size or model.size)
    session = engine.session(geometry.input_height, geometry.input_width)
    layout = SlotLayout(frame.format, frame.colour, frame.height, frame.width, geometry, session.score_shape)
    ring = Ring(layout, 1)
    slot = ring[0]
    for ours, theirs in zip(slot.planes, frame.planes, strict=True):
        np.copyto(ours, theirs)
    prepare(decoded.picture, geometry, slot.image, frame.colour)
    session.start(slot.image, slot.scores).wait(_TIMEOUT_S)
    yield "input", to_rgb(frame)
    yield "network input", slot.image.copy()
    for index in alive_classes(slot.scores):
        yield f"scores of {model.labels.names[index]}", _heat(slot.scores, int(index))
    palette = np.array(model.labels.palette, np.uint8)
    yield "coarse labels", palette[coarse_winners(slot.scores)]
    upsample_argmax(slot.scores, geometry, slot.labels)
    yield "upsampled labels", palette[slot.labels]
    if options.refine.kind != "none":
        open_refiner(RefineSpec(options.refine.kind, options.refine.crf))(slot, 0)
        yield f"refined by {options.refine.kind}", palette[slot.labels]
    yield "overlay", _overlay(frame, slot.labels, model.labels, options)


def _heat(scores: Float32, index: int) -> UInt8:
    """The probability of one class on the score grid, dark to bright."""
    shifted = np.exp(scores - scores.max(axis=0))
    share = shifted[index] / shifted.sum(axis=0)
    return np.repeat((share * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def _overlay(frame: Frame, labels: UInt8, names: LabelSet, options: RunOptions) -> UInt8:
    counts = class_counts(labels, len(names))
    return to_rgb(Renderer(names, options.render).render(frame, labels, counts))


def _figure(panels: list[tuple[str, UInt8]]) -> Image.Image:
    """All panels on one sheet, captions below."""
    height = 240
    tiles = []
    for title, picture in panels:
        width = max(1, round(picture.shape[1] * height / picture.shape[0]))
        # Score grids are shown as the cells that they are.
        coarse = picture.shape[0] < height
        kind = Image.Resampling.NEAREST if coarse else Image.Resampling.LANCZOS
        tiles.append((title, Image.fromarray(picture).resize((width, height), kind)))
    columns = min(4, len(tiles))
    rows = -(-len(tiles) // columns)
    cell_width = max(tile.width for _, tile in tiles) + _MARGIN
    cell_height = height + _CAPTION + _MARGIN
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN, rows * cell_height + _MARGIN), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for number, (title, tile) in enumerate(tiles):
        x = _MARGIN + number % columns * cell_width
        y = _MARGIN + number // columns * cell_height
        sheet.paste(tile, (x, y))
        draw.text((x, y + height + 3), title, fill="black", font=font)
    return sheet
