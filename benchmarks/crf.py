"""The native CRF against pydensecrf: times, labels, and how far it is from the memory's bandwidth.

    python -m benchmarks.crf --data DIRECTORY --json docs/benchmarks/crf.json
    python -m benchmarks.crf --quick

One processor, one run: every row times pydensecrf and each mode in turn on the same picture, several
times over, and takes the best of each.  Times are of the processor, the process's own, so that others on the
machine count for little; only what two do together is timed by the clock.  pydensecrf is timed alone, from the
unary energies to the marginals; ours from the network's scores to labels, interpolation and all.  Without
``--data`` (camera pictures, scored by `street` and `voc`) there are synthetic pictures only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe
from benchmarks.pictures import SIZES, Picture, camera_pictures, synthetic
from pipeline.crf import MODES, CRFParameters, DenseCRF
from pipeline.crf.reference import Reference
from pipeline.crf.scores import unary_energy, upsample

GRAIN = 15.0
"""Standard deviation of a dark camera's noise, in levels: a lattice of many times the vertices."""

PARAMETERS = {"published": CRFParameters(), "wide": CRFParameters(3, 3, 10, 80, 13)}


@dataclass(frozen=True, slots=True)
class Row:
    """One picture in one mode.

    Attributes:
        picture, size, classes, parameters, mode, iterations: what was measured.
        ms: of the whole inference, one thread, processor time.
        pydensecrf_ms: of pydensecrf, in the same run.
        ratio: of the two.
        equal: share of all pixels labelled as by pydensecrf.
        equal_changed: the same of the pixels whose label pydensecrf changes.
        live_classes, vertices: classes that took part; vertices of the lattice of places and colours.
        moved_mb: megabytes that the iterations read and write if nothing stays in the caches and no pixel is frozen.
        floor_ms: how long that takes at the speed of a copy in memory.
    """

    picture: str
    size: str
    classes: int
    parameters: str
    mode: str
    iterations: int
    ms: float
    pydensecrf_ms: float
    ratio: float
    equal: float
    equal_changed: float
    live_classes: int
    vertices: int
    moved_mb: float
    floor_ms: float


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("DEEPLAB_STREAM_DATA"), help="camera pictures")
    parser.add_argument("--quick", action="store_true", help="one picture of each kind, 640×360, published parameters")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed; the best counts (default: 3)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    return parser


def main() -> None:
    """Measure, print the table, write the JSON."""
    flags = make_parser().parse_args()
    speed = copy_speed()
    cases = [
        (picture, name, iterations)
        for picture in pictures(flags.data, flags.quick)
        for name in (["published"] if flags.quick else PARAMETERS)
        for iterations in (5, 10)
    ]
    rows = [row for case in tqdm(cases, disable=None) for row in measure(*case, flags.rounds, speed)]
    print(table(rows))
    print(f"\ncopy in memory: {speed / 1e9:.1f} GB/s read and written", flush=True)
    two = two_of_everything(pictures_for_two(flags.data), 5 if flags.quick else 20)
    print("\n".join(f"{name:<70}{ratio:>8.2f}×" for name, ratio in two.items()))
    if flags.json:
        flags.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"machine": describe(), "copy_bytes_per_s": speed, "two": two, "rows": [asdict(row) for row in rows]}
        flags.json.write_text(json.dumps(figures, indent=1) + "\n")


def pictures(data: Path | None, quick: bool) -> Iterator[Picture]:
    """What is measured; camera pictures where there is data."""
    for size in SIZES[:1] if quick else SIZES:
        if data:
            found = list(camera_pictures(Path(data), size))
            yield from (found[1], found[4], found[7]) if quick else found
        for classes, alive in ((21, 21), (21, 8), (11, 11)):
            yield synthetic(size, classes, alive)
        yield synthetic(size, 21, 8, grain=GRAIN)


def measure(picture: Picture, name: str, iterations: int, rounds: int, speed: float) -> list[Row]:
    """Every mode and pydensecrf on one picture, in turn."""
    height, width = picture.image.shape[:2]
    classes, parameters = len(picture.logits), PARAMETERS[name]
    energy = unary_energy(upsample(picture.logits, picture.geometry)).reshape(classes, -1)
    raw = energy.argmin(0).reshape(height, width)
    reference = Reference(height, width, classes, parameters)
    crfs = {mode: DenseCRF(height, width, classes, parameters, mode=mode) for mode in MODES}
    labels = {
        mode: crf.labels(picture.image, picture.logits, geometry=picture.geometry, iterations=iterations)
        for mode, crf in crfs.items()
    }  # the first picture of a size also allocates
    best = dict.fromkeys(("pydensecrf", *MODES), float("inf"))
    truth = raw
    for _ in range(rounds):
        began = time.process_time()
        marginals = reference.minimise(picture.image, energy, iterations)
        best["pydensecrf"] = min(best["pydensecrf"], time.process_time() - began)
        truth = marginals.argmax(0)
        for mode, crf in crfs.items():
            began = time.process_time()
            crf.labels(
                picture.image, picture.logits, geometry=picture.geometry, iterations=iterations, out=labels[mode]
            )
            best[mode] = min(best[mode], time.process_time() - began)
    changed = truth != raw
    rows = []
    for mode, crf in crfs.items():
        stats = crf.stats
        assert stats is not None
        moved = stats.bytes_per_iteration * iterations
        same = labels[mode] == truth
        rows.append(
            Row(
                picture.name,
                f"{width}×{height}",
                classes,
                name,
                mode,
                iterations,
                best[mode] * 1e3,
                best["pydensecrf"] * 1e3,
                best["pydensecrf"] / best[mode],
                float(same.mean()),
                float(same[changed].mean()) if changed.any() else 1.0,
                stats.classes,
                stats.vertices,
                moved / 1e6,
                moved / speed * 1e3,
            )
        )
    return rows


def copy_speed(megabytes: int = 128) -> float:
    """Bytes read and written a second by a copy that no cache can hold."""
    source = np.ones(megabytes << 20, np.uint8)
    target = np.empty_like(source)
    np.copyto(target, source)
    return 2 * source.nbytes / min(_seconds(lambda: np.copyto(target, source)) for _ in range(5))


def pictures_for_two(data: Path | None) -> Iterator[Picture]:
    """A synthetic picture, which is undecided all over, and one of a camera, where live leaves most points out."""
    yield synthetic(SIZES[0], 21, 21)
    if data:
        yield next(camera_pictures(Path(data), SIZES[0]))


def two_of_everything(pictures: Iterable[Picture], frames: int) -> dict[str, float]:
    """How much more two threads in a picture, and two processes over pictures, get done than one."""
    found = {}
    for picture in pictures:
        for mode in MODES:
            one, both = (_DenseRun(picture, mode, threads) for threads in (1, 2))
            pairs = [(_seconds(one), _seconds(both)) for _ in range(max(3, frames // 4))]
            ratio = min(p[0] for p in pairs) / min(p[1] for p in pairs)
            found[f"{picture.name}: two threads in a picture, {mode}"] = ratio
        found[f"{picture.name}: two processes over pictures, pruned"] = _two_processes(picture, frames)
    return found


def _two_processes(picture: Picture, frames: int) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, _prepare, (picture,)) as pool:
        # Both are warm once each has had a job that took time.
        pool.map(_label, [3, 3], chunksize=1)
        alone = _seconds(lambda: pool.map(_label, [frames], chunksize=1))
        shared = _seconds(lambda: pool.map(_label, [frames, frames], chunksize=1))
    return 2 * alone / shared


class _DenseRun:
    """One inference, to be timed."""

    def __init__(self, picture: Picture, mode: str, threads: int) -> None:
        self._picture = picture
        height, width = picture.image.shape[:2]
        self._crf = DenseCRF(height, width, len(picture.logits), CRFParameters(), mode=mode, threads=threads)
        self()

    def __call__(self) -> None:
        picture = self._picture
        self._crf.labels(picture.image, picture.logits, geometry=picture.geometry)


_run: _DenseRun | None = None


def _prepare(picture: Picture) -> None:
    global _run  # noqa: PLW0603 - a worker process has one job
    _run = _DenseRun(picture, "pruned", 1)


def _label(frames: int) -> None:
    assert _run is not None
    for _ in range(frames):
        _run()


def _seconds(job: Callable[[], object]) -> float:
    began = time.perf_counter()
    job()
    return time.perf_counter() - began


def table(rows: list[Row]) -> str:
    """The figures for people."""
    lines = [
        f"{'picture':<38}{'size':<9}{'C':>3} {'parameters':<11}{'mode':<7}{'it':>3}{'ms':>8}{'pydense':>9}{'ratio':>7}"
        f"{'equal':>9}{'changed':>9}{'live':>5}{'vertices':>9}{'MB':>7}{'floor':>7}"
    ]
    lines += [
        f"{r.picture[:37]:<38}{r.size:<9}{r.classes:>3} {r.parameters:<11}{r.mode:<7}{r.iterations:>3}{r.ms:>8.1f}"
        f"{r.pydensecrf_ms:>9.0f}{r.ratio:>6.1f}×{r.equal:>9.5f}{r.equal_changed:>9.4f}{r.live_classes:>5}"
        f"{r.vertices:>9}{r.moved_mb:>7.0f}{r.floor_ms:>7.1f}"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
