"""The command line of the stream."""

from pipeline.cli.main import entry, main

__all__ = ["entry", "main"]
