"""Charts as SVG in data addresses, drawn by matplotlib."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from engines.base import EngineError
from engines.training.metrics import WIDTHS, Confusion, Trimap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_WRITTEN = 25
"""Classes up to which figures stand in the confusion matrix; with more they are too small to read."""

LEAST_WRITTEN = 0.5
"""Percent from which they do."""


def demand_matplotlib() -> None:
    """Refuse a report where nothing can draw it.

    Raises:
        EngineError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise EngineError("--html needs matplotlib: pip install 'deeplab-stream[train]'")


def _new_figure(width: float, height: float) -> Figure:
    """An empty figure of inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def edge_chart(trimap: Trimap, whole: Confusion) -> str:
    """Mean IoU and pixel accuracy within bands around the edges of true labels, by the bands' width; as an address.

    Args:
        trimap: what was counted within the bands.
        whole: what was counted everywhere, for comparison.
    """
    figure = _new_figure(7.2, 3.2)
    axes = figure.add_subplot()
    bands = [trimap.band(width) for width in WIDTHS]
    lines = {
        "mIoU": ([band.mean_iou() for band in bands], whole.mean_iou(), "#2b6cb0"),
        "pixel accuracy": ([band.pixel_accuracy() for band in bands], whole.pixel_accuracy(), "#c05621"),
    }
    for name, (values, everywhere, colour) in lines.items():
        axes.plot(WIDTHS, 100 * np.array(values), color=colour, label=name)
        axes.axhline(100 * everywhere, color=colour, linestyle=":", linewidth=1, label=f"{name}, whole pictures")
    axes.set(xlabel="width of the band on either side of an edge (pixels)", ylabel="%", xlim=(WIDTHS[0], WIDTHS[-1]))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return as_address(figure)


def confusion_chart(confusion: Confusion, names: Sequence[str]) -> str:
    """The confusion matrix with rows in percent of the true pixels of a class, as an address."""
    classes = len(names)
    side = max(4.5, min(classes, MOST_WRITTEN) * 0.42, classes * 0.2)
    figure = _new_figure(side + 1.5, side + 1)
    axes = figure.add_subplot()
    counts = confusion.counts.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shares = 100 * counts / counts.sum(1, keepdims=True)
    # The root brings out confusions, which are small beside what is right.
    axes.pcolormesh(np.sqrt(shares / 100), cmap="Blues", vmin=0, vmax=1, edgecolors="#e8ecf0", linewidth=0.4)
    size = 7 if classes > 12 else 8
    if classes <= MOST_WRITTEN:
        for row, column in np.argwhere(shares >= LEAST_WRITTEN):
            share = shares[row, column]
            colour = "white" if share > 40 else "#1c2430"
            axes.text(column + 0.5, row + 0.5, f"{share:.0f}", ha="center", va="center", fontsize=size, color=colour)
    places = np.arange(classes) + 0.5
    axes.set_xticks(places, names, rotation=90, fontsize=size)
    axes.set_yticks(places, names, fontsize=size)
    axes.set(xlabel="labelled as", ylabel="true class", aspect="equal")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.set_frame_on(False)
    return as_address(figure)


def as_address(figure: Figure) -> str:
    """A figure as a data address of SVG; equal figures give equal ones."""
    from matplotlib import rc_context

    file = io.BytesIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": "report"}):
        figure.savefig(file, format="svg", metadata=nothing)
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
