"""Processor time of what `--temporal` and `--infer-every` add to a frame, on one core.

    python -m benchmarks.motion --json out/motion.json

On neighbouring frames of the street sample at 640×360, with scores of the size that `street` gives; the median and the
least of many repetitions, counted by the thread's own clock, so that other programs change little.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.clip import make_clip
from benchmarks.machine import describe
from engines import zoo
from pipeline.sources import SourceOptions, open_source
from pipeline.sources.base import Decoded
from pipeline.stages.motion import Guide, measure
from pipeline.stages.prepare import geometry_for
from pipeline.stages.propagate import Memory, State, carry, mix


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    flags = parser.parse_args()
    model = zoo.load_model("street")
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(open_source(str(make_clip(Path(folder) / "clip.mp4", 2)), SourceOptions())) as source,
    ):
        before, now = (item.frame for item in source.read() if isinstance(item, Decoded))
    geometry = geometry_for(now, model, model.size)
    cells = (geometry.input_height // 4, geometry.input_width // 4)  # `street` scores at a stride of 4
    random = np.random.default_rng(0)
    old, fresh = random.normal(size=(2, len(model.labels), *cells)).astype(np.float32)
    guides = Guide.of(now), Guide.of(before)
    motion = measure(*guides, geometry, cells)
    state, own = State(Memory.fresh(old), motion), Memory.fresh(fresh)
    steps: dict[str, Callable[[], object]] = {
        "guide": lambda: Guide.of(now),
        "motion and trust": lambda: measure(*guides, geometry, cells),
        "mix (--temporal)": lambda: mix(state, own),
        "compose": lambda: motion.after(motion),
        "carry (--infer-every)": lambda: carry(state),
    }
    figures = {name: timed(step, flags.repetitions) for name, step in steps.items()}
    temporal = sum(figures[name][0] for name in ("guide", "motion and trust", "mix (--temporal)"))
    print(f"{'step':<24}{'median ms':>10}{'least':>8}")
    print("\n".join(f"{name:<24}{median:>10.2f}{least:>8.2f}" for name, (median, least) in figures.items()))
    print(f"{'--temporal, a frame':<24}{temporal:>10.2f}")
    if flags.json:
        told = {name: {"median_ms": median, "least_ms": least} for name, (median, least) in figures.items()}
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps({"machine": describe(), "cells": cells, "steps": told}, indent=2) + "\n")


def timed(step: Callable[[], object], repetitions: int) -> tuple[float, float]:
    """Median and least processor time of a step, in milliseconds."""
    times = []
    for _ in range(repetitions):
        began = time.thread_time()
        step()
        times.append(1e3 * (time.thread_time() - began))
    return round(statistics.median(times), 3), round(min(times), 3)


if __name__ == "__main__":
    main()
