"""ONNX Runtime: the CPU engine where OpenVINO has no wheel."""

from __future__ import annotations

import re
from typing import Any

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
    prepare,
)
from engines.backends.common import (
    one_line as whole_line,
)
from engines.base import EngineError, EngineInfo, EngineOptions, MissingEngineError, Model, Scores, Session

PROVIDER = "CPUExecutionProvider"

_ORIGIN = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : |/\S+\.(?:cc|h):\d+ .*?\)(?: \[with .*?\])? (?=\S)")
"""What tells its own programmers of an error's place: number and name of the status, file and function."""


def one_line(error: BaseException) -> str:
    """The part of its message that tells a person what is wrong, on one line."""
    return _ORIGIN.sub("", whole_line(error))


class OnnxRuntimeEngine(EngineBase):
    """One network in ONNX Runtime.

    `Session.start` computes before it returns, without the interpreter's lock.  ONNX Runtime's own asynchronous
    call works only with two threads or more, allocates its outputs and calls back into Python from a
    thread of its own; since the thread that starts requests has nothing else to do and one picture
    already uses all threads, it would gain nothing.

    Args:
        model: the network.
        options: how it shall run; ``cache`` is not used, since nothing is compiled.

    Raises:
        EngineError: ONNX Runtime is missing, cannot read the model or cannot give the precision.
    """

    def __init__(self, model: Model, options: EngineOptions) -> None:
        try:
            import onnxruntime
        except Exception as error:  # a broken library can raise anything
            raise MissingEngineError(
                f"ONNX Runtime cannot be loaded ({one_line(error)}): pip install onnxruntime"
            ) from error
        precision = arithmetic(options.precision, model)
        if options.precision == "fp16":
            raise EngineError("ONNX Runtime has no half precision on a CPU: use precision fp32 or auto")
        threads = options.threads or available_cpus()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        # Threads that spin between pictures take the cores from the decoder and the encoder.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = 4  # it would print, in colour, what it raises as well
        try:
            self._network: Any = onnxruntime.InferenceSession(str(model.path), settings, providers=[PROVIDER])
        except Exception as error:  # its exceptions have no common class of their own
            raise EngineError(f"ONNX Runtime cannot read {model.path}: {one_line(error)}") from error
        info = EngineInfo("onnxruntime", onnxruntime.__version__, cpu_name(), precision, threads, options.requests)
        super().__init__(model, info)

    def _compile(self, height: int, width: int) -> Session:
        try:
            return OnnxRuntimeSession(self._network, self._model, (height, width), self._quota)
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime cannot run {self._model.name} at {width}×{height}: {one_line(error)}"
            ) from error

    def _free(self) -> None:
        self._network = None


class OnnxRuntimeSession(SessionBase):
    """A network at one input size."""

    def __init__(self, network: Any, model: Model, size: tuple[int, int], quota: Quota) -> None:
        # The graph tells its output's size only by running; this also lets it allocate before the first picture.
        blank = prepare(np.zeros((*size, 3), np.uint8), model)
        (scores,) = network.run([model.output_name], {model.input_name: blank})
        super().__init__(size, scores.shape)
        self._network = network
        self._model = model
        self._quota = quota
        self._in_place = scores.dtype == np.float32

    def start(self, image: NDArray[np.uint8], out: Scores) -> FinishedRequest:
        """Score a picture, straight into the caller's array; see `engines.base.Session`."""
        check_arrays(image, out, self._size, self._scores)
        self._quota.take()
        try:
            picture = prepare(image, self._model)
            if self._in_place:
                self._run_bound(picture, out)
            else:
                (scores,) = self._network.run([self._model.output_name], {self._model.input_name: picture})
                np.copyto(out, scores[0])
        except Exception as error:
            self._quota.give()
            raise EngineError(f"ONNX Runtime failed: {one_line(error)}") from error
        return FinishedRequest(self._quota)

    def _run_bound(self, picture: NDArray[Any], out: Scores) -> None:
        binding = self._network.io_binding()
        binding.bind_input(self._model.input_name, "cpu", 0, picture.dtype.type, picture.shape, picture.ctypes.data)
        binding.bind_output(self._model.output_name, "cpu", 0, np.float32, (1, *out.shape), out.ctypes.data)
        self._network.run_with_iobinding(binding)
