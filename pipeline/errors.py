"""What can go wrong in the stream, on one page.

Every message is one line that names the thing and the way out.  The command line
prints it without a traceback; from Python it is caught as any exception.
"""

from __future__ import annotations

from engines.masking import hide


class PipelineError(Exception):
    """Anything that the stream refuses or fails at, secrets masked; never raised itself."""

    def __init__(self, message: str) -> None:
        super().__init__(hide(message))


class ConfigError(PipelineError):
    """A flag, preset key or model option that cannot be used as given."""


class HardwareError(PipelineError):
    """A GPU that was demanded and cannot be used."""


class SourceError(PipelineError):
    """An input that cannot be opened or read."""


class SourceLostError(SourceError):
    """An input that cannot be reached, or went away; it may come back by itself.

    Attributes:
        cause: ``"absent"`` (the server has nothing there), ``"unreachable"`` (no connection came about),
            ``"silent"`` (nothing came in time), ``"ended"``, ``"cut"`` (reading failed) or
            ``"undecodable"`` (what came gave no pictures).
    """

    def __init__(self, message: str, *, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class SourceAbsentError(SourceError):
    """A camera that is not there: mistyped, or not plugged in yet."""


class SourceDeniedError(SourceError):
    """A server that wants other credentials; asking it often may lock them."""


class StageError(PipelineError):
    """A stage failed on a frame.

    Attributes:
        stage: name of the stage.
        index: index of the frame in its stream, or None outside any frame.
    """

    def __init__(self, message: str, *, stage: str, index: int | None = None) -> None:
        super().__init__(message)
        self.stage = stage
        self.index = index


class SinkError(PipelineError):
    """An output that cannot be opened, written or finished."""
