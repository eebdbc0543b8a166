"""A trained network as one ONNX file that every backend runs.

The graph takes pictures as they are (``image``, uint8, N×H×W×3, RGB) and gives coarse scores
(``scores``, float32, N×C×h×w at the score stride): normalisation is inside, upsampling and softmax
are not. Batch, height and width are dynamic. What the scores mean travels in the file's metadata.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from engines.base import EngineError, Model
from engines.facts import HALF, NETWORK_FACT, PREFIX, TRAINING_FACT, ModelFacts
from engines.networks import Segmenter, assemble
from engines.networks.layers import ConvNorm
from engines.networks.normalise import ByteNetwork
from engines.networks.trained import UNFIT, TrainedNetwork, first_line
from engines.onnx_metadata import read_header
from engines.weights import open_weights
from engines.whole_file import whole_file

OPSET = 20

TOLERANCE = 1e-3
"""Largest difference of a score between the file and torch, at scores of ±10 and below; more where they are larger."""

CHECK_SIZES = ((96, 128), (104, 75))
"""Height and width of the pictures that an export is checked on; one is no multiple of 16."""


class ExportError(EngineError):
    """An export that failed or does not agree with torch."""


def export(
    trained: TrainedNetwork,
    path: Path,
    *,
    name: str,
    licence: str = "",
    half: bool = False,
    others: Sequence[Segmenter] = (),
    done: Callable[[], object] = lambda: None,
) -> float:
    """Write a network as ONNX, checked against torch; an older file is replaced only at the end.

    Args:
        trained: the network.
        path: file to write.
        name: what people shall call the model.
        licence: terms of the weights.
        half: its labels were seen to hold in half precision. Its convolutions' weights are rounded to it
            and stored so; the graph casts them back, and engines do that once, as they compile it.
        others: networks that the mean of the weights is taken with; see `mean_of`.
        done: called when the file is written, and when it is checked.

    Returns:
        The largest difference to the scores of torch, with the very weights of the file, that the check saw.

    Raises:
        ExportError: its scores differ from torch's by more than `TOLERANCE`, or the others are of
            other shapes.
        EngineError: the file cannot be written.
    """
    network = trained.restore()
    if others:
        network = mean_of([network, *others])
        trained = replace(trained, facts=trained.facts | {"averaged": len(others) + 1})
    facts = metadata(trained, network, name, licence, half)
    with whole_file(path) as unfinished:
        folded = fold_batch_norm(network)
        if half:
            round_weights(folded)
        _write(ByteNetwork(folded).eval(), unfinished, facts, half)
        done()
        difference = check(ByteNetwork(folded if half else network).eval(), unfinished)
        done()
    return difference


def read_export(model: Model) -> TrainedNetwork:
    """The network that an exported file holds; its batch norms are part of the convolutions before them.

    Raises:
        EngineError: the file was not exported by this program, or is damaged.
    """
    weights = open_weights(model.path)
    if weights.spec is None:
        raise EngineError(
            f"{model.path} was not exported by this program: it can be quantised (--precision int8) alone"
        )
    try:
        with torch.device("meta"):  # what the file asks for takes no memory before it is known to be in it
            weights.load_into(assemble(weights.spec, len(model.labels), model.output_stride))
        network = assemble(weights.spec, len(model.labels), model.output_stride)
    except UNFIT as error:
        raise EngineError(f"{model.path}: its network does not fit this version: {first_line(error)}") from error
    weights.load_into(network)
    facts = json.loads(read_header(model.path).properties.get(TRAINING_FACT, "{}"))
    return TrainedNetwork(weights.spec, model.output_stride, model.labels, model.size, network.state_dict(), facts)


def metadata(trained: TrainedNetwork, network: Segmenter, name: str, licence: str, half: bool) -> dict[str, str]:
    """What the file says about itself: `ModelFacts`, and facts for people and for `engines.weights`."""
    facts = ModelFacts(
        name=name,
        labels=trained.labels,
        size=trained.size,
        output_stride=network.output_stride,
        align_corners=network.align_corners,
        licence=licence,
        half=half,
    )
    more: dict[str, Any] = {
        PREFIX + "score_stride": network.score_stride,
        TRAINING_FACT: trained.facts,
        NETWORK_FACT: asdict(network.spec),
    }
    return facts.to_properties() | {key: json.dumps(value) for key, value in more.items()}


def fold_batch_norm(network: Segmenter) -> Segmenter:
    """A copy in eval mode whose batch norms are part of the convolutions before them."""
    folded = copy.deepcopy(network).cpu().eval()
    for module in folded.modules():
        if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.norm)
            module.norm = nn.Identity()
    return folded


@torch.no_grad()
def mean_of(networks: Sequence[Segmenter]) -> Segmenter:
    """A network in eval mode with the mean of the weights of several, batch norms folded before.

    Networks that were trained from one another lie in one basin, where the mean is often better on unseen
    pictures than each (Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482).

    Raises:
        ExportError: their weights are not of the same names and shapes.
    """
    first, *rest = [fold_batch_norm(network) for network in networks]
    total = first.state_dict()
    for number, other in enumerate(rest, 2):
        state = other.state_dict()
        if {name: value.shape for name, value in state.items()} != {name: value.shape for name, value in total.items()}:
            raise ExportError(f"network {number} of those to average is another one: its weights have other shapes")
        for name, value in total.items():
            value.lerp_(state[name], 1 / number)
    return first


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """Round the convolutions' weights to half precision, in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.copy_(module.weight.half())


def store_half(graph: onnx.GraphProto) -> None:
    """Keep the convolutions' weights, already rounded, in half precision, each cast back by a node in front."""
    weights = {node.input[1] for node in graph.node if node.op_type == "Conv"}
    casts = []
    for tensor in graph.initializer:
        if tensor.name in weights:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(onnx.helper.make_node("Cast", [tensor.name + HALF], [tensor.name], to=onnx.TensorProto.FLOAT))
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name + HALF))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _write(model: ByteNetwork, path: Path, properties: dict[str, str], half: bool) -> None:
    example = torch.zeros(2, 96, 128, 3, dtype=torch.uint8)
    dynamic = {
        0: torch.export.Dim("batch", min=1),
        1: torch.export.Dim("height", min=32),
        2: torch.export.Dim("width", min=32),
    }
    with _quiet_exporter():
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=["image"],
            output_names=["scores"],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
    if program is None:
        raise ExportError(f"{path}: torch made no ONNX program")
    proto = program.model_proto
    _strip(proto)
    if half:
        store_half(proto.graph)
    for key, value in properties.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(proto)
    onnx.save(proto, str(path))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence about every rewritten node, and about torchvision's absence."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _strip(proto: onnx.ModelProto) -> None:
    """Take out what the exporter notes of its own: source lines and the paths of this machine."""
    graph = proto.graph
    del proto.metadata_props[:]
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def check(model: ByteNetwork, path: Path) -> float:
    """Largest difference of the scores that an ONNX file and torch give for random pictures.

    Raises:
        ExportError: it exceeds `TOLERANCE`, or the shapes differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    worst, largest = 0.0, 10.0
    for batch, (height, width) in enumerate(CHECK_SIZES, 1):
        image = generator.integers(0, 256, (batch, height, width, 3), np.uint8)
        with torch.inference_mode():
            expected = model(torch.from_numpy(image)).numpy()
        (scores,) = session.run(["scores"], {"image": image})
        if scores.shape != expected.shape:
            raise ExportError(f"scores of shape {scores.shape}, but torch gives {expected.shape}")
        worst = max(worst, float(np.abs(scores - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not worst <= TOLERANCE * largest / 10:
        raise ExportError(f"the exported scores differ from torch's by {worst:.2g}, at scores of up to {largest:.2g}")
    return worst
