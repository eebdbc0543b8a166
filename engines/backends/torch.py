"""torch: the reference that other engines are measured against, not a fast one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.backends.checks import check_arrays
from engines.backends.common import (
    EngineBase,
    FinishedRequest,
    Quota,
    SessionBase,
    arithmetic,
    available_cpus,
    cpu_name,
    one_line,
    prepare,
)
from engines.base import EngineError, EngineInfo, EngineOptions, MissingEngineError, Model, Scores, Session

try:
    import torch

    from engines.backends.onnx_in_torch import TorchGraph
except Exception as error:  # a broken library can raise anything
    raise MissingEngineError(
        f"the torch engine needs torch and onnx ({one_line(error)}): pip install torch onnx, or use --engine auto"
    ) from error


class TorchEngine(EngineBase):
    """One network, its ONNX graph interpreted with torch's operators in float32.

    Args:
        model: the network.
        options: how it shall run; ``threads`` sets torch's threads for the whole process.

    Raises:
        EngineError: torch cannot run the model or give the precision.
    """

    def __init__(self, model: Model, options: EngineOptions) -> None:
        precision = arithmetic(options.precision, model)
        if options.precision == "fp16":
            raise EngineError("the torch engine is a float32 reference: use precision fp32 or auto")
        threads = options.threads or available_cpus()
        torch.set_num_threads(threads)
        self._graph: TorchGraph | None = TorchGraph(model.path, model.output_name)
        device = cpu_name()
        super().__init__(model, EngineInfo("torch", torch.__version__, device, precision, threads, options.requests))

    def _compile(self, height: int, width: int) -> Session:
        assert self._graph
        return TorchSession(self._graph, self._model, (height, width), self._quota)

    def _free(self) -> None:
        self._graph = None


class TorchSession(SessionBase):
    """A network at one input size; `start` computes before it returns."""

    def __init__(self, graph: TorchGraph, model: Model, size: tuple[int, int], quota: Quota) -> None:
        self._graph = graph
        self._model = model
        self._quota = quota
        # A first run tells the shape of the scores.
        super().__init__(size, self._run(np.zeros((*size, 3), np.uint8)).shape)

    def start(self, image: NDArray[np.uint8], out: Scores) -> FinishedRequest:
        """Score a picture; see `engines.base.Session`."""
        check_arrays(image, out, self._size, self._scores)
        self._quota.take()
        try:
            np.copyto(out, self._run(image)[0])
        except BaseException:
            self._quota.give()
            raise
        return FinishedRequest(self._quota)

    def _run(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        picture = prepare(image, self._model)
        if not picture.flags.writeable:
            picture = picture.copy()  # torch warns of read-only memory
        try:
            with torch.inference_mode():
                scores: torch.Tensor = self._graph(torch.from_numpy(picture))
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            height, width = image.shape[:2]
            raise EngineError(f"torch cannot run {self._model.name} at {width}×{height}: {one_line(error)}") from error
        result: NDArray[np.float32] = scores.float().numpy()
        return result
