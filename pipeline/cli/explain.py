"""One frame's way through the network, as pictures: the figure of the DeepLab paper, of anybody's own video."""

from __future__ import annotations

import re
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from engines import zoo
from engines.backends import open_engine
from engines.base import Engine, EngineOptions
from engines.labels import LabelSet
from pipeline.cli.figure import MAX_CLASSES, ClassMap, Step, heat, scaled, sheet
from pipeline.errors import ConfigError, SourceError
from pipeline.frame import Float32, Frame, Geometry, UInt8
from pipeline.options import RunOptions
from pipeline.runner.memory import refuse_too_large
from pipeline.sinks.places import check_place, make_directory
from pipeline.sinks.target import cannot_write
from pipeline.slots import Ring, Slot, SlotLayout
from pipeline.sources import open_source
from pipeline.sources.base import Decoded
from pipeline.stages.prepare import geometry_for, prepare, to_rgb
from pipeline.stages.refine import refine_slot
from pipeline.stages.render import Renderer
from pipeline.stages.upsample import alive_classes, class_counts, coarse_winners, upsample_argmax

_TIMEOUT_S = 120.0


def explain(options: RunOptions, folder: Path) -> str:
    """Write the first frame's way (``--start`` chooses it) into ``folder`` as PNG files.

    Returns:
        What was written, a line for people.

    Raises:
        ConfigError: the folder is a file.
        SourceError: no picture can be read.
        SinkError: the folder cannot be written.
    """
    name = f"--explain {folder}"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{name} is a file: name a directory for the pictures")
    check_place(folder / "figure.png", name, own=True)
    decoded = _first_picture(options)
    engine_options = EngineOptions(precision=options.engine.precision, cache=zoo.compiled_cache())
    engine = open_engine(
        zoo.load_model(options.model.name, options.engine.precision), options.engine.name, engine_options
    )
    try:
        steps, maps = _way(decoded, engine, options)
    finally:
        engine.close()
    frame, model = decoded.frame, engine.model
    height, width = frame.height, max(1, round(frame.width * float(frame.sample_aspect_ratio)))
    heading = f"{model.name} on {frame.source}, {float(frame.pts):.2f} s"
    licence = (
        f"{len(model.labels)} classes · {engine.info.backend}, {engine.info.arithmetic} · weights: {model.licence}"
    )
    # The network's own input looks like the picture: it has a file, but no place in the figure.
    shown = [step for step in steps if step.title != "network input"]
    files = [(step.title, step.picture) for step in steps] + [(f"scores of {one.name}", one.picture) for one in maps]
    try:
        make_directory(folder, own=True)
        for number, (title, picture) in enumerate(files):
            scaled(picture, width, height).save(folder / f"{number:02d}-{re.sub(r'[^0-9A-Za-z]+', '-', title)}.png")
        sheet(heading, licence, shown, maps[:MAX_CLASSES], width / height).save(folder / "figure.png")
    except OSError as error:
        raise cannot_write(name, error) from error
    return f"{len(files)} pictures and figure.png in {folder}"


def _first_picture(options: RunOptions) -> Decoded:
    first = options.inputs[0]
    source = open_source(first.uri, replace(first.source or options.source, audio=False, reconnect=0))
    try:
        for item in source.read():
            if isinstance(item, Decoded):
                return item
    finally:
        source.close()
    raise SourceError(f"{source.info.uri}: no picture to explain at this time")


def _way(decoded: Decoded, engine: Engine, options: RunOptions) -> tuple[list[Step], list[ClassMap]]:
    frame, model = decoded.frame, engine.model
    size = options.model.size or model.size
    geometry = geometry_for(frame, model, size)
    if model.fixed_size is None:
        refuse_too_large([geometry], size, engine=engine, slots=1)
    session = engine.session(geometry.input_height, geometry.input_width)
    layout = SlotLayout(frame.format, frame.colour, frame.height, frame.width, geometry, session.score_shape)
    with Ring(layout, 1) as ring:
        slot = ring[0]
        for ours, theirs in zip(slot.planes, frame.planes, strict=True):
            np.copyto(ours, theirs)
        prepare(decoded.picture, geometry, slot.image, frame.colour)
        session.start(slot.image, slot.scores).wait(_TIMEOUT_S)
        return _steps(frame, slot, model.labels, options), _maps(slot, model.labels)


def _steps(frame: Frame, slot: Slot, labels: LabelSet, options: RunOptions) -> list[Step]:
    """The pictures of the way; leaves the final labels in the slot."""
    geometry, palette = slot.geometry, np.array(labels.palette, np.uint8)
    _, rows, columns = slot.scores.shape
    upsample_argmax(slot.scores, geometry, slot.labels)
    steps = [
        Step("input", f"{frame.width} by {frame.height}", to_rgb(frame)),
        Step("network input", "", slot.image[: geometry.picture_height, : geometry.picture_width].copy()),
        Step(
            "coarse labels",
            f"best class of {columns} by {rows} cells",
            palette[_inside(coarse_winners(slot.scores), geometry)],
        ),
        Step("labels", "best class of bilinear scores", palette[slot.labels]),
    ]
    if options.refine.kind != "none":
        work = refine_slot(options.refine, slot)
        how = f"fully connected CRF, {work.iterations} iterations" if work is not None else "guided filter"
        steps.append(Step("refined", how, palette[slot.labels]))
    counts = class_counts(slot.labels, len(labels))
    painted = to_rgb(Renderer(labels, options.render).render(frame, slot.labels, counts))
    return [*steps, Step(options.render.mode.replace("-", " "), "what is written", painted)]


def _maps(slot: Slot, labels: LabelSet) -> list[ClassMap]:
    """The classes that are best anywhere, those with most of the picture first."""
    shifted = np.exp(slot.scores - slot.scores.max(axis=0))
    probabilities = shifted / shifted.sum(axis=0)
    shares = class_counts(slot.labels, len(labels)) / slot.labels.size
    found = sorted((int(index) for index in alive_classes(slot.scores)), key=lambda index: -shares[index])
    return [
        ClassMap(
            labels.names[index],
            labels.palette[index],
            float(shares[index]),
            heat(_inside(probabilities[index], slot.geometry)),
        )
        for index in found
    ]


def _inside(cells: Float32 | UInt8, geometry: Geometry) -> Any:
    """The cells that cover the picture, without those of the edge that continues it."""
    rows, columns = cells.shape[-2:]
    last_row = ceil(rows * geometry.picture_height / geometry.input_height)
    last_column = ceil(columns * geometry.picture_width / geometry.input_width)
    return cells[:last_row, :last_column]
