"""Files of weights as tensors by name, whatever their container; no code in them is run."""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from engines.base import ModelError
from engines.convert.tflite import Op, parse
from engines.facts import HALF, NETWORK_FACT
from engines.networks import NetworkSpec
from engines.networks.trained import FORMAT, KEY, UNFIT, TrainedNetwork, first_line, printable
from engines.weights.caffe import read_caffemodel
from engines.wire import MalformedError

if TYPE_CHECKING:
    import onnx

WRAPPERS = ("state_dict", "model_state", "model_state_dict", "model")
"""Where training programs keep the weights in their checkpoints."""

MAX_WRAPPERS = 4
"""How deep they lie at most: a pickle may hold itself."""

MAX_UNPACKED = 1 << 30
"""Bytes of an archive's tensors: beyond any network that is read, before a kilobyte unpacks into all memory."""

DAMAGE = (
    OSError, MalformedError, zipfile.BadZipFile, zlib.error, EOFError, MemoryError, *UNFIT, OverflowError,
)  # fmt: skip
"""What the readers of the containers raise where bytes are not what they should be."""

OTHER_SCALES = ("res05", "res075")
"""Parts of the names of Caffe's layers that share their weights with those of the first scale."""

TFLITE_NAME = re.compile(
    r"(?:MobilenetV2/)?(.+?)/(?:weights|depthwise_weights|depthwise_Fold|Conv2D(?:_Fold)?)(?:;.*)?"
)
"""A convolution's weights in a TFLite file."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a file holds.

    Attributes:
        tensors: Its tensors, on the CPU, by their names in it.
        spec: The network that they are of, where the file tells it: ours do.
    """

    tensors: dict[str, Tensor]
    spec: NetworkSpec | None = None


def read_contents(path: Path) -> Contents:
    """The tensors of a file.

    The container is told by the ending: .onnx, .caffemodel, .tflite, .npz, .safetensors, and anything else is
    torch's. What stands around the weights in a checkpoint is taken off; of our own checkpoints it is the trained
    network with the scores of `TrainedNetwork.restore`.

    Raises:
        ModelError: The file is missing or damaged, holds no tensors, or wants to run code.
    """
    readers: dict[str, Callable[[Path], Contents]] = {
        ".onnx": _read_onnx, ".caffemodel": _read_caffe, ".tflite": _read_tflite,
        ".npz": _read_npz, ".safetensors": _read_safetensors,
    }  # fmt: skip
    try:
        contents = readers.get(path.suffix.lower(), _read_torch)(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a directory, not a file of weights") from error
    except DAMAGE as error:
        raise ModelError(f"{path}: not a readable file of weights: {first_line(error)}") from error
    if not contents.tensors:
        raise ModelError(f"{path}: there are no weights in it")
    return contents


def _read_caffe(path: Path) -> Contents:
    return Contents(read_caffemodel(path, lambda layer: not any(part in layer for part in OTHER_SCALES)))


def _read_npz(path: Path) -> Contents:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > MAX_UNPACKED:
            raise ValueError(f"it unpacks into {total} bytes: more than any network")
        names = [member.filename.removesuffix(".npy") for member in members]
        return Contents(
            {name: _read_npy(printable(name), archive.read(each)) for name, each in zip(names, members, strict=True)}
        )


def _read_npy(name: str, data: bytes) -> Tensor:
    """The tensor of a .npy file: numpy's own reader trusts the shape in it, and takes the memory first."""
    stream = io.BytesIO(data)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    reader = readers.get(np.lib.format.read_magic(stream))
    if reader is None:
        raise ValueError(f"{name} is in a version of numpy's format that holds no tensors")
    shape, by_columns, dtype = reader(stream)
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} holds {dtype}, not numbers")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError(f"{name} is not as long as its shape")
    values = np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))


def _read_safetensors(path: Path) -> Contents:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ModelError(f"{path}: reading it needs safetensors: pip install safetensors") from error
    try:
        return Contents(dict(load_file(path)))
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_onnx(path: Path) -> Contents:
    import onnx
    from google.protobuf import message
    from onnx.checker import ValidationError
    from onnx.external_data_helper import load_external_data_for_model

    try:
        model = onnx.load(path, load_external_data=False)
    except message.DecodeError as error:
        raise ValueError("no ONNX model") from error
    try:
        load_external_data_for_model(model, str(path.parent))
    except (OSError, ValidationError) as error:
        raise ValueError(f"the file beside it that holds its weights: {first_line(error)}") from error
    # Weights that are stored in half precision are cast back by the graph, under the name without the suffix.
    tensors = {each.name.removesuffix(HALF): _initialiser(each) for each in model.graph.initializer}
    told = [each.value for each in model.metadata_props if each.key == NETWORK_FACT]
    try:
        return Contents(tensors, NetworkSpec.from_tree(json.loads(told[0])) if told else None)
    except UNFIT as error:
        raise ModelError(f"{path}: its network does not fit this version: {first_line(error)}") from error


def _initialiser(stored: onnx.TensorProto) -> Tensor:
    from onnx import TensorProto, numpy_helper

    try:
        values = numpy_helper.to_array(stored)
        if stored.data_type == TensorProto.BFLOAT16:
            values = values.astype(np.float32)  # numpy and torch have no type for it in common
        return torch.from_numpy(values.copy())
    except UNFIT as error:
        raise ValueError(
            f"{printable(stored.name)} of ONNX's type {stored.data_type} is no tensor: {first_line(error)}"
        ) from error


def _read_tflite(path: Path) -> Contents:
    """Convolutions in torch's order of axes, dequantised, under the names of TensorFlow's layers."""
    try:
        graph = parse(path.read_bytes())
    except ModelError as error:
        raise ValueError(str(error)) from error
    tensors = {}
    for step in graph.operators:
        if step.op not in (Op.CONV_2D, Op.DEPTHWISE_CONV_2D):
            continue
        source = graph.tensors[step.inputs[1]]
        match = TFLITE_NAME.fullmatch(source.name)
        if match is None:
            raise ModelError(f"{path}: the weights {source.name!r} are of no layer of a DeepLab")
        kernel = source.values()
        kernel = kernel.transpose(3, 0, 1, 2) if step.op is Op.DEPTHWISE_CONV_2D else kernel.transpose(0, 3, 1, 2)
        tensors[f"{match[1]}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
        if len(step.inputs) > 2 and step.inputs[2] >= 0:
            tensors[f"{match[1]}.bias"] = torch.from_numpy(graph.tensors[step.inputs[2]].values())
    return Contents(tensors)


def _read_torch(path: Path) -> Contents:
    try:
        with _numpy_scalars():
            tree = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # rubbish can lead the unpickler into any exception
        line = first_line(error).partition(". ")[0]
        raise ModelError(f"{path}: not a readable file of weights, or one that wants to run code: {line}") from error
    if isinstance(tree, Mapping) and tree.get("format") == FORMAT:
        try:
            network = TrainedNetwork.from_tree(tree[KEY]).restore()
            return Contents(dict(network.state_dict()), network.spec)
        except UNFIT as error:
            raise ModelError(f"{path}: its network does not fit this version: {first_line(error)}") from error
    return Contents(_unwrapped(tree))


def _unwrapped(tree: object) -> dict[str, Tensor]:
    """The state dict inside a checkpoint, without the prefix of networks that were trained on several devices."""
    for _ in range(MAX_WRAPPERS):
        if isinstance(tree, Mapping):
            tree = next((tree[key] for key in WRAPPERS if isinstance(tree.get(key), Mapping)), tree)
    if not isinstance(tree, Mapping):
        return {}
    tensors = {str(name): value for name, value in tree.items() if isinstance(value, Tensor)}
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


@contextlib.contextmanager
def _numpy_scalars() -> Iterator[None]:
    """Let numpy's numbers pass: several programs keep their best score as one beside the weights."""
    scalar = np.float64(0).__reduce__()[0]
    kinds: list[Any] = [np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)), scalar]
    kinds += [(scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")]
    with torch.serialization.safe_globals(kinds):
        yield
