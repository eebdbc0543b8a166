"""One run: lanes of frames from sources through one engine to sinks."""

from pipeline.runner.run import Runner

__all__ = ["Runner"]
