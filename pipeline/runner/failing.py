"""Where it was that something failed: errors that nobody foresaw get a stage and a frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from engines.base import EngineError
from pipeline.errors import PipelineError, StageError
from pipeline.flow import Closed


@contextmanager
def failing_as(stage: str, source: str, index: int | None = None) -> Iterator[None]:
    """Turn what the block raises into a `StageError` that says where; the stream's own errors pass as they are.

    Args:
        stage: what is being done.
        source: name of the input.
        index: index of the frame, None outside any.
    """
    where = source if index is None else f"{source}, frame {index}"
    try:
        yield
    except (PipelineError, Closed):
        raise
    except EngineError as error:
        raise StageError(f"{where}: {error}", stage=stage, index=index) from error
    except Exception as error:
        told = " ".join(str(error).split())
        kind = type(error).__name__
        message = f"{where}: {stage} failed: {kind}: {told}" if told else f"{where}: {stage} failed: {kind}"
        raise StageError(message, stage=stage, index=index) from error
