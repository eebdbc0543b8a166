"""Models in words, for ``python -m engines info``."""

from __future__ import annotations

from engines.base import Model
from engines.catalogue import Download, PublishedCRF, ZooEntry
from engines.facts import PREFIX
from engines.fetch import shown
from engines.onnx_metadata import read_header

TOLD_ELSEWHERE = {"name", "labels", "palette", "licence", "size", "output_stride", "align_corners", "background"}
"""Metadata of a file that `describe_model` shows in words."""

Rows = list[tuple[str, str]]


def describe_model(model: Model, entry: ZooEntry | None) -> Rows:
    """What a model's file says of itself, and what is published of it where it is a named one."""
    grid = f"{model.output_stride}k + 1" if model.align_corners else f"{model.output_stride}k"
    sides = "{1}×{0}, no other".format(*model.fixed_size) if model.fixed_size else f"any; sides of {grid} pixels"
    rows = [
        ("name", model.name),
        ("about", entry.about if entry else "-"),
        ("file", f"{model.path} ({model.path.stat().st_size / 1e6:.1f} MB)"),
        ("sha256", model.sha256),
        ("licence", model.licence),
        *(_published(entry) if entry else [("accuracy", "-")]),
        ("input", f"{model.input_name}: {model.input_dtype} {model.layout} {model.channels}"),
        ("normalisation", f"mean {model.mean}, std {model.std}" if model.mean else "inside the graph"),
        ("input size", sides),
        _corners(model),
        ("short side", f"{model.size} pixels unless --size is given"),
        ("arithmetic", "int8 (quantised)" if model.quantised else "float"),
        ("classes", f"{len(model.labels)}: {', '.join(model.labels.names)}"),
    ]
    told = read_header(model.path).properties
    others = sorted(key.removeprefix(PREFIX) for key in told if key.startswith(PREFIX))
    return rows + [(key.replace("_", " "), told[PREFIX + key]) for key in others if key not in TOLD_ELSEWHERE]


def describe_entry(entry: ZooEntry) -> Rows:
    """What is known of a named model that is not here."""
    return [
        ("name", entry.name),
        ("about", entry.about),
        ("licence", entry.licence),
        *_published(entry),
        ("short side", f"{entry.size} pixels unless --size is given"),
        _corners(entry),
        ("classes", f"{len(entry.labels)}: {', '.join(entry.labels.names)}"),
    ]


def _corners(of: Model | ZooEntry) -> tuple[str, str]:
    return "corners", "laid on corners (align_corners)" if of.align_corners else "half pixels (no align_corners)"


def _published(entry: ZooEntry) -> Rows:
    rows = [("accuracy", entry.accuracy or "not published")]
    if entry.recipe is not None:
        scales = ", ".join(f"{scale:g}" for scale in entry.recipe.scales)
        at = f", at the scales {scales}" if len(entry.recipe.scales) > 1 else ""
        rows.append(("architecture", f"{entry.recipe.network}, output stride {entry.output_stride}{at}"))
    if entry.download is not None:
        rows += [("published", entry.download.url), ("its sha256", _hash(entry.download))]
    if entry.picture is not None:
        mean, std = (", ".join(f"{number:g}" for number in each) for each in (entry.picture.mean, entry.picture.std))
        rows.append(("trained on", f"{entry.picture.channels} of 0–255, mean {mean}, std {std}"))
    if entry.crf is not None:
        rows.append(("its CRF", _spelled(entry.crf)))
    return rows


def _hash(download: Download) -> str:
    if download.sha256 is None:
        return "not published: that of the first download is recorded"
    return shown(download.sha256)


def _spelled(crf: PublishedCRF) -> str:
    return (
        f"--config {crf.preset}: pos_w {crf.pos_w:g}, pos_xy {crf.pos_xy:g}, bi_w {crf.bi_w:g}, bi_xy {crf.bi_xy:g}, "
        f"bi_rgb {crf.bi_rgb:g}, {crf.iterations} iterations"
    )
