"""Resident memory, descriptors and threads after 3,000 frames, as after 300.

    python -m benchmarks.memory --json out/memory.json

A stream that grows by a kilobyte a frame has eaten a gigabyte by tomorrow.  What runs is the whole
stream in this process: the 640×360 clip over and over, `street` at a short side of 96 pixels (a leak
does not depend on the network's size, and the run stays at a minute or so), an overlay and masks.
The exit status is 1 where something has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.clip import make_clip
from benchmarks.machine import describe
from pipeline.options import InputOptions, ModelOptions, RunOptions
from pipeline.runner import Runner
from pipeline.sources import SourceOptions

PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024
CLIP_FRAMES = 300
MAX_GROWTH = 0.02
"""Share by which resident memory may differ; descriptors and threads are the same or not."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds.

    Attributes:
        frames: frames that had been processed.
        resident_mib: resident memory of this process, in MiB.
        descriptors: open files.
        threads: running threads.
    """

    frames: int
    resident_mib: float
    descriptors: int
    threads: int


def usage(frames: int) -> Usage:
    """What this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Usage(
        frames,
        round(pages * PAGE_KIB / 1024, 2),
        len(list(Path("/proc/self/fd").iterdir())),
        len(list(Path("/proc/self/task").iterdir())),
    )


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3000, help="length of the run (default: 3000)")
    parser.add_argument("--model", default="street", help="a name, or an ONNX file (default: street)")
    parser.add_argument("--size", type=int, default=96, help="short side of the network's input: small, to be quick")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    """Measure, print the table, write the JSON."""
    flags = make_parser().parse_args()
    marks = [flags.frames // 10, flags.frames]
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder) / "clip.mp4", CLIP_FRAMES)
        taken = measure(clip, Path(folder) / "out.mkv", flags.model, flags.size, marks)
    print(f"{'frames':>8}{'resident MiB':>16}{'descriptors':>14}{'threads':>10}")
    for one in taken:
        print(f"{one.frames:>8}{one.resident_mib:>16.1f}{one.descriptors:>14}{one.threads:>10}")
    growth = taken[-1].resident_mib / taken[0].resident_mib - 1
    print(f"growth {growth:+.2%}")
    grown = what_differs(taken[0], taken[-1])
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"machine": describe(), "usage": [asdict(one) for one in taken], "growth": growth}
        flags.json.write_text(json.dumps(figures, indent=2) + "\n")
    if grown:
        sys.exit(f"not as before: {', '.join(grown)}")


def what_differs(before: Usage, after: Usage) -> list[str]:
    """What is not as it was: memory beyond `MAX_GROWTH`, descriptors, threads."""
    same = {
        "resident memory": abs(after.resident_mib / before.resident_mib - 1) <= MAX_GROWTH,
        "descriptors": after.descriptors == before.descriptors,
        "threads": after.threads == before.threads,
    }
    return [name for name, holds in same.items() if not holds]


def measure(clip: Path, out: Path, model: str, size: int, marks: list[int]) -> list[Usage]:
    """Usage when so many frames have been processed, in one run with an overlay and masks."""
    options = RunOptions(
        inputs=(InputOptions(str(clip), outputs=(str(out),), masks=(str(out.with_name("masks.mkv")),)),),
        source=SourceOptions(loop=-(-marks[-1] // CLIP_FRAMES) + 1),
        model=ModelOptions(model, size),
    )
    taken: list[Usage] = []
    with Runner(options) as runner:

        def look() -> None:
            done = runner.frames
            if len(taken) < len(marks) and done >= marks[len(taken)]:
                taken.append(usage(done))
                if len(taken) == len(marks):
                    runner.stop()

        runner.run(look, tick=0.02)
    return taken


if __name__ == "__main__":
    main()
