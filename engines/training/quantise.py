"""int8 networks: ranges by calibration, and the loss of mIoU measured before a file is written.

Quantisation after training by NNCF, on the ONNX graph: weights a channel each, activations by the ranges that they take
on the calibration's pictures, biases corrected (Jacob et al. 2018, arXiv 1712.05877; Nagel et al. 2019,
arXiv 1906.04721). The file holds QuantizeLinear and DequantizeLinear nodes, which every backend reads.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from engines.backends import open_engine
from engines.backends.common import one_line, prepare
from engines.base import EngineError, EngineOptions, Model
from engines.facts import PREFIX
from engines.model_file import notes_beside
from engines.onnx_graph import plain_activations, whole_weights
from engines.training.datasets import Sample
from engines.training.evaluation import evaluate
from engines.training.files import write_bytes
from engines.training.scoring import labelled_pictures, network_picture, picture_geometry
from engines.whole_file import whole_file

TARGETS = {"cpu": "auto", "tensorrt": "onnxruntime"}
"""What a quantised network is for, and the engine that measures it here.

CPUs have unsigned activations and scales a channel. What TensorRT has instead ONNX Runtime computes as the file
says, on any processor.
"""

MOST_LOST = 1.0
"""Points of mIoU that a quantised network may lose."""


class QuantiseError(EngineError):
    """A network that cannot be quantised, or loses too much by it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What quantisation did to the labels.

    Attributes:
        plain, quantised: mIoU in percent.
        pictures: how many it was measured on.
    """

    plain: float
    quantised: float
    pictures: int


def quantise(
    model: Model,
    path: Path,
    *,
    calibration: Sequence[Sample],
    validation: Sequence[Sample],
    name: str,
    licence: str | None = None,
    target: str = "cpu",
) -> Loss:
    """Write a network quantised to int8, if it keeps its mIoU; an older file is replaced only at the end.

    Args:
        model: the network, in float.
        path: ONNX file to write; a YAML beside the network's file is copied beside it.
        calibration: pictures whose ranges are taken.
        validation: labelled pictures that it is measured on, before and after.
        name: what people shall call it.
        licence: terms of the weights; the network's own where None.
        target: a key of `TARGETS`.

    Raises:
        QuantiseError: NNCF is missing or cannot quantise it, or more than `MOST_LOST` points are lost.
        EngineError: a picture cannot be used, the network failed, or the file cannot be written.
    """
    if model.quantised:
        raise QuantiseError(f"{model.name} is quantised already: give its float model")
    beside = notes_beside(model.path)
    notes = beside.read_bytes() if beside is not None else None
    with _silent_nncf(), whole_file(path) as part:
        _write(model, part, calibration, _told(model, name, licence, len(calibration)), target)
        plain = _measured(model, "fp32", validation)
        if not np.isfinite(plain):
            raise QuantiseError("the validation has no labelled pixel: nothing tells what int8 loses")
        quantised = _measured(replace(model, path=part, quantised=True), "int8", validation, TARGETS[target])
        loss = Loss(plain, quantised, len(validation))
        if not loss.plain - loss.quantised <= MOST_LOST:
            raise QuantiseError(
                f"{path}: not written: int8 has {loss.quantised:.2f} mIoU where float has {loss.plain:.2f}, "
                f"and {MOST_LOST:g} may be lost: calibrate on more, or more various, pictures"
            )
    if notes is not None:
        write_bytes(path.with_suffix(".yaml"), notes)
    return loss


def _told(model: Model, name: str, licence: str | None, pictures: int) -> dict[str, Any]:
    """What the file says of itself in another way than the float one."""
    told = {"name": name, "half": False, "calibrated_on": pictures, "quantised_from": model.sha256}
    return told if licence is None else told | {"licence": licence}


def _measured(model: Model, precision: str, samples: Sequence[Sample], backend: str = "auto") -> float:
    """Mean IoU in percent."""
    engine = open_engine(model, backend, EngineOptions(precision))
    try:
        return 100 * evaluate(engine, samples).confusion.mean_iou()
    finally:
        engine.close()


@contextmanager
def _silent_nncf() -> Iterator[None]:
    """NNCF without its statistics for its makers, its bars on the output and its log.

    Raises:
        QuantiseError: it is not installed.
    """
    unasked = "openvino_telemetry" not in sys.modules
    if unasked:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it takes that for not installed
    try:
        import nncf
        import onnx  # noqa: F401
    except ImportError as error:
        raise QuantiseError(f"int8 needs NNCF ({error}): pip install 'deeplab-stream[quantise]'") from error
    finally:
        if unasked:
            del sys.modules["openvino_telemetry"]
    nncf.set_log_level(logging.ERROR)
    yield


@dataclass(frozen=True, slots=True)
class _Calibration:
    """Pictures as the graph takes them, with a progress bar."""

    model: Model
    samples: Sequence[Sample]

    def __len__(self) -> int:
        return len(self.samples)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        with tqdm(total=len(self), desc="calibrating", unit="picture") as bar:
            for image, _ in labelled_pictures(self.samples, len(self.model.labels)):
                given = network_picture(image, picture_geometry(self.model, image, self.model.size))
                bar.update()  # now, since nobody asks for more after the last
                yield {self.model.input_name: prepare(given, self.model)}


def _write(model: Model, path: Path, samples: Sequence[Sample], told: Mapping[str, Any], target: str) -> None:
    """Write the quantised graph.

    Raises:
        QuantiseError: NNCF cannot quantise the network.
    """
    import nncf
    import onnx

    proto = onnx.load(str(model.path))
    whole_weights(proto.graph)
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            quantised = nncf.quantize(
                proto,
                nncf.Dataset(_Calibration(model, samples)),
                # Symmetric activations: with zero points OpenVINO computes much of the network in float.
                preset=nncf.QuantizationPreset.PERFORMANCE,
                subset_size=len(samples),
            )
    except EngineError:
        raise
    except Exception as error:  # NNCF's and ONNX Runtime's exceptions have no common class
        raise QuantiseError(f"NNCF cannot quantise {model.name}: {one_line(error)}") from error
    if target == "tensorrt":
        plain_activations(quantised.graph)
    entries = {entry.key: entry for entry in quantised.metadata_props}
    if PREFIX + "labels" in entries:  # else a YAML tells of it
        for key, value in told.items():
            entry = entries.get(PREFIX + key) or quantised.metadata_props.add()
            entry.key, entry.value = PREFIX + key, json.dumps(value, ensure_ascii=False)
    try:
        onnx.save(quantised, str(path))
    except OSError as error:
        raise QuantiseError(f"{path}: cannot be written: {error.strerror}") from error
