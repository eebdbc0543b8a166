"""The report's page: figures, tables and pictures put into ``page.html``."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources
from string import Template

import numpy as np

from engines.training.evaluation import Evaluation
from engines.training.report.charts import confusion_chart, edge_chart
from engines.training.report.frames import Frame

EDGE = 4
"""Width of the band whose mIoU stands among the main figures, in pixels."""

Facts = Sequence[tuple[str, str]]
"""What an evaluation depends on, for people: names and values."""


def html_report(evaluation: Evaluation, title: str, facts: Facts, worst: Sequence[Frame]) -> str:
    """The page.

    Args:
        evaluation: what came out.
        title: heading of the page.
        facts: how it was measured.
        worst: pictures to show, the worst first.
    """
    template = resources.files("engines.training.report").joinpath("page.html").read_text(encoding="utf-8")
    confusion = evaluation.confusion
    return Template(template).substitute(
        title=escape(title),
        lead=f"{len(evaluation.pictures)} pictures, {int(confusion.counts.sum()):,} labelled pixels",
        cards="".join(_card(value, name) for name, value in _figures(evaluation)),
        classes="\n".join(_class_rows(evaluation)),
        edges=_image(edge_chart(evaluation.trimap, confusion), "mIoU and pixel accuracy by distance from an edge"),
        confusion=_image(confusion_chart(confusion, evaluation.labels.names), "confusion matrix"),
        worst="\n".join(map(_figure, worst)) or "<p>There are none.</p>",
        facts="\n".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts),
    )


def _figures(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The main figures: names and values."""
    figures = [("mIoU", percent(evaluation.confusion.mean_iou()))]
    if evaluation.labels.background is not None:
        figures.append(("mIoU without background", percent(evaluation.without_background)))
    figures += [
        ("pixel accuracy", percent(evaluation.confusion.pixel_accuracy())),
        (f"mIoU within {EDGE} px of an edge", percent(evaluation.trimap.band(EDGE).mean_iou())),
    ]
    if evaluation.pictures:
        figures.append(("a picture, median", f"{evaluation.milliseconds:.1f} ms"))
    return figures


def _card(value: str, name: str) -> str:
    return f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'


def _class_rows(evaluation: Evaluation) -> list[str]:
    """A row of the table for each class."""
    confusion = evaluation.confusion
    counts = confusion.counts.astype(np.float64)
    with np.errstate(invalid="ignore"):
        precision, recall = np.diag(counts) / counts.sum(0), np.diag(counts) / counts.sum(1)
        share = counts.sum(1) / counts.sum()
    rows = []
    for index, (name, iou) in enumerate(zip(evaluation.labels.names, confusion.iou().tolist(), strict=True)):
        colour = "#{:02x}{:02x}{:02x}".format(*evaluation.labels.palette[index])
        bar = f'<div class="bar"><i style="width:{100 * np.nan_to_num(iou):.1f}%"></i></div>'
        others = "".join(f'<td class="n">{percent(each[index])}</td>' for each in (precision, recall, share))
        rows.append(
            f'<tr><td class="name"><span class="swatch" style="background:{colour}"></span>{escape(name)}</td>'
            f'<td class="n">{percent(iou)}</td><td class="wide">{bar}</td>{others}</tr>'
        )
    return rows


def _image(address: str, alt: str) -> str:
    return f'<img class="chart" src="{address}" alt="{escape(alt)}">'


def _figure(frame: Frame) -> str:
    """One of the worst pictures."""
    parts = (("true labels", frame.truth), ("predicted", frame.predicted), ("wrong", frame.wrong))
    views = "".join(f'<div>{name}<img src="{address}" alt="{name}"></div>' for name, address in parts)
    figures = f"mIoU {percent(frame.miou)}, pixel accuracy {percent(frame.accuracy)}"
    caption = f"<figcaption><b>{escape(frame.name)}</b> {figures}</figcaption>"
    return f'<figure>{caption}<div class="views">{views}</div></figure>'


def percent(share: float) -> str:
    """A share of 0–1 for people; a dash for NaN."""
    return f"{100 * share:.2f}" if np.isfinite(share) else "–"
