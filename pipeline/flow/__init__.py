"""Buffers, threads and worker processes: the only ones in the project."""

from pipeline.flow.buffer import Buffer, BufferStats, Closed, FairReader
from pipeline.flow.crew import Crew

__all__ = ["Buffer", "BufferStats", "Closed", "Crew", "FairReader"]
