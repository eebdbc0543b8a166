"""What a run tells those who watch over it: ``/metrics`` for Prometheus, ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from engines.masking import hide
from pipeline.errors import ConfigError
from pipeline.runner.lane import Lane
from pipeline.runner.report import drops_of
from pipeline.runner.run import Runner
from pipeline.runner.usage import memory
from pipeline.sinks import Live
from pipeline.sinks.serve.address import Address, check_free, metrics_address, refuse_open_door
from pipeline.sinks.serve.auth import Credentials
from pipeline.sinks.serve.http import HttpServer, Response, Site
from pipeline.sinks.serve.options import ServeOptions
from pipeline.sinks.serve.server import Mounted
from pipeline.telemetry import LatencyHistogram

if TYPE_CHECKING:
    from prometheus_client.core import Metric

BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.033, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the histograms' buckets."""

STALE_S = 15.0
"""A run whose frames do not get on for so long is not ready."""

_OPEN = frozenset(("healthz", "readyz"))


class MetricsServer:
    """Serves what is known of a run; a context manager.

    ``/healthz`` and ``/readyz`` ask for no credentials.  The first is 200 while the run has not failed, the second
    once every output has taken a frame, as long as frames get on and no output is failing.

    Args:
        place: ``PORT``, for this machine alone, or ``ADDRESS:PORT``.
        serve: who may ask.

    Raises:
        ConfigError: no such place, the package prometheus-client is missing, or other machines could ask.
        SinkError: the port is taken.
    """

    def __init__(self, place: str, serve: ServeOptions) -> None:
        self._address = metrics_address(place)
        refuse_open_door(self._address, serve)
        self._serve = serve
        self._credentials = Credentials.load(serve)
        self._site = _Site()
        self._mounted: Mounted[Site] | None = None
        check_free(self._address)

    def follow(self, runner: Runner) -> None:
        """Tell of this run from now on."""
        self._site.runner = runner

    def __enter__(self) -> MetricsServer:
        self._mounted = Mounted(self._server, self._address, self._site, "metrics")
        return self

    def _server(self, address: Address) -> HttpServer:
        return HttpServer(address, self._serve, self._credentials, _OPEN)

    def __exit__(self, *_: object) -> None:
        if self._mounted is not None:
            self._mounted.close()
            self._mounted = None


class _Site:
    """The three resources; in the service thread."""

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
        except ImportError:
            raise ConfigError(
                "metrics need the package prometheus-client: pip install 'deeplab-stream[metrics]'"
            ) from None
        self.runner: Runner | None = None
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(self)
        self._seen: tuple[int, ...] = ()
        self._changed = time.monotonic()

    def respond(self, resource: str) -> Response | None:
        """See `Site`."""
        if resource == "metrics":
            from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

            return Response(generate_latest(self._registry), CONTENT_TYPE_LATEST)
        if resource == "healthz":
            failed = self.runner is not None and self.runner.failed
            return Response(b"failed\n" if failed else b"ok\n", status=503 if failed else 200)
        if resource == "readyz":
            reason = self._not_ready()
            return Response(f"{reason or 'ok'}\n".encode(), status=503 if reason else 200)
        return None

    def _not_ready(self) -> str:
        runner = self.runner
        if runner is None:
            return "starting"
        if runner.failed:
            return "failed"
        frames = tuple(lane.meters.render.frames for lane in runner.lanes)
        if frames != self._seen:
            self._seen, self._changed = frames, time.monotonic()
        failing = [outlet.sink.name for lane in runner.lanes for outlet in lane.outlets if outlet.failure is not None]
        if failing:
            return f"failed, everything else goes on: {hide(', '.join(failing))}"
        if not all(outlet.meter.frames or outlet.gone for lane in runner.lanes for outlet in lane.outlets):
            return "waiting for the first frame"
        return "no frame gets on" if time.monotonic() - self._changed > STALE_S else ""

    def collect(self) -> Iterator[Metric]:
        """What prometheus_client asks for."""
        return iter(()) if self.runner is None else _metrics(self.runner)


def _metrics(runner: Runner) -> Iterator[Metric]:
    from prometheus_client.core import InfoMetricFamily

    engine, model = runner.engine.info, runner.engine.model
    told = {"model": model.name, "engine": engine.backend, "engine_version": engine.version, "device": engine.device}
    yield InfoMetricFamily("deeplab_stream", "What runs.", value={**told, "precision": engine.precision})
    yield from _frames(runner.lanes)
    yield from _times(runner.lanes)
    yield from _waiting(runner.lanes)
    yield from _inputs(runner.lanes)
    yield from _requests(runner)
    yield from _memory()
    deaths = _counter("worker_deaths", "Refining workers that died and were replaced.", ())
    deaths.add_metric([], runner.worker_deaths)
    yield deaths


def _frames(lanes: Sequence[Lane]) -> Iterator[Metric]:
    read = _counter("frames_read", "Pictures decoded.", ("input",))
    dropped = _counter("frames_dropped", "Frames lost on purpose.", ("input", "place", "cause"))
    damaged = _counter("damaged", "Packets and frames that could not be decoded.", ("input",))
    unrefined = _counter("frames_unrefined", "Frames that passed the refinement unrefined.", ("input",))
    written = _counter("frames_written", "Frames that an output took.", ("input", "output"))
    undelivered = _counter(
        "frames_undelivered", "Frames that a late client or an absent server did not get.", ("input", "output")
    )
    failures = _counter("output_failures", "How often an output failed.", ("input", "output"))
    for lane in lanes:
        name = lane.source.info.name
        read.add_metric([name], lane.read_frames)
        for drop in drops_of(lane):
            dropped.add_metric([name, hide(drop.place), drop.cause], drop.frames)
        damaged.add_metric([name], lane.source.damaged)
        unrefined.add_metric([name], lane.labelling.unrefined)
        for outlet in lane.outlets:
            there = [name, hide(outlet.sink.name)]
            written.add_metric(there, outlet.meter.frames)
            failures.add_metric(there, outlet.failures)
            if isinstance(outlet.sink, Live):
                undelivered.add_metric(there, outlet.sink.lost)
    yield from (read, dropped, damaged, unrefined, written, undelivered, failures)


def _times(lanes: Sequence[Lane]) -> Iterator[Metric]:
    from prometheus_client.core import HistogramMetricFamily

    stage = HistogramMetricFamily(
        "deeplab_stream_stage_seconds",
        "Work on a frame by stage; infer is the engine's time, of a batch a frame's share.",
        labels=("input", "stage"),
    )
    latency = HistogramMetricFamily(
        "deeplab_stream_latency_seconds", "From a frame's arrival until an output took it.", labels=("input", "output")
    )
    for lane in lanes:
        name, meters = lane.source.info.name, lane.meters
        for what in ("decode", "prepare", "infer", "upsample", "refine", "render"):
            _add(stage, [name, what], getattr(meters, what).times)
        for outlet in lane.outlets:
            _add(stage, [name, hide(outlet.sink.name)], outlet.meter.times)
            _add(latency, [name, hide(outlet.sink.name)], outlet.latency)
    yield from (stage, latency)


def _add(family: Any, labels: list[str], times: LatencyHistogram) -> None:
    counts, total = times.cumulative(BOUNDS_S)
    names = (*map(str, BOUNDS_S), "+Inf")
    family.add_metric(labels, buckets=list(zip(names, counts, strict=True)), sum_value=total)


def _waiting(lanes: Sequence[Lane]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    queue = GaugeMetricFamily("deeplab_stream_queue_frames", "Frames that wait.", labels=("input", "before"))
    clients = GaugeMetricFamily("deeplab_stream_clients", "Clients of an output.", labels=("input", "output"))
    up = GaugeMetricFamily(
        "deeplab_stream_output_up", "1 while an output can be written, 0 after it failed.", labels=("input", "output")
    )
    for lane in lanes:
        name = lane.source.info.name
        for what, buffer in (("prepare", lane.decoded), ("infer", lane.ready), ("upsample", lane.scored)):
            queue.add_metric([name, what], len(buffer))
        for outlet in lane.outlets:
            there = [name, hide(outlet.sink.name)]
            queue.add_metric(there, len(outlet.buffer))
            up.add_metric(there, not outlet.gone and outlet.failure is None)
            if isinstance(outlet.sink, Live):
                clients.add_metric(there, outlet.sink.clients)
    yield from (queue, clients, up)


def _inputs(lanes: Sequence[Lane]) -> Iterator[Metric]:
    """Of live inputs: whether they are there, and when they were away."""
    from prometheus_client.core import GaugeMetricFamily

    outages = _counter("input_outages", "How often a live input went away, by cause.", ("input", "cause"))
    down = _counter("input_down_seconds", "Time without a live input.", ("input",))
    up = GaugeMetricFamily("deeplab_stream_input_up", "1 while a live input is there.", labels=("input",))
    for lane in lanes:
        if lane.source.info.live:
            name, away = lane.source.info.name, lane.source.outages
            for cause, count in away.causes:
                outages.add_metric([name, cause], count)
            down.add_metric([name], away.seconds)
            up.add_metric([name], not away.now and lane.lost is None)
    yield from (outages, down, up)


def _requests(runner: Runner) -> Iterator[Metric]:
    texts = {
        "engine_requests": "Requests to the engine.",
        "engine_frames": "Frames in these requests; over them: the mean batch.",
        "engine_gather_seconds": "Time in which the first frame of a request waited for the others.",
    }
    for (name, text), value in zip(texts.items(), runner.batches.totals, strict=True):
        counter = _counter(name, text, ())
        counter.add_metric([], value)
        yield counter


def _memory() -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    if (held := memory()) is not None:
        family = GaugeMetricFamily(
            "deeplab_stream_memory_bytes",
            "Memory of the stream's process and of those it has started; what they share counts in part.",
            labels=("processes",),
        )
        for which, size in zip(("stream", "workers"), held, strict=True):
            family.add_metric([which], size)
        yield family


def _counter(name: str, text: str, labels: Sequence[str]) -> Any:
    from prometheus_client.core import CounterMetricFamily

    return CounterMetricFamily(f"deeplab_stream_{name}", text, labels=labels)
