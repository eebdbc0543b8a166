"""What is told beside the masks: one JSON line about the stream, and one a frame."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from fractions import Fraction

from engines.masking import hide
from pipeline.frame import Result
from pipeline.sinks.base import OutputInfo

FORMAT = "deeplab-stream masks"
VERSION = 1

Json = dict[str, object]


def header(info: OutputInfo, height: int, width: int, segment: int = 1) -> Json:
    """The first line.

    Args:
        info: the stream and the model.
        height, width: size of the masks, in pixels.
        segment: number of the file, counted from 1 (a stream that changes its size fills several).

    Returns:
        ``format``, ``version``, ``source`` (credentials masked), ``model``, ``model_sha256``,
        ``classes`` (in label order: ``name``, ``colour`` as sRGB 0–255), ``background`` (label or
        null), ``time_base`` and ``sample_aspect_ratio`` (numerator, denominator), ``height``,
        ``width``, ``segment``.
    """
    labels = info.labels
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": hide(info.stream.uri),
        "model": info.model,
        "model_sha256": info.model_sha256,
        "classes": [
            {"name": name, "colour": list(colour)} for name, colour in zip(labels.names, labels.palette, strict=True)
        ],
        "background": labels.background,
        "time_base": _ratio(info.stream.time_base),
        "height": height,
        "width": width,
        "sample_aspect_ratio": _ratio(info.stream.sample_aspect_ratio),
        "segment": segment,
    }


def frame(result: Result, sequence: int) -> Json:
    """The line of one frame.

    Args:
        result: the frame.
        sequence: how many masks this output holds before it (over all segments).

    Returns:
        ``sequence``, ``index`` (of the frame in its stream), ``pts`` (seconds, exact: numerator,
        denominator), ``wall`` (clock at capture, ISO 8601, UTC, microseconds), ``refined``, ``shares``
        (of the picture, by class).
    """
    seconds, nanoseconds = divmod(result.frame.wall_ns, 10**9)
    wall = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
    return {
        "sequence": sequence,
        "index": result.index,
        "pts": _ratio(result.pts),
        "wall": wall.isoformat(timespec="microseconds"),
        "refined": result.refined,
        "shares": [round(float(share), 6) for share in result.shares],
    }


def line(record: Json) -> bytes:
    """A record as one line of UTF-8."""
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _ratio(value: Fraction) -> list[int]:
    return [value.numerator, value.denominator]
