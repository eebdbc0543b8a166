"""Counting over a set of labelled pictures, and the figures that come of it; killed in the middle, it goes on there."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from engines.base import Engine, EngineError
from engines.labels import LabelSet
from engines.training.datasets import Sample, UInt8
from engines.training.files import demand_same, number, write_bytes
from engines.training.metrics import WIDTHS, Confusion, Trimap
from engines.training.refining import Labeller, Refinement
from engines.training.scoring import Size, Views, labelled_pictures, score_views

SHOWN = (1, 2, 4, 8, 16, 40)
"""Widths of the trimap that people are told of; programs get them all."""

SAVED_EVERY = 5.0
"""Seconds of work that a killed evaluation loses at most, and the picture that it was at."""


class PictureFigures(NamedTuple):
    """What came out for one picture: shares in 0–1 (NaN where nothing is labelled) and seconds."""

    miou: float
    """Mean over the classes that the true labels have."""

    accuracy: float
    scoring: float
    labelling: float


class Counts:
    """What was counted so far, in the order of the pictures.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.confusion = Confusion(classes)
        self.trimap = Trimap(classes)
        self.pictures: list[PictureFigures] = []

    def add(self, truth: UInt8, labels: UInt8, scoring: float, labelling: float) -> None:
        """Count a picture: H×W labels, and the seconds that scores and labels took."""
        one = Confusion(len(self.confusion.counts))
        one.add(truth, labels)
        self.confusion.counts += one.counts
        self.trimap.add(truth, labels)
        there = one.counts.sum(1) > 0
        miou = float(one.iou()[there].mean()) if there.any() else float("nan")
        self.pictures.append(PictureFigures(miou, one.pixel_accuracy(), scoring, labelling))


class WorkFile:
    """What was counted so far, in a file that is always whole.

    Args:
        path: the file.
        evaluation: what the counts depend on; a file of another evaluation is refused.
    """

    def __init__(self, path: Path, evaluation: dict[str, Any]) -> None:
        self._path = path
        self._evaluation = json.loads(json.dumps(evaluation))

    def load(self, counts: Counts) -> None:
        """Take up what the file holds, if it is there.

        Raises:
            EngineError: it cannot be read, or is of another evaluation.
        """
        try:
            if not self._path.exists():
                return
            with np.load(self._path, allow_pickle=False) as held:
                told = json.loads(str(held["evaluation"]))
                arrays = [held[key] for key in ("confusion", "trimap", "pictures")]
            fresh = (
                counts.confusion.counts,
                counts.trimap.counts,
                np.empty((len(arrays[2]), len(PictureFigures._fields))),
            )
            if [(each.shape, each.dtype) for each in arrays] != [(each.shape, each.dtype) for each in fresh]:
                raise ValueError("its counts are not those of such an evaluation")
        except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise EngineError(f"{self._path}: not the state of an evaluation: remove it") from error
        demand_same(self._path, told, self._evaluation, "an evaluation", "--resume")
        counts.confusion.counts, counts.trimap.counts = arrays[0], arrays[1]
        counts.pictures = [PictureFigures(*map(float, row)) for row in arrays[2]]

    def save(self, counts: Counts) -> None:
        """Write what was counted.

        Raises:
            EngineError: the file cannot be written.
        """
        file = io.BytesIO()
        np.savez(
            file,
            evaluation=np.array(json.dumps(self._evaluation)),
            confusion=counts.confusion.counts,
            trimap=counts.trimap.counts,
            pictures=np.array(counts.pictures, np.float64).reshape(-1, len(PictureFigures._fields)),
        )
        write_bytes(self._path, file.getbuffer())


@dataclass(frozen=True, slots=True)
class Method:
    """How pictures are seen and labelled.

    Attributes:
        size: of the network's picture at scale 1.
        ignore: labels that mean none, besides 255 and the first beyond the classes.
        refinement: what becomes of the scores.
        views: in which sizes the network sees a picture.
    """

    size: Size
    ignore: tuple[int, ...] = ()
    refinement: Refinement = field(default_factory=Refinement)
    views: Views = field(default_factory=Views)

    def dependencies(self, engine: Engine, samples: Sequence[Sample]) -> dict[str, Any]:
        """All that counts depend on."""
        return {
            "model": engine.model.sha256,
            "engine": engine.info.backend,
            "arithmetic": engine.info.arithmetic,
            "set of pictures": pictures_key(samples),
            "size": self.size,
            "ignore": sorted(self.ignore),
            "refine": asdict(self.refinement),
            "scales": self.views.scales,
            "flip": self.views.flip,
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        labels: names, colours and background of the classes.
        confusion: pixels by true and predicted class.
        trimap: the same within bands around the edges of the true labels.
        pictures: figures of each picture, in order.
        method: how they were seen and labelled.
    """

    labels: LabelSet
    confusion: Confusion
    trimap: Trimap
    pictures: tuple[PictureFigures, ...]
    method: Method

    @property
    def milliseconds(self) -> float:
        """Median time of a picture from the decoded pixels to its labels; NaN without pictures."""
        return _milliseconds([each.scoring + each.labelling for each in self.pictures])

    @property
    def labelling(self) -> float:
        """The part of it between scores and labels, its median."""
        return _milliseconds([each.labelling for each in self.pictures])

    @property
    def without_background(self) -> float:
        """Mean IoU of the other classes, in 0–1; NaN where there is no background."""
        background = self.labels.background
        return self.confusion.mean_iou(without=background) if background is not None else float("nan")

    def to_json(self) -> dict[str, Any]:
        """``miou``, ``pixel_accuracy``, ``iou`` by class name and ``trimap`` by width, in 0–1; None for what never was.

        ``milliseconds`` a picture, those of them in ``labelling``, how the labels were made (``refine``), and in which
        sizes pictures were seen (``views``).
        """
        iou = dict(zip(self.labels.names, map(number, self.confusion.iou().tolist()), strict=True))
        refine: dict[str, Any] = {"kind": self.method.refinement.kind}
        if self.method.refinement.kind == "crf":
            refine |= {"mode": self.method.refinement.mode, "crf": asdict(self.method.refinement.crf)}
        return {
            "miou": number(self.confusion.mean_iou()),
            "pixel_accuracy": number(self.confusion.pixel_accuracy()),
            "iou": iou,
            "trimap": {str(width): number(self.trimap.band(width).mean_iou()) for width in WIDTHS},
            "milliseconds": number(self.milliseconds),
            "labelling_milliseconds": number(self.labelling),
            "pictures": len(self.pictures),
            "refine": refine,
            "views": {"scales": list(self.method.views.scales), "flip": self.method.views.flip},
            "miou_without_background": number(self.without_background),
        }

    def table(self) -> str:
        """The same for people, in percent."""
        figures = self.to_json()
        rows = [*figures["iou"].items(), ("mIoU", figures["miou"])]
        if self.labels.background is not None:
            rows.append(("mIoU without background", figures["miou_without_background"]))
        rows.append(("pixel accuracy", figures["pixel_accuracy"]))
        rows += [(f"trimap {width} px", figures["trimap"][str(width)]) for width in SHOWN]
        width = max(len(name) for name, _ in rows)
        lines = [
            f"{name:{width}}  {'absent' if value is None else format(100 * value, '6.2f')}" for name, value in rows
        ]
        if self.pictures:
            lines.append(f"{self.milliseconds:.1f} ms a picture, {self.labelling:.1f} ms of them from scores to labels")
        return "\n".join(lines)


def evaluate(
    engine: Engine,
    samples: Sequence[Sample],
    *,
    size: Size | None = None,
    ignore: Sequence[int] = (),
    refinement: Refinement | None = None,
    views: Views | None = None,
    work: Path | None = None,
) -> Evaluation:
    """Label pictures and count.

    Args:
        engine: the network.
        samples: pictures and their true labels.
        size: of the network's picture; the model's own where None.
        ignore: labels that mean none, besides 255 and the first beyond the classes.
        refinement: how the labels are sharpened; not at all where None.
        views: in which sizes the network sees a picture; once as it is where None.
        work: file where the counts are kept, and from which an earlier evaluation is taken up; nowhere where None.

    Raises:
        EngineError: a file cannot be used, or the network failed.
    """
    method = Method(size or engine.model.size, tuple(ignore), refinement or Refinement(), views or Views())
    counts = Counts(len(engine.model.labels))
    kept = WorkFile(work, method.dependencies(engine, samples)) if work is not None else None
    if kept is not None:
        kept.load(counts)
    try:
        _count(engine, samples, counts, method, kept)
    finally:
        if kept is not None:
            kept.save(counts)
    return Evaluation(engine.model.labels, counts.confusion, counts.trimap, tuple(counts.pictures), method)


def _count(engine: Engine, samples: Sequence[Sample], counts: Counts, method: Method, kept: WorkFile | None) -> None:
    """Label and count the pictures that were not yet."""
    done, saved = len(counts.pictures), float("-inf")  # the first at once: a file that cannot be written is told early
    labeller = Labeller(method.refinement)
    pairs = labelled_pictures(samples[done:], len(engine.model.labels), method.ignore)
    bar = tqdm(pairs, total=len(samples), initial=done, desc="evaluating", unit="picture", mininterval=0.5)
    for image, truth in bar:
        counts.add(truth, *label_picture(engine, image, method, labeller))
        bar.set_postfix(mIoU=f"{counts.confusion.mean_iou():.3f}", refresh=False)
        if kept is not None and time.monotonic() - saved > SAVED_EVERY:
            kept.save(counts)
            saved = time.monotonic()


def label_picture(engine: Engine, image: UInt8, method: Method, labeller: Labeller) -> tuple[UInt8, float, float]:
    """H×W labels of an RGB picture, H×W×3, and the seconds that its scores and its labels took.

    Raises:
        EngineError: the network failed.
    """
    began = time.perf_counter()
    scores, geometry = score_views(engine, image, method.size, method.views)
    scored = time.perf_counter()
    labels = labeller.labels(image, scores, geometry)
    return labels, scored - began, time.perf_counter() - scored


def pictures_key(samples: Sequence[Sample]) -> str:
    """A hash of which pictures and labels there are, and of when the labels were last changed.

    Raises:
        EngineError: a label file is not there any more.
    """
    try:
        told = [
            f"{each.image.resolve()}\t{each.labels.resolve()}\t{known.st_size}\t{known.st_mtime_ns}"
            for each in samples
            for known in (each.labels.stat(),)
        ]
    except OSError as error:
        raise EngineError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _milliseconds(seconds: Sequence[float]) -> float:
    return 1e3 * float(np.median(seconds)) if seconds else float("nan")
