"""`python -m engines tune-crf`: the CRF's parameters that give a model's labels the best mIoU.

The appearance kernel is searched in the ranges of DeepLab (Chen et al., TPAMI 2017, section 4.1): its weight
from 3 to 6, its reach from 30 to 100 pixels, its colours from 3 to 6 levels, with the smoothness kernel held at
weight 3 and 3 pixels, on 100 pictures.  From coarse to fine: the ends and the middle of each range,
then around the best with half the step, and so on.  A network that knows edges well may want weaker
kernels than those of the paper: other ranges can be given.

Scores do not depend on the CRF and are computed once.  They and the figure of each set of parameters
are kept in a directory, from which a search that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engines import zoo
from engines.backends import open_engine
from engines.backends.common import available_cpus
from engines.base import Engine, EngineError, EngineOptions
from engines.training.datasets import Sample
from engines.training.evaluate import add_data_arguments, check_data_arguments, chosen_samples
from engines.training.evaluation import pictures_key
from engines.training.files import demand_directory_of, demand_same, write_bytes, write_json, write_text
from engines.training.metrics import Confusion, Trimap
from engines.training.refining import CRF_MODES, Labeller, Refinement
from engines.training.scoring import Size, labelled_pictures, picture_geometry, score
from pipeline.crf import CRFParameters

EXAMPLES = """\
examples:
  python -m engines tune-crf --model street --root data/camvid --split val --output tuned.yaml
  python -m engines tune-crf --model street --root data/camvid --split val --output tuned.yaml --limit 20 --rounds 2
  python -m engines tune-crf --model street --root data/camvid --split val --output weak.yaml --range bi_w=0.5:3
  python -m engines evaluate --model street --root data/camvid --split val --config tuned.yaml
  python run_pipeline.py --input street.mp4 --output sharp.mp4 --config tuned.yaml
"""

Ranges = Mapping[str, tuple[float, float]]
"""By parameter the ends of what is searched; equal ones hold it."""

RANGES: Ranges = {
    "pos_w": (3.0, 3.0),
    "pos_xy": (3.0, 3.0),
    "bi_w": (3.0, 6.0),
    "bi_xy": (30.0, 100.0),
    "bi_rgb": (3.0, 6.0),
}
"""Of the paper."""

PICTURES = 100
"""As many as the paper took."""

TRIMAP = 4
"""Width of the band that is told beside mIoU, in pixels."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How good labels are: mIoU of all pixels and of those within `TRIMAP` of an edge, in 0–1."""

    miou: float
    trimap: float


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        parameters: the best.
        best: their figures.
        bilinear: without a CRF.
        tried: sets of parameters measured.
    """

    parameters: CRFParameters
    best: Figures
    bilinear: Figures
    tried: int


class State:
    """Figures that are known already, in a file that is always whole.

    Args:
        path: the file; read if it is there.
        search: what they depend on; a file of another search is refused.

    Raises:
        EngineError: the file cannot be read, or is of another search.
    """

    def __init__(self, path: Path, search: dict[str, Any]) -> None:
        self._path = path
        self._tree: dict[str, Any] = {"search": search, "figures": {}}
        try:
            if path.exists():
                self._tree = json.loads(path.read_text(encoding="utf-8"))
                demand_same(path, self._tree["search"], search, "a search", "--work")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise EngineError(f"{path}: not the state of a search: {error}; remove it") from error

    def figures(self, refinement: Refinement, measure: Callable[[Refinement], Figures]) -> Figures:
        """What is known of a refinement, or what ``measure`` finds, which then is known."""
        key = json.dumps(asdict(refinement), sort_keys=True)
        if key not in self._tree["figures"]:
            self._tree["figures"][key] = asdict(measure(refinement))
            write_json(self._path, self._tree)
        return Figures(**self._tree["figures"][key])


class Scored:
    """The pictures of a search and their scores, each computed at most once.

    Args:
        samples: pictures and their true labels.
        folder: where scores are kept.
        engine: gives the scores that are missing.
        size: of the network's picture.
        ignore: labels that mean none.
        threads: how many pictures are labelled at a time.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        folder: Path,
        engine: Engine,
        *,
        size: Size,
        ignore: Sequence[int],
        threads: int,
    ) -> None:
        self._samples = samples
        self._folder = folder
        self._engine = engine
        self._size = size
        self._ignore = ignore
        self._threads = threads
        self._classes = len(engine.model.labels)

    def __len__(self) -> int:
        return len(self._samples)

    def compute(self) -> None:
        """Compute the scores that are missing.

        Raises:
            EngineError: a picture cannot be read, or its scores cannot be written.
        """
        missing = [(number, sample) for number, sample in enumerate(self._samples) if not self._path(number).exists()]
        pictures = labelled_pictures([sample for _, sample in missing], self._classes, self._ignore)
        bar = tqdm(zip(missing, pictures, strict=True), total=len(missing), desc="scoring", unit="picture")
        for (number, _), (image, _) in bar:
            scores, _ = score(self._engine, image, self._size)
            file = io.BytesIO()
            np.save(file, scores)
            write_bytes(self._path(number), file.getbuffer())

    def measure(self, refinement: Refinement, step: Callable[[], object]) -> Figures:
        """Label all pictures and count; ``step`` is called after each.

        Raises:
            EngineError: a file cannot be read, or parameters do not fit the pictures.
        """
        shares = [range(first, len(self._samples), self._threads) for first in range(self._threads)]
        with ThreadPoolExecutor(self._threads, "crf") as pool:  # the kernels let other threads run meanwhile
            parts = list(pool.map(lambda share: self._count(refinement, share, step), shares))
        whole, band = Confusion(self._classes), Confusion(self._classes)
        for one, near in parts:
            whole.counts += one.counts
            band.counts += near.band(TRIMAP).counts
        return Figures(whole.mean_iou(), band.mean_iou())

    def _count(self, refinement: Refinement, share: range, step: Callable[[], object]) -> tuple[Confusion, Trimap]:
        labeller = Labeller(refinement)
        confusion, trimap = Confusion(self._classes), Trimap(self._classes)
        samples = [self._samples[number] for number in share]
        pairs = labelled_pictures(samples, self._classes, self._ignore)
        for number, (image, truth) in zip(share, pairs, strict=True):
            geometry = picture_geometry(self._engine.model, image, self._size)
            labels = labeller.labels(image, np.load(self._path(number)), geometry)
            confusion.add(truth, labels)
            trimap.add(truth, labels)
            step()
        return confusion, trimap

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:05d}-{self._samples[number].name}.npy"


def points(ranges: Ranges, round_: int, around: dict[str, float] | None) -> Iterator[dict[str, float]]:
    """Sets of parameters of a round of the search: three values of each that is not held, but within its range.

    Args:
        ranges: what is searched.
        round_: counted from 0, each with half the step of the one before.
        around: the best so far; None in the first round, which takes the ends and the middle of each range.
    """
    axes = []
    for name, (low, high) in ranges.items():
        middle = (low + high) / 2 if around is None else around[name]
        step = (high - low) / 2 ** (round_ + 1)
        axes.append(sorted({value for value in (middle - step, middle, middle + step) if low <= value <= high}))
    for values in itertools.product(*axes):
        yield dict(zip(ranges, values, strict=True))


def search(scored: Scored, state: State, ranges: Ranges, *, rounds: int, iterations: int, mode: str) -> Found:
    """Find the parameters with the best mIoU; of equal ones the first.

    Raises:
        EngineError: as `Scored.measure`.
    """
    best: tuple[Figures, dict[str, float]] | None = None
    tried: set[str] = set()
    pictures, most = len(scored), len(list(points(ranges, 0, None)))
    with tqdm(total=(most * rounds + 1) * pictures, desc="searching", unit="picture", mininterval=0.5) as bar:

        def figures(refinement: Refinement) -> Figures:
            """From the state or measured; the bar moves on by as many pictures either way."""
            before = bar.n
            found = state.figures(refinement, lambda one: scored.measure(one, bar.update))
            bar.update(pictures - (bar.n - before))
            return found

        bilinear = figures(Refinement())
        for round_ in range(rounds):
            around = best[1] if best is not None else None
            chosen = list(points(ranges, round_, around))
            bar.update((most - len(chosen)) * pictures)
            for values in chosen:
                got = figures(_refinement(values, iterations, mode))
                tried.add(json.dumps(values))
                if best is None or got.miou > best[0].miou:
                    best = (got, values)
                bar.set_postfix(mIoU=f"{best[0].miou:.4f}", without=f"{bilinear.miou:.4f}", refresh=False)
    assert best is not None
    return Found(_refinement(best[1], iterations, mode).crf, best[0], bilinear, len(tried))


def preset(found: Found, what: str) -> str:
    """A preset of the stream that turns the CRF on with these parameters."""
    crf = ", ".join(f"{key}: {value:g}" if isinstance(value, float) else f"{key}: {value}" for key, value in
                    asdict(found.parameters).items())  # fmt: skip
    return f"# The fully connected CRF for {what}:\n# {told(found)}.\nrefine:\n  kind: crf\n  crf: {{{crf}}}\n"


def told(found: Found) -> str:
    """What was found, a line for people."""
    best, without = found.best, found.bilinear
    return (
        f"mIoU {100 * best.miou:.2f} with it and {100 * without.miou:.2f} without, "
        f"within {TRIMAP} px of an edge {100 * best.trimap:.2f} and {100 * without.trimap:.2f}"
    )


def _refinement(values: dict[str, Any], iterations: int, mode: str) -> Refinement:
    try:
        return Refinement("crf", mode, CRFParameters(**values, iterations=iterations))
    except ValueError as error:
        raise EngineError(str(error)) from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_data_arguments(parser)
    parser.set_defaults(limit=PICTURES)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.yaml", help="the preset to write")
    parser.add_argument("--range", type=_range, action="append", default=[], metavar="NAME=LOW:HIGH", dest="ranges",
                        help=f"search this instead of the paper's range; NAME is {', '.join(RANGES)}")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3, help="each halves the step of the one before (default: 3)")
    parser.add_argument(
        "--crf-mode", choices=CRF_MODES, default="pruned", help="how near to the exact CRF (default: pruned)"
    )
    parser.add_argument(
        "--crf-iterations",
        type=int,
        default=10,
        metavar="N",
        help="mean-field iterations (default: 10, as in the paper)",
    )
    parser.add_argument("--work", type=Path, metavar="DIR", help="scores and state of the search; to go on, name the "
                        "same (default: OUTPUT.work)")  # fmt: skip


def _range(text: str) -> tuple[str, tuple[float, float]]:
    """NAME=LOW:HIGH, or NAME=VALUE to hold a parameter."""
    name, _, ends = text.partition("=")
    low, _, high = ends.partition(":")
    try:
        found = float(low), float(high or low)
    except ValueError:
        found = 1.0, 0.0
    if name not in RANGES or not found[0] <= found[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is no range: write NAME=LOW:HIGH, NAME being {', '.join(RANGES)}")
    return name, found


def run(args: argparse.Namespace) -> int:
    """Run the command; returns its exit code.

    Raises:
        EngineError: with a message of one line.
    """
    check_data_arguments(args)
    if not 1 <= args.rounds <= 8:
        raise EngineError(f"--rounds {args.rounds} is out of range: 1 to 8")
    ranges = {**RANGES, **dict(args.ranges)}
    for end in (0, 1):
        _refinement({name: ends[end] for name, ends in ranges.items()}, args.crf_iterations, args.crf_mode)
    demand_directory_of(args.output)
    model = zoo.load_model(args.model, args.precision)
    samples = chosen_samples(args, model)
    size, work = args.size or model.size, args.work or args.output.with_name(f"{args.output.name}.work")
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EngineError(f"{work}: cannot be made: {error.strerror}") from error
    state = State(
        work / "state.json",
        {"model": model.sha256, "set of pictures": pictures_key(samples), "size": size, "ignore": sorted(args.ignore)},
    )
    engine = open_engine(model, args.engine, EngineOptions(args.precision, args.threads, cache=zoo.compiled_cache()))
    try:
        threads = min(args.threads or available_cpus(), len(samples))
        scored = Scored(samples, work, engine, size=size, ignore=args.ignore, threads=threads)
        scored.compute()
        found = search(scored, state, ranges, rounds=args.rounds, iterations=args.crf_iterations, mode=args.crf_mode)
    finally:
        engine.close()
    what = f"{model.name}, from {found.tried} sets of parameters on {len(samples)} pictures of {args.split}"
    write_text(args.output, preset(found, what))
    print(f"{told(found)}: {args.output}")
    if found.best.miou <= found.bilinear.miou:
        print("the CRF gains nothing on these pictures: leave it off", file=sys.stderr)
    return 0
