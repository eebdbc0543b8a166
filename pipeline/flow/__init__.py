"""Buffers, threads and worker processes: the only ones in the project."""

from pipeline.flow.buffer import Buffer, BufferStats, Closed, FairReader
from pipeline.flow.crew import Crew
from pipeline.flow.drain import Drain
from pipeline.flow.lane import Outcome, PoolLane
from pipeline.flow.pool import PoolStats, WorkerPool, WorkerSpec

__all__ = [
    "Buffer",
    "BufferStats",
    "Closed",
    "Crew",
    "Drain",
    "FairReader",
    "Outcome",
    "PoolLane",
    "PoolStats",
    "WorkerPool",
    "WorkerSpec",
]
