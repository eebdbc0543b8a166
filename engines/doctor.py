"""What this machine can run networks with, what is missing, and what installs it; every engine is really tried."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

import numpy as np

from engines import gpu_driver
from engines.backends import BACKENDS, GPU, ON_GPU, has_nvidia_driver, open_engine
from engines.backends.common import one_line
from engines.base import EngineError, EngineOptions, MissingEngineError, Model
from engines.zoo import compiled_cache, list_models, load_model

READY, MISSING, UNFIT = "ready", "missing", "-"
"""Works here; would work if it were installed; cannot work on this machine."""

MODEL = "street"
"""In the package, so that no network is needed to try an engine."""

SIZE = (96, 128)
WAIT_S = 60.0

PACKAGES = {
    "openvino": "openvino",  # comes with the package where there is a wheel of it
    "onnxruntime": "deeplab-stream[onnxruntime]",
    "torch": "deeplab-stream[torch]",
    GPU: "deeplab-stream[tensorrt]",
}
"""What installs an engine; those that take the place of TensorRT's tell it themselves."""

CUDA_12 = "deeplab-stream[tensorrt-cu12]"
"""In the place of TensorRT's package, for drivers that know no newer CUDA."""

BINDINGS = "cuda.bindings"

COMPILING = (GPU, "onnxruntime-tensorrt", "torch-compile")
"""Engines that take minutes for a network at a new size, so they are opened and score nothing."""

TOOLS = {
    "quantise": ("nncf", "export --precision int8"),
    "train": ("torchvision", "train, and the export of published weights"),
    "tensorboard": ("tensorboard", "curves of training"),
    "metrics": ("prometheus_client", "/metrics"),
    "webrtc": ("aiortc", "video by WebRTC on the page"),
}
"""Extras beside the engines: a module that tells whether it is there, and what needs it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        area: what it belongs to, e.g. ``"engine"``.
        name: what it is called.
        state: `READY`, `MISSING` or `UNFIT`.
        told: what was found, on one line.
        package: that installs it, ``"NAME"`` or ``"NAME[EXTRA]"``; empty if none does.
        command: that does, where it is no package for pip.
    """

    area: str
    name: str
    state: str
    told: str
    package: str = ""
    command: str = ""


def examine() -> Iterator[Finding]:
    """All findings; each comes when it is known, since some take seconds."""
    yield from examine_gpu()
    model = load_model(MODEL)
    for backend in BACKENDS:
        yield _engine(backend, model)
    for each in list_models():
        if each.place != "not fetched" or each.entry.name == "voc":
            state = MISSING if each.place == "not fetched" else READY
            way = f"python -m engines fetch {each.entry.name}" if state == MISSING else each.place
            yield Finding("model", each.entry.name, state, f"{way}: {each.entry.about}")
    for extra, (module, use) in TOOLS.items():
        there = _is_there(module)
        yield Finding("tool", extra, READY if there else MISSING, use, "" if there else f"deeplab-stream[{extra}]")


def advice(findings: list[Finding]) -> str:
    """The one command that installs all that is missing here; empty where nothing is.

    ONNX Runtime's providers, which take the place of what is there, are told in their own lines.
    """
    extras: dict[str, set[str]] = {}
    for finding in findings:
        if finding.state == MISSING and finding.package:
            name, _, extra = finding.package.rstrip("]").partition("[")
            extras.setdefault(name, set()).update({extra} - {""})
    words = [f"'{name}[{','.join(sorted(some))}]'" if some else name for name, some in sorted(extras.items())]
    commands = [finding.command for finding in findings if finding.state == MISSING and finding.command]
    return " && ".join([*commands, *([f"pip install {' '.join(words)}"] if words else [])])


def _engine(backend: str, model: Model) -> Finding:
    """An engine, by a picture that it scores, or by opening it where that would take minutes."""
    if backend in ON_GPU and not has_nvidia_driver():
        return _engine_without_driver(backend)
    try:
        engine = open_engine(model, backend, EngineOptions(cache=compiled_cache()))
    except MissingEngineError as error:
        if backend != GPU:
            return Finding("engine", backend, MISSING, str(error), PACKAGES.get(backend, ""))
        return _missing_for_gpu("engine", backend, error, needed=not (_is_there("tensorrt") and _is_there(BINDINGS)))
    except EngineError as error:
        return Finding("engine", backend, UNFIT, str(error))
    try:
        if backend not in COMPILING:
            session = engine.session(*SIZE)
            session.start(np.zeros((*SIZE, 3), np.uint8), np.empty(session.score_shape, np.float32)).wait(WAIT_S)
        info = engine.info
        return Finding("engine", backend, READY, f"{info.version}, {model.name} in {info.arithmetic} on {info.device}")
    except EngineError as error:
        return Finding("engine", backend, UNFIT, str(error))
    finally:
        engine.close()


def _engine_without_driver(backend: str) -> Finding:
    if not gpu_driver.gpus():
        return Finding("engine", backend, UNFIT, "needs an NVIDIA GPU")
    if backend == GPU and not _is_there("tensorrt"):
        return Finding("engine", backend, MISSING, "not installed, and needs the GPU's driver", PACKAGES[GPU])
    return Finding("engine", backend, UNFIT, "needs the GPU's driver")


def examine_gpu() -> Iterator[Finding]:
    """The GPU, what speaks to it, and the plans that are kept for it."""
    if not has_nvidia_driver():
        lack = gpu_driver.lack()
        if lack is None:
            yield Finding("gpu", "NVIDIA", UNFIT, "no driver is loaded, and no GPU is on the PCI bus")
        else:
            yield Finding("gpu", "NVIDIA", MISSING, lack.told, command=lack.command)
        return
    try:
        from engines.backends.nvidia.cuda import open_device

        device = open_device()
    except EngineError as error:
        yield _missing_for_gpu("gpu", "NVIDIA", error, needed=not _is_there(BINDINGS))
        return
    capability = "{}.{}".format(*device.compute_capability)
    told = f"{device.name}, compute capability {capability}, {device.memory / 2**30:.0f} GiB, CUDA {device.driver}"
    yield Finding("gpu", "NVIDIA", READY, told)
    try:
        from engines.backends.nvidia.kernels import compile_kernels

        size = len(compile_kernels(device.compute_capability))
        yield Finding("gpu", "kernels", READY, f"NVRTC {_version('nvidia-cuda-nvrtc')}, {size / 1024:.0f} KiB of code")
    except EngineError as error:
        yield _missing_for_gpu("gpu", "kernels", error, needed=True)
    plans = sorted(compiled_cache().glob("*.plan"))
    yield Finding("gpu", "plans", READY, f"{len(plans)} in {compiled_cache()}; python -m engines build makes them")


def _missing_for_gpu(area: str, name: str, error: EngineError, *, needed: bool) -> Finding:
    """What lacks on a GPU; ``needed``: the package that installs it is not there. It is chosen by the driver."""
    cuda = gpu_driver.newest_cuda()
    package = CUDA_12 if cuda is not None and cuda < 13 else PACKAGES[GPU]
    return Finding(area, name, MISSING, str(error).replace(PACKAGES[GPU], package), package if needed else "")


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # of what it is part of
        return False


def _version(project: str) -> str:
    try:
        return metadata.version(project)
    except metadata.PackageNotFoundError as error:
        return one_line(error)
