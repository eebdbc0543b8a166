"""A run: open everything, let it flow, close everything, and say what happened."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from engines import zoo
from engines.backends import open_engine
from engines.base import Engine, EngineOptions
from pipeline.cpu import CpuPlan, available_cpus, divide
from pipeline.errors import PipelineError
from pipeline.flow import Crew, WorkerPool
from pipeline.options import InputOptions, RunOptions
from pipeline.reports import Report
from pipeline.runner.clashes import refuse_clashes, written
from pipeline.runner.epoch import get_ready
from pipeline.runner.inference import Inference
from pipeline.runner.lane import Lane, LaneOptions
from pipeline.runner.memory import refuse_too_large
from pipeline.runner.outlet import Outlet
from pipeline.runner.report import make_report
from pipeline.sinks import check_writable, is_watched, open_masks, open_output, wants_plain
from pipeline.sinks.base import Sink
from pipeline.sources import SourceOptions, open_sources
from pipeline.sources.base import Source
from pipeline.stages.keyframes import LONGEST
from pipeline.stages.prepare import geometry_for
from pipeline.stages.refine import worker_pool
from pipeline.stages.render import Renderer
from pipeline.telemetry import BatchMeter

log = logging.getLogger(__name__)

_ENCODER_THREADS = 8
"""More gain nothing at the sizes of cameras."""

MAX_BATCH = 8
"""Frames in one request: each waits for the whole, and each place in the engine takes memory for it."""

JOIN_TIMEOUT_S = 200.0
"""How long threads may take to end: longer than the longest wait inside any of them."""

LEAVE_TIMEOUT_S = 3.0
"""How long threads may take to end that have been told to give up; one that hangs outside is left behind."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """One input, its source opened and its sinks named."""

    source: Source
    sinks: tuple[Sink, ...]
    shows_pictures: bool
    plain: bool


class Runner:
    """One run over any number of inputs; a context manager that leaves nothing behind.

    Opening does everything that can be refused before the first frame flows: model, engine,
    inputs, names and places of outputs.

    Args:
        options: what to do.
        extra: sinks for the first input besides those that ``options`` names.

    Raises:
        PipelineError: an input or output that cannot be used.
        EngineError: a model or engine that cannot be used.
    """

    def __init__(self, options: RunOptions, *, extra: Sequence[Sink] = ()) -> None:
        if not options.inputs:
            raise PipelineError("no input: name one with --input (try --input sample)")
        self._options = options
        self._stop = threading.Event()
        self._crew = Crew()
        self._pool: WorkerPool | None = None
        self._engine: Engine | None = None
        self._sources: list[Source] = []
        self.lanes: tuple[Lane, ...] = ()
        self._began = self._ended = 0.0
        self._waited = False
        try:
            self._open(options, tuple(extra))
        except BaseException:
            self.close()
            raise

    def _open(self, options: RunOptions, extra: tuple[Sink, ...]) -> None:
        # Outputs are looked at before anything is opened: a typing error there costs no waiting.
        refuse_clashes(options)
        sinks = [_sinks(one, options) for one in options.inputs]
        for uri, path in written(options):
            check_writable(uri, path)
        sinks[0] += extra
        self._sources = open_sources([(one.uri, self._reading(one), one.name) for one in options.inputs])
        opened = [
            _Opened(source, some, bool(one.outputs) or len(some) > len(one.masks), any(map(wants_plain, one.outputs)))
            for source, one, some in zip(self._sources, options.inputs, sinks, strict=True)
        ]
        model = zoo.load_model(options.model.name, options.engine.precision)
        Renderer(model.labels, options.render)  # refuses unknown classes before the engine compiles
        workers = None if options.refine.kind == "none" else options.refine.workers
        self.plan: CpuPlan = divide(available_cpus(), workers, any(map(self._is_live, opened)))
        self._pool = worker_pool(options.refine, self.plan)  # before the engine: they get ready while it compiles
        engine_options = EngineOptions(
            precision=options.engine.precision,
            threads=self.plan.engine_threads,
            requests=self.plan.engine_requests,
            cache=zoo.compiled_cache(),
            batch=_batch(len(opened)) if model.batches else 1,
            overlap=True,
            half_scores=options.refine.takes_half_scores and not options.propagate.active,
        )
        self._engine = open_engine(model, options.engine.name, engine_options)
        if self._pool is not None:
            self._crew.watch(self._pool)
        there = [info for each in opened if (info := each.source.info).height]
        geometries = [geometry_for(info, model, self.size) for info in there]
        if model.fixed_size is None:
            slots = self._slots(any(map(self._is_live, opened)))
            refuse_too_large(geometries, self.size, engine=self._engine, slots=slots)
        on_scores = self._pool is not None or options.propagate.active
        for info, geometry in zip(there, geometries, strict=True):
            # Compiled now and kept, so that a model that does not fit is refused before anything flows.
            session = self._engine.session(geometry.input_height, geometry.input_width)
            get_ready(info, geometry, session, on_scores=on_scores)
        alone = any(each.source.info.live for each in opened)
        self.lanes = tuple(self._lane(each, self._is_live(each), alone=alone) for each in opened)
        self._inference = Inference(self.lanes, self._engine.info)
        self._crew.watch(*self._inference.buffers)

    def _reading(self, one: InputOptions) -> SourceOptions:
        options = one.source or self._options.source
        options = replace(options, hwaccel=options.hwaccel or self._options.hwaccel)
        if any(is_watched(uri) for uri in (*one.outputs, *one.masks)):
            options = replace(options, realtime=True)  # whoever looks on wants to see a file at its own pace
        return replace(options, keep_up=False) if self._options.mode == "lossless" else options

    def _is_live(self, opened: _Opened) -> bool:
        """Whether this input's frames are dropped rather than waited for."""
        mode = self._options.mode
        return mode == "live" or (mode == "auto" and opened.source.info.live)

    def _lane(self, opened: _Opened, live: bool, *, alone: bool) -> Lane:
        assert self._engine is not None
        options, labels = self._options, self._engine.model.labels
        return Lane(
            opened.source,
            tuple(
                Outlet(sink, source=opened.source.info.name, live=live, failed=lambda: self._crew.failed, alone=alone)
                for sink in opened.sinks
            ),
            engine=self._engine,
            pool=self._pool,
            renderer=Renderer(labels, options.render) if opened.shows_pictures else None,
            options=LaneOptions(
                size=self.size,
                slots=self._slots(live),
                live=live,
                max_latency_ns=None if options.max_latency is None else int(options.max_latency * 1e6),
                workers=self.plan.crf_workers / len(options.inputs),
                propagate=options.propagate,
                plain=opened.plain,
            ),
            crew=self._crew,
            stopping=self._stop.is_set,
        )

    def _slots(self, live: bool) -> int:
        """Frames in flight of one input.

        One in each request and refining worker, and some on either side of them: as few as keep
        everybody busy where frames may be dropped, since those that wait in a slot grow old.
        """
        refined = self.plan.crf_workers + 1 if self._pool else 0
        return self.engine.info.requests + (2 if live else 4) + refined + self._followers(live)

    def _followers(self, live: bool) -> int:
        """Frames that wait for a key frame's scores while the engine may begin with the next key frame.

        In files they wait for those of the next one, too, so two key frames' followers are in flight; and where
        scores are mixed, a key frame waits for the next frame.
        """
        propagate = self._options.propagate
        every = propagate.infer_every
        if every == 1:
            return int(propagate.temporal and not live)
        return 2 if live else 2 * (LONGEST if every == "auto" else min(every, LONGEST))

    @property
    def engine(self) -> Engine:
        """What runs the network."""
        assert self._engine is not None
        return self._engine

    @property
    def size(self) -> int:
        """Short side of the network's input, in pixels."""
        return self._options.model.size or self.engine.model.size

    @property
    def frames(self) -> int:
        """Frames that have been labelled so far, over all inputs."""
        return sum(lane.meters.render.frames for lane in self.lanes)

    def start(self) -> None:
        """Let the frames flow."""
        self._began = time.monotonic()
        for lane in self.lanes:
            name = lane.source.info.name
            for outlet in lane.outlets:
                self._crew.start(f"{name} → {outlet.sink.name}", outlet.run)
            self._crew.start(f"{name} label", lane.finish)
            if lane.propagates:
                self._crew.start(f"{name} propagate", lane.propagate)
        self._crew.start("collect", self._inference.collect)
        self._crew.start("infer", self._inference.start)
        for lane in self.lanes:
            name = lane.source.info.name
            self._crew.start(f"{name} prepare", lane.prepare)
            self._crew.start(f"{name} read", lane.read)
            self._sources.remove(lane.source)  # its reader closes it

    def stop(self) -> None:
        """Read no more; what is in flight is finished, but what the engine would take minutes for.

        Safe in a signal handler.
        """
        self._stop.set()
        if self._engine is not None:
            self._engine.cancel()
        for lane in self.lanes:
            lane.source.wake()

    def wait(self, timeout: float) -> bool:
        """Whether the run has ended, after at most ``timeout`` seconds."""
        return self._crew.wait(timeout)

    def run(self, on_tick: Callable[[], None] = lambda: None, tick: float = 0.1) -> Report:
        """Start, wait to the end while calling ``on_tick`` every ``tick`` seconds, and report.

        Raises:
            PipelineError, EngineError: as from `finish`.
        """
        self.start()
        while not self.wait(tick):
            on_tick()
        on_tick()
        return self.finish()

    def finish(self) -> Report:
        """Wait for the files to be closed and make the report.

        Raises:
            StageError, SinkError: what went wrong first.
            SourceError: an input that was lost; what came before it has been written.
        """
        self._waited = True
        self._crew.join(LEAVE_TIMEOUT_S if self._crew.failed else JOIN_TIMEOUT_S)
        self._ended = time.monotonic()
        for lane in self.lanes:
            if lane.lost is not None and not lane.read_frames:
                raise lane.lost
        return self.report()

    @property
    def failed(self) -> bool:
        """Any part of the run has failed."""
        return self._crew.failed

    @property
    def batches(self) -> BatchMeter:
        """How frames went into the engine."""
        return self._inference.meter

    @property
    def worker_deaths(self) -> int:
        """Refining workers that died and were replaced."""
        return self._pool.stats().deaths if self._pool is not None else 0

    @property
    def losses(self) -> tuple[PipelineError, ...]:
        """Inputs that ended before their time, after frames had come, and outputs that are not written."""
        inputs = tuple(lane.lost for lane in self.lanes if lane.lost is not None)
        return inputs + tuple(
            outlet.failure for lane in self.lanes for outlet in lane.outlets if outlet.failure is not None
        )

    def report(self) -> Report:
        """What has happened so far."""
        seconds = (self._ended or time.monotonic()) - self._began if self._began else 0.0
        return make_report(
            self.lanes,
            self.engine,
            self.plan,
            seconds,
            batches=self._inference.meter,
            pool=self._pool.stats() if self._pool is not None else None,
            interrupted=self._stop.is_set(),
            error="; ".join(map(str, self.losses)) or None,
        )

    def close(self) -> None:
        """End every thread and process and give everything back; harmless when repeated."""
        self._stop.set()
        self._crew.stop()
        if self._engine is not None:
            self._engine.cancel()
        try:
            self._crew.join(0.0 if self._waited else LEAVE_TIMEOUT_S)
        except BaseException as error:  # `finish` has told whoever waits for it
            log.debug("while closing: %s", error)
        for source in self._sources:
            source.close()
        for lane in self.lanes:
            lane.close()
        if self._pool is not None:
            self._pool.close(5.0)
        if self._engine is not None:
            self._engine.close()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _batch(inputs: int) -> int:
    """Frames that may come at once; a power of two, so that one input more does not always mean another plan."""
    return min(1 << (inputs - 1).bit_length(), MAX_BATCH)


def _sinks(one: InputOptions, options: RunOptions) -> tuple[Sink, ...]:
    # Encoders count the processors of the machine, not those that this process may use.
    threads = options.video.threads or min(_ENCODER_THREADS, available_cpus())
    video = replace(options.video, threads=threads, hwaccel=options.video.hwaccel or options.hwaccel)
    outputs = tuple(open_output(uri, video, options.serve, options.record) for uri in one.outputs)
    return outputs + tuple(open_masks(uri, options.serve, options.record) for uri in one.masks)
