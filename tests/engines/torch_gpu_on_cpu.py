"""torch's backend of GPUs on a processor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from engines.backends.common import one_line
from engines.backends.torch_gpu import Lane, Run, Settings, TorchGpuEngine
from engines.base import EngineError, Scores


class CpuLane:
    """The scores are there when `start` returns."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def start(self, picture: NDArray[np.generic], out: Scores) -> None:
        try:
            with torch.inference_mode():
                np.copyto(out, self._run(torch.from_numpy(picture.copy()))[0].numpy())
        except RuntimeError as error:
            raise EngineError(f"torch failed: {one_line(error)}") from error

    def wait(self, timeout: float) -> bool:  # noqa: ARG002 - nothing to wait for
        return True


class TorchOnCpu(TorchGpuEngine):
    name = "torch-gpu-on-cpu"
    device = "cpu"

    def _lane(self, run: Run, blank: torch.Tensor, exact: Settings) -> Lane:  # noqa: ARG002 - the same for all
        return CpuLane(run)


class TorchCompiledOnCpu(TorchOnCpu):
    compiled = True
