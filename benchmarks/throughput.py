"""Frames a second on a 640×360 file with `street`, against the floor and against real peers.

    python -m benchmarks.throughput --json out/throughput.json
    python -m benchmarks.throughput --precision fp32 --contenders ours,serial,usual --json out/throughput-fp32.json

The floor is the processor time of decode, prepare, engine, upsample, render and encode, each alone,
divided by the processors.  The peers are the loop that everybody writes (cv2, torch) and a competent
serial loop (PyAV, OpenVINO, cv2); see `benchmarks.contenders`.  With the fully connected CRF, in live
mode, the stream is held against the usual loop with pydensecrf at equal iterations, which gets fewer frames.
Rounds alternate, so that a machine whose speed drifts does not favour anybody; ratios are taken within a
round and their median is told.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path

from benchmarks.clip import make_clip
from benchmarks.contenders import CONTENDERS, Timing, measure
from benchmarks.machine import describe
from benchmarks.parts import Part, measure_parts
from pipeline.cpu import available_cpus


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=600, help="length of the clip (default: 600)")
    parser.add_argument("--crf-frames", type=int, default=30, help="for the usual loop with a CRF")
    parser.add_argument("--rounds", type=int, default=3, help="how often all are measured, in turn (default: 3)")
    parser.add_argument(
        "--precision", default="auto", choices=["auto", "fp32"], help="of every engine; torch runs fp32 (default: auto)"
    )
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="comma-separated; 'ours' must be there")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    """Measure, print the table, write the JSON."""
    flags = make_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder) / "clip.mp4", flags.frames)
        short = make_clip(Path(folder) / "short.mp4", min(flags.frames, flags.crf_frames))
        names = flags.contenders.split(",")
        out = Path(folder) / "out.mp4"
        rounds: list[tuple[list[Part], dict[str, Timing]]] = []
        for _ in range(flags.rounds):
            parts = measure_parts(clip, out, flags.frames, flags.precision)
            clips = {name: short if name == "usual-crf" else clip for name in names}
            timings = {name: measure(name, each, out, flags.precision) for name, each in clips.items()}
            rounds.append((parts, timings))
    cpus = available_cpus()
    figures = summarise(rounds, cpus)
    print(table(figures))
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        raw = [
            {"parts": [asdict(p) for p in parts], "runs": {n: asdict(t) for n, t in runs.items()}}
            for parts, runs in rounds
        ]
        told = {"machine": describe(), "precision": flags.precision, **figures, "rounds": raw}
        flags.json.write_text(json.dumps(told, indent=2) + "\n")


def summarise(rounds: list[tuple[list[Part], dict[str, Timing]]], cpus: float) -> dict[str, object]:
    """Medians over the rounds, of figures and of ratios within a round."""
    median = statistics.median
    names = [part.name for part in rounds[0][0]]
    parts = {name: median(_cost(parts, name) for parts, _ in rounds) for name in names}
    ideal = [1e3 * cpus / sum(part.cpu_ms for part in parts) for parts, _ in rounds]
    runs = list(rounds[0][1])
    fps = {name: median(timings[name].fps for _, timings in rounds) for name in runs}
    pairs = [("ours", name) for name in ("serial", "usual")] + [("ours-crf", "usual-crf")]
    ratios = {
        f"{one} / {other}": median(timings[one].fps / timings[other].fps for _, timings in rounds)
        for one, other in pairs
        if {one, other} <= set(runs)
    }
    share = median(timings["ours"].fps / best for (_, timings), best in zip(rounds, ideal, strict=True))
    return {"parts_ms": parts, "ideal_fps": median(ideal), "fps": fps, "ours / ideal": share, **ratios}


def _cost(parts: list[Part], name: str) -> float:
    return next(part.cpu_ms for part in parts if part.name == name)


def table(figures: dict[str, object]) -> str:
    """The figures for people."""
    lines = [f"{'part':<12}{'CPU ms a frame':>16}"]
    parts, fps = figures["parts_ms"], figures["fps"]
    assert isinstance(parts, dict) and isinstance(fps, dict)
    lines += [f"{name:<12}{cost:>16.2f}" for name, cost in parts.items()]
    lines += ["", f"{'loop':<12}{'FPS':>16}", f"{'ideal':<12}{figures['ideal_fps']:>16.1f}"]
    lines += [f"{name:<12}{value:>16.1f}" for name, value in fps.items()]
    lines += ["", *(f"{key:<22}{value:>6.2f}" for key, value in figures.items() if "/" in key)]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
