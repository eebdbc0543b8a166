"""How long a model takes for a picture: plainly measured, with its spread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
from tqdm import tqdm

from engines.base import Engine, EngineError, EngineInfo, Model, Request

TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What was measured.

    Attributes:
        model: name of the network.
        engine: what ran it.
        input_size: (height, width) of the network's input, in pixels.
        score_shape: (classes, height, width) of the scores.
        pictures: how many were timed.
        median_ms, p95_ms: from the start of a request to its scores, with ``engine.requests`` in flight.
        per_second: pictures finished in a second.
        cpu_ms: processor time of this process for a picture, all threads together.
    """

    model: str
    engine: EngineInfo
    input_size: tuple[int, int]
    score_shape: tuple[int, int, int]
    pictures: int
    median_ms: float
    p95_ms: float
    per_second: float
    cpu_ms: float

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def input_size(model: Model, frame: tuple[int, int], short_side: int) -> tuple[int, int]:
    """(height, width) of the network's input for a (height, width) picture, as the stream chooses it."""
    if model.fixed_size:
        return model.fixed_size
    extra = 1 if model.align_corners else 0
    step = model.output_stride
    scale = short_side / min(frame)
    height, width = (max(1, ceil((round(side * scale) - extra) / step)) * step + extra for side in frame)
    return height, width


def measure(
    engine: Engine, size: tuple[int, int], *, pictures: int = 50, warm_up: int = 5, progress: bool = False
) -> Timing:
    """Time a network on noise, which costs a convolution as much as any picture.

    Args:
        engine: the network; as many requests are kept in flight as it was opened for.
        size: (height, width) of the input, in pixels.
        pictures: how many to time.
        warm_up: how many to run before.
        progress: show a progress bar where there is a terminal; it is drawn between pictures.

    Raises:
        EngineError: the network cannot run, or there is nothing to time.
    """
    if pictures < 1:
        raise EngineError("there must be one picture at least")
    session = engine.session(*size)
    lanes = engine.info.requests
    noise = np.random.default_rng(0)
    images = [noise.integers(0, 256, (*size, 3), np.uint8) for _ in range(lanes)]
    outputs = [np.empty(session.score_shape, np.float32) for _ in range(lanes)]
    flying: deque[tuple[float, Request]] = deque()
    times: list[float] = []

    def land() -> None:
        began, request = flying.popleft()
        request.wait(TIMEOUT_S)
        times.append(time.perf_counter() - began)

    def run(count: int, seen: Callable[[], object]) -> None:
        for index in range(count):
            if len(flying) == lanes:
                land()
                seen()
            began = time.perf_counter()
            flying.append((began, session.start(images[index % lanes], outputs[index % lanes])))
        while flying:
            land()
            seen()

    run(warm_up, lambda: None)
    times.clear()
    bar: tqdm[Any]
    with tqdm(total=pictures, desc="timing", unit="picture", leave=False, disable=None if progress else True) as bar:
        wall, cpu = time.perf_counter(), time.process_time()
        run(pictures, bar.update)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    milliseconds = np.array(times) * 1e3
    return Timing(
        engine.model.name,
        engine.info,
        session.input_size,
        session.score_shape,
        pictures,
        float(np.median(milliseconds)),
        float(np.percentile(milliseconds, 95)),
        pictures / wall,
        cpu / pictures * 1e3,
    )
