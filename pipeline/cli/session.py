"""One run at the command line: its signals, its progress bar, its report."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.cli.progress import Progress
from pipeline.cli.service import Service
from pipeline.cpu import available_cpus
from pipeline.errors import SinkError
from pipeline.options import RunOptions
from pipeline.reports import Report
from pipeline.runner import Runner
from pipeline.runner.metrics import MetricsServer
from pipeline.runner.report import failed_report
from pipeline.sinks.files import PartFile
from pipeline.sinks.target import commit

log = logging.getLogger(__name__)

DESCRIPTORS = 65536

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def perform(options: RunOptions, *, report: str | None, quiet: bool, in_logs: bool = False) -> int:
    """Run to the end.

    SIGINT, SIGTERM and SIGHUP finish what is in flight; a second one leaves at once, as the first
    does while everything is still being opened.  One SIGTERM is how services are ended, and no failure.

    Args:
        options: what to do.
        report: file for the whole report, made before anything runs so that a bad name costs no waiting.
            A run that fails writes it too, with the reason in ``error``.
        quiet: no progress bar, no short report.
        in_logs: no progress bar, and the short report is logged.

    Returns:
        The exit status.

    Raises:
        PipelineError, EngineError: as `Runner`.
        KeyboardInterrupt: a second signal, or another than SIGTERM before the frames flow.
    """
    more_descriptors()
    with _Signals() as signals:
        try:
            return _perform(options, signals, report, quiet=quiet, in_logs=in_logs)
        except KeyboardInterrupt:
            if signals.caught == [signal.SIGTERM]:
                return EXIT_OK
            raise


def _perform(options: RunOptions, signals: _Signals, report: str | None, *, quiet: bool, in_logs: bool) -> int:
    with _ReportFile(report) as file, _metrics(options) as metrics:
        signals.leave_at_once()
        with file.telling_of_failure(), Runner(options) as runner:
            file.runner = runner
            if metrics is not None:
                metrics.follow(runner)
            status, told = _run(runner, signals, quiet=quiet or in_logs)
            # Whoever stops reading our output, as `head` does, knows that it is not whole: nothing is said.
            unread = any(all(outlet.unread for outlet in lane.outlets) for lane in runner.lanes)
        file.write(told)
    place = sys.stderr if _uses_stdout(options) else sys.stdout
    if in_logs and not quiet:
        log.info("%s", told.as_text())
    elif place is not None and not (quiet or unread):  # None where it was closed before the start
        print(told.as_text(), file=place)
    return EXIT_FAILED if unread else status


def more_descriptors() -> None:
    """Let this process open as many files as it may: shells give 1024, which are for programs that use select()."""
    try:
        import resource
    except ImportError:  # Windows counts none
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _metrics(options: RunOptions) -> Iterator[MetricsServer | None]:
    if options.serve.metrics is None:
        yield None
        return
    with MetricsServer(str(options.serve.metrics), options.serve) as server:
        yield server


class _ReportFile:
    """The file of ``--report``, or none: it appears whole or not at all.

    Attributes:
        runner: the run to report on, once there is one.

    Args:
        report: its name, or None.

    Raises:
        SinkError: it cannot be written there.
    """

    def __init__(self, report: str | None) -> None:
        self.runner: Runner | None = None
        self._file = PartFile(Path(report), f"report {report}") if report is not None else None

    def write(self, report: Report) -> None:
        """Write and give it its name.

        Raises:
            SinkError: cannot be written.
        """
        if self._file is not None:
            self._file.write(report.as_json().encode() + b"\n")
            commit(self._file)
            self._file = None

    @contextmanager
    def telling_of_failure(self) -> Iterator[None]:
        """Write what there is to tell if the block fails, and let the error pass."""
        try:
            yield
        except Exception as error:
            try:
                self.write(self._failed(" ".join(str(error).split()) or type(error).__name__))
            except SinkError as second:
                log.warning("%s", second)
            raise

    def _failed(self, reason: str) -> Report:
        if self.runner is None:
            return failed_report(available_cpus(), reason)
        return replace(self.runner.report(), error=reason)

    def __enter__(self) -> _ReportFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.discard()


def _uses_stdout(options: RunOptions) -> bool:
    return any("-" in (*one.outputs, *one.masks) for one in options.inputs)


def _run(runner: Runner, signals: _Signals, *, quiet: bool) -> tuple[int, Report]:
    with Progress(runner, shown=not quiet) as progress:
        signals.finish(runner)
        service = Service(runner)
        told = False

        def on_tick() -> None:
            nonlocal told
            progress.update()
            service.tick()
            if signals.caught and not told:  # not in the handler: it may have come in the middle of another line
                told = True
                log.warning("stopping: what is in flight is finished; once more leaves at once")

        report = runner.run(on_tick)
    damaged = sum(one.damaged for one in report.inputs)
    if damaged:
        log.warning("%d damaged packets or frames were passed over; the rest was processed", damaged)
    for loss in runner.losses:
        log.error("%s", loss)
    if runner.losses:
        return EXIT_FAILED, report
    # Whoever ends a service means no failure, whether its camera was there or not.
    done = signal.SIGINT not in signals.caught and (report.frames or set(signals.caught) <= {signal.SIGTERM})
    return EXIT_OK if done else EXIT_INTERRUPTED, report


class _Signals:
    """What SIGINT, SIGTERM and SIGHUP do for a while: at first they are only remembered."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._at_once = False
        self._runner: Runner | None = None
        self._before: dict[int, Any] = {}

    def leave_at_once(self) -> None:
        """From now on they raise KeyboardInterrupt; so does this where one has come."""
        self._at_once = True
        if self.caught:
            raise KeyboardInterrupt

    def finish(self, runner: Runner) -> None:
        """From now on the first stops the run, and a second raises KeyboardInterrupt."""
        self._runner = runner
        self._at_once = False

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self.caught.append(number)
        if self._at_once or len(self.caught) > 1:
            raise KeyboardInterrupt
        if self._runner is not None:
            self._runner.stop()

    def __enter__(self) -> _Signals:
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # ignored: as nohup asks
            numbers.append(signal.SIGHUP)
        for number in numbers:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
