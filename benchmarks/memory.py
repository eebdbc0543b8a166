"""Resident memory, descriptors and threads after 3,000 frames, as after 300.

    python -m benchmarks.memory --json out/memory.json

    python -m benchmarks.memory --refine crf --json out/memory-crf.json

A stream that grows by a kilobyte a frame has eaten a gigabyte by tomorrow.  What runs is the whole
stream: the 640×360 clip over and over, `street` at a short side of 96 pixels (a leak does not depend
on the network's size, and the run stays at a minute or so), an overlay and masks; with `--refine` also
the worker processes, which are counted along with this one, memory that they share once.
The exit status is 1 where something has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.clip import make_clip
from benchmarks.machine import describe
from pipeline.options import InputOptions, ModelOptions, RunOptions
from pipeline.runner import Runner
from pipeline.runner.usage import started_by
from pipeline.sources import SourceOptions
from pipeline.stages.refine import RefineOptions

CLIP_FRAMES = 300
MAX_GROWTH = 0.02
"""Share by which resident memory may differ; descriptors, threads and processes are the same or not."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What processes hold.

    Attributes:
        frames: frames that had been processed.
        resident_mib: their own resident memory in MiB, of what n of them share the nth part for each.  Pages of files
            are left out: other programs map them, too, and the system drops them as it likes.
        descriptors: open files.
        threads: running threads.
        processes: how many they are.
    """

    frames: int
    resident_mib: float
    descriptors: int
    threads: int
    processes: int = 1


OWN = (Path("/proc/self"),)
"""This process."""


def family() -> tuple[Path, ...]:
    """This process and those that it has started."""
    return *OWN, *started_by(os.getpid())


def usage(frames: int, processes: Sequence[Path] = OWN) -> Usage:
    """What is held now."""
    return Usage(
        frames,
        round(sum(_share_kib(process) for process in processes) / 1024, 2),
        sum(len(list((process / "fd").iterdir())) for process in processes),
        sum(len(list((process / "task").iterdir())) for process in processes),
        len(processes),
    )


def _share_kib(process: Path) -> int:
    lines = (process / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3000, help="length of the run (default: 3000)")
    parser.add_argument("--model", default="street", help="a name, or an ONNX file (default: street)")
    parser.add_argument("--size", type=int, default=96, help="short side of the network's input: small, to be quick")
    parser.add_argument("--refine", default="none", choices=["none", "guided", "crf"], help="with worker processes")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    """Measure, print the table, write the JSON."""
    flags = make_parser().parse_args()
    marks = [flags.frames // 10, flags.frames]
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(Path(folder) / "clip.mp4", CLIP_FRAMES)
        taken = measure(clip, Path(folder) / "out.mkv", ModelOptions(flags.model, flags.size), flags.refine, marks)
    print(f"{'frames':>8}{'resident MiB':>16}{'descriptors':>14}{'threads':>10}{'processes':>12}")
    for one in taken:
        print(f"{one.frames:>8}{one.resident_mib:>16.1f}{one.descriptors:>14}{one.threads:>10}{one.processes:>12}")
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
    """What is not as it was: memory beyond `MAX_GROWTH`, descriptors, threads, processes."""
    same = {
        "resident memory": after.resident_mib / before.resident_mib - 1 <= MAX_GROWTH,
        "descriptors": after.descriptors == before.descriptors,
        "threads": after.threads == before.threads,
        "processes": after.processes == before.processes,
    }
    return [name for name, holds in same.items() if not holds]


def measure(clip: Path, out: Path, model: ModelOptions, refine: str, marks: list[int]) -> list[Usage]:
    """Usage when so many frames have been processed, in one run with an overlay and masks."""
    options = RunOptions(
        inputs=(InputOptions(str(clip), outputs=(str(out),), masks=(str(out.with_name("masks.mkv")),)),),
        source=SourceOptions(loop=-(-marks[-1] // CLIP_FRAMES) + 1),
        model=model,
        refine=RefineOptions(refine),
    )
    taken: list[Usage] = []
    with Runner(options) as runner:

        def look() -> None:
            done = runner.frames
            if len(taken) < len(marks) and done >= marks[len(taken)]:
                taken.append(usage(done, family()))
                if len(taken) == len(marks):
                    runner.stop()

        runner.run(look, tick=0.02)
    return taken


if __name__ == "__main__":
    main()
