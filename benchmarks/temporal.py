"""What the network on every Nth frame costs and gives: accuracy, steadiness and speed of the stream on a labelled clip.

    python -m benchmarks.temporal --clip street.mp4 --labels labels/ --output docs/temporal.svg --json out/temporal.json

Accuracy and steadiness by `python -m engines evaluate-video`'s own function.  Speed is that of whole runs, decoding and
painting included, without an encoder: frames a second, and processor time of all threads a frame, which another
program on the machine changes less; the best of some rounds, in which all ways take turns.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from engines.training.evaluate_video import VideoEvaluation, evaluate_video, find_labels, video_options
from pipeline.config import FLAGS, load_options
from pipeline.options import InputOptions
from pipeline.runner import Runner

EVERY: tuple[int | str, ...] = (1, 2, 3, 5, 8, "auto")


@dataclass(frozen=True, slots=True)
class Way:
    """One way through the stream: the network on every Nth frame, and whether scores are mixed along the motion."""

    every: int | str
    temporal: bool

    @property
    def flags(self) -> dict[str, Any]:
        """By the names of the command line's."""
        return {"infer_every": self.every, "temporal": self.temporal}


@dataclass(frozen=True, slots=True)
class Point:
    """What a way gives and costs; shares in 0–1."""

    every: int | str
    temporal: bool
    key_share: float
    miou: float
    vc8: float
    vc16: float
    flicker: float
    flicker_settled: float
    tc: float
    fps: float
    processor_ms: float


def main() -> None:
    """Measure, plot, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", required=True, help="a video every frame of which has labels")
    parser.add_argument("--labels", type=Path, required=True, help="directory of its label pictures")
    parser.add_argument("--model", default="street")
    parser.add_argument("--size", type=int, help="short side of the network's input (default: the model's)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--note", default="", help="said under the title, e.g. what the model was trained on")
    parser.add_argument("--output", type=Path, default=Path("out/temporal.svg"), help=".svg or .png")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    flags = parser.parse_args()
    ways = [Way(every, temporal) for temporal in (False, True) for every in EVERY]
    labels = find_labels(flags.labels)
    size = {} if flags.size is None else {"size": flags.size}
    found = [evaluate_video(video_options(flags.clip, flags.model, **way.flags, **size), labels) for way in ways]
    speeds: list[list[tuple[float, float]]] = [[] for _ in ways]
    for _ in range(flags.rounds):
        for way, times in zip(ways, speeds, strict=True):
            times.append(speed(flags.clip, flags.model, {**way.flags, **size}))
    points = [point(*each) for each in zip(ways, found, speeds, strict=True)]
    title = f"{flags.model} on {Path(flags.clip).stem}, {found[0].frames} frames"
    flags.output.parent.mkdir(parents=True, exist_ok=True)
    plot(points, f"{title}\n{flags.note}" if flags.note else title, flags.output)
    print("\n".join(table(points)))
    if flags.json:
        figures = {"machine": describe(), "title": title, "note": flags.note, "points": [asdict(one) for one in points]}
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        flags.json.write_text(json.dumps(figures, indent=2) + "\n")


def speed(clip: str, model: str, flags: dict[str, Any]) -> tuple[float, float]:
    """Frames a second and processor seconds a frame of one run."""
    overrides: dict[tuple[str, ...], Any] = {FLAGS[name]: value for name, value in flags.items()}
    overrides |= {("model", "name"): model, ("mode",): "lossless"}
    overrides[("inputs",)] = (InputOptions(clip, outputs=("null",)),)
    with Runner(load_options(None, overrides)) as runner:
        began = time.process_time()
        report = runner.run()
        taken = time.process_time() - began
    return report.fps, taken / report.frames


def point(way: Way, found: VideoEvaluation, speeds: Sequence[tuple[float, float]]) -> Point:
    """One row."""
    assert found.confusion is not None
    share = found.propagation.key_share if found.propagation is not None else 1.0
    return Point(
        way.every,
        way.temporal,
        share,
        round(found.confusion.mean_iou(), 5),
        round(found.consistency[8], 5),
        round(found.consistency[16], 5),
        round(found.flicker, 6),
        round(found.settled, 6),
        round(found.temporal, 5),
        max(fps for fps, _ in speeds),
        round(1e3 * min(seconds for _, seconds in speeds), 2),
    )


def plot(points: Sequence[Point], title: str, path: Path) -> None:
    """Three panels against the processor time of a frame: mIoU, TC, flicker."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    mpl.rcParams |= {"svg.hashsalt": "temporal", "font.size": 9}  # equal figures give an equal file
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 4.2), layout="constrained")
    said = {"miou": "mIoU, %", "tc": "temporal consistency, %", "flicker": "flicker, %"}
    for panel, (what, name) in zip(panels, said.items(), strict=True):
        for temporal, text in ((False, "--infer-every N"), (True, "with --temporal")):
            own = [one for one in points if one.temporal == temporal]
            line = [one for one in own if one.every != "auto"]
            drawn = panel.plot(*zip(*((one.processor_ms, 100 * getattr(one, what)) for one in line), strict=True),
                               "o-", markersize=4, linewidth=1, label=text)  # fmt: skip
            for one in own:
                at = (one.processor_ms, 100 * getattr(one, what))
                if one.every == "auto":
                    panel.plot(*at, "*", markersize=9, color=drawn[0].get_color())
                panel.annotate(str(one.every), at, xytext=(3, 3), textcoords="offset points", fontsize=7)
        panel.set(xlabel="processor milliseconds a frame", ylabel=name)
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def table(points: Sequence[Point]) -> Iterator[str]:
    """The figures for people."""
    yield (
        f"{'every':<6}{'temporal':<10}{'keys':>6}{'mIoU':>7}{'VC8':>7}{'VC16':>7}{'TC':>7}{'flicker':>9}{'settled':>9}"
        f"{'FPS':>7}{'CPU ms':>8}"
    )
    for one in points:
        yield (
            f"{one.every!s:<6}{'yes' if one.temporal else 'no':<10}{one.key_share:>6.0%}{100 * one.miou:>7.2f}"
            f"{100 * one.vc8:>7.2f}{100 * one.vc16:>7.2f}{100 * one.tc:>7.2f}{100 * one.flicker:>9.3f}"
            f"{100 * one.flicker_settled:>9.3f}{one.fps:>7.1f}{one.processor_ms:>8.1f}"
        )


if __name__ == "__main__":
    main()
