"""Our own kernels (``pixels.cu``): pictures to a network's input, and scores to labels, on the GPU.

They are compiled by NVRTC when an engine first needs them, for the GPU at hand.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from importlib import resources
from typing import Any

from engines.backends.common import one_line
from engines.backends.nvidia.cuda import Stream, all_done, check, use_device
from engines.backends.nvidia.pixels import LAYOUTS, Frame, labels_at, planes_at, target_at
from engines.base import EngineError, MissingEngineError
from engines.cancellation import Patience

try:
    from cuda.bindings import driver, nvrtc
except Exception as error:  # a broken library can raise anything
    raise MissingEngineError(
        f"CUDA's bindings are incomplete ({one_line(error)}): pip install 'deeplab-stream[tensorrt]'"
    ) from error

BLOCK = (16, 16)
"""Threads of a block, columns and rows: a thread a pixel."""

OPTIONS = (b"--fmad=false", b"--std=c++17")

KERNELS = ("prepare_yuv", "prepare_rgb", "label")


def source() -> str:
    """The kernels' text."""
    return (resources.files("engines.backends.nvidia") / "pixels.cu").read_text(encoding="utf-8")


def compile_kernels(capability: tuple[int, int]) -> bytes:
    """The kernels as machine code (cubin) of a compute capability.

    Raises:
        EngineError: NVRTC is missing, does not know the capability, or finds a mistake.
    """
    options = [b"--gpu-architecture=sm_%d%d" % capability, *OPTIONS]
    try:
        program = _compiled("begin", nvrtc.nvrtcCreateProgram(source().encode(), b"pixels.cu", 0, [], []))
    except EngineError:
        raise
    except Exception as error:  # the bindings' own where the library is missing
        raise EngineError(
            f"NVRTC cannot be loaded ({one_line(error)}): pip install 'deeplab-stream[tensorrt]'"
        ) from error
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(status):
        log = b" " * int(_compiled("explain", nvrtc.nvrtcGetProgramLogSize(program)))
        nvrtc.nvrtcGetProgramLog(program, log)
        told = " ".join(log.decode().replace("\0", " ").split())
        raise EngineError(f"NVRTC cannot compile for {capability[0]}.{capability[1]}: {told}")
    code = b" " * int(_compiled("finish", nvrtc.nvrtcGetCUBINSize(program)))
    _compiled("finish", nvrtc.nvrtcGetCUBIN(program, code))
    nvrtc.nvrtcDestroyProgram(program)
    return code


def _compiled(what: str, answer: tuple[Any, ...]) -> Any:
    status, *values = answer
    if int(status):
        raise EngineError(f"NVRTC failed to {what}: {status}")
    return values[0] if values else None


def _unload(module: Any, patience: Patience) -> None:
    if all_done(patience):
        driver.cuModuleUnload(module)


class PixelKernels:
    """The kernels, loaded on the GPU that is current.

    Args:
        capability: compute capability of it.
        patience: with it, before they are unloaded.

    Raises:
        EngineError: they cannot be compiled or loaded.
    """

    def __init__(self, capability: tuple[int, int], patience: Patience) -> None:
        use_device()  # a thread that has called nothing of the runtime's yet has no context to load them into
        self._module = check("load the kernels", driver.cuModuleLoadData(compile_kernels(capability)))
        weakref.finalize(self, _unload, self._module, patience).atexit = False  # the process's end frees all
        self._functions = {
            name: check("find a kernel", driver.cuModuleGetFunction(self._module, name.encode())) for name in KERNELS
        }

    def prepare(self, stream: Stream, frame: Frame, planes: Sequence[int], out: int) -> None:
        """Fill the network's input at an address of the GPU with a picture whose planes lie at others."""
        layout = LAYOUTS[frame.where.layout]
        source = planes_at(layout, frame.where.frame, planes)
        target = target_at(frame.model, frame.size, frame.where, out)
        self._launch("prepare_rgb" if layout.planes == 1 else "prepare_yuv", stream, frame.size, source, target)

    def label(self, stream: Stream, frame: Frame, scores: int, shape: tuple[int, int, int], out: int) -> None:
        """Fill the labels at an address of the GPU from scores (classes, height, width) at another."""
        self._launch("label", stream, frame.where.frame, labels_at(scores, shape, frame.where, out))

    def _launch(self, name: str, stream: Stream, size: tuple[int, int], *arguments: ctypes.Structure) -> None:
        across, down = (-(-side // threads) for side, threads in zip(reversed(size), BLOCK, strict=True))
        # The driver copies what these point to before it returns.
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        answer = driver.cuLaunchKernel(
            self._functions[name], across, down, 1, *BLOCK, 1, 0, stream.address, ctypes.addressof(pointers), 0
        )
        check(f"run the kernel {name}", answer)
