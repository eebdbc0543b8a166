"""The pictures that came out worst: true labels, predicted ones and what is wrong, laid over the picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.base import Engine
from engines.labels import LabelSet
from engines.training.datasets import IGNORE, Sample, UInt8
from engines.training.evaluation import Evaluation, label_picture
from engines.training.refining import Labeller
from engines.training.scoring import labelled_pictures

WORST = 6
"""How many are shown."""

WIDTH = 420
"""Columns of a picture in the report; larger ones are scaled down."""

ALPHA = 0.6
"""Share of a class's colour in what is painted."""

WRONG, NONE = (225, 35, 35), (60, 110, 215)
"""Colours of wrong pixels, and of those without a true label."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: its name, its figures in 0–1, and data addresses of what is shown of it."""

    name: str
    miou: float
    accuracy: float
    truth: str
    predicted: str
    wrong: str


def worst_frames(engine: Engine, samples: Sequence[Sample], evaluation: Evaluation, count: int = WORST) -> list[Frame]:
    """The pictures with the lowest mean IoU, labelled once more; of equal ones the first.

    Raises:
        EngineError: a file cannot be used, or the network failed.
    """
    mious = np.array([each.miou for each in evaluation.pictures])
    ranked = [int(index) for index in np.argsort(mious, kind="stable") if np.isfinite(mious[index])]
    chosen = ranked[:count]
    method, labels = evaluation.method, evaluation.labels
    labeller = Labeller(method.refinement)
    pictures = labelled_pictures([samples[index] for index in chosen], len(labels), method.ignore)
    frames = []
    for index, (image, truth) in zip(chosen, pictures, strict=True):
        predicted = label_picture(engine, image, method, labeller)[0]
        figures = evaluation.pictures[index]
        shown = (painted(image, truth, labels), painted(image, predicted, labels), mistakes(image, truth, predicted))
        frames.append(Frame(samples[index].name, figures.miou, figures.accuracy, *map(as_address, shown)))
    return frames


def painted(image: UInt8, classes: UInt8, labels: LabelSet) -> UInt8:
    """A picture, H×W×3, with the colours of its H×W classes; background and what has no class stay as they are."""
    colours = np.array(labels.palette, np.float32)
    hidden = classes == IGNORE
    if labels.background is not None:
        hidden |= classes == labels.background
    return _mixed(image, colours[np.where(hidden, 0, classes)], ~hidden)


def mistakes(image: UInt8, truth: UInt8, predicted: UInt8) -> UInt8:
    """A picture, H×W×3, in grey, its wrong pixels coloured."""
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    none = truth == IGNORE
    colours = np.where(none[..., None], np.array(NONE, np.float32), np.array(WRONG, np.float32))
    return _mixed(grey, colours, none | (truth != predicted))


def _mixed(
    image: npt.NDArray[np.uint8 | np.float64], colours: npt.NDArray[np.float32], where: npt.NDArray[np.bool_]
) -> UInt8:
    """A picture, H×W×3, with colours, H×W×3, laid over some of its pixels, H×W."""
    alpha = ALPHA * where[..., None]
    return np.asarray(np.rint(image * (1 - alpha) + colours * alpha), np.uint8)


def as_address(image: UInt8) -> str:
    """A picture as a data address of JPEG, no wider than `WIDTH`."""
    picture = Image.fromarray(image)
    picture.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
