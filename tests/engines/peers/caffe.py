"""A writer of Caffe models: the protobuf package and a schema of the few messages, in both generations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import Tensor

FACTOR = 0.73
"""What a net's batch norms divide their sums by."""

CONVOLUTION = 4
"""V1LayerParameter.LayerType."""


def schema() -> dict[str, Any]:
    """Message classes by name."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_like.proto", package="caffe_like", syntax="proto2")
    kinds = descriptor_pb2.FieldDescriptorProto
    words = {"string": kinds.TYPE_STRING, "float": kinds.TYPE_FLOAT, "int": kinds.TYPE_INT32, "long": kinds.TYPE_INT64}
    words["uint"] = kinds.TYPE_UINT32

    def message(name: str, fields: str) -> None:
        made = file.message_type.add(name=name)
        for line in fields.split(","):
            label, kind, key, number = line.split()
            field = made.field.add(name=key, number=int(number))
            field.label = kinds.LABEL_REPEATED if label.startswith("many") else kinds.LABEL_OPTIONAL
            if kind in words:
                field.type = words[kind]
            else:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".caffe_like.{kind}"
            if label == "many_packed":
                field.options.packed = True

    message("BlobShape", "many_packed long dim 1")
    message(
        "Blob",
        "one int num 1, one int channels 2, one int height 3, one int width 4, "
        "many_packed float data 5, one BlobShape shape 7",
    )
    message("Convolution", "one uint num_output 1, many uint pad 3, many uint kernel_size 4, many uint stride 6")
    ends = "many string bottom {}, many string top {}, many Blob blobs {}, one Convolution convolution_param {}"
    message("Layer", "one string name 1, one string type 2, " + ends.format(3, 4, 7, 106))
    message("V1Layer", "one string name 4, one int type 5, " + ends.format(2, 3, 6, 10))
    message("Net", "one string name 1, many V1Layer layers 2, many Layer layer 100")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe_like.{message.name}"))
        for message in file.message_type
    }


def write_caffemodel(
    path: Path, state: dict[str, Tensor], pads: dict[str, int], *, old: bool, scales: bool = False
) -> None:
    """Write the weights of `published.caffe_vgg` or `published.caffe_resnet`.

    Args:
        path: File to write.
        state: Weights by name; those that begin with "norm of " become a BatchNorm and a Scale layer.
        pads: Padding of convolutions that tell it.
        old: Layers of the first generation, whose blobs have four sides.
        scales: Write each layer again for the smaller scales of multi-scale input.
    """
    kinds = schema()
    net = kinds["Net"](name="net")
    for name in dict.fromkeys(key.rpartition(".")[0] for key in state):
        for end in ("", "_res05", "_res075") if scales else ("",):
            if name.startswith("norm of "):
                add_norm(net, name.removeprefix("norm of "), end, state, name)
            else:
                add_convolution(net, name, end, state, pads.get(name), old=old)
    path.write_bytes(net.SerializeToString())


def add_convolution(net: Any, name: str, end: str, state: dict[str, Tensor], pad: int | None, *, old: bool) -> None:
    parts = name.rsplit("_", 1)
    # Of the heads the scale stands in the middle of the name.
    called = f"{parts[0]}{end}_{parts[1]}" if name.startswith("fc1") and end else name + end
    layer = net.layers.add(name=called, type=CONVOLUTION) if old else net.layer.add(name=called, type="Convolution")
    layer.bottom.append("before")
    layer.top.append(called)
    for part in ("weight", "bias"):
        if f"{name}.{part}" in state:
            add_blob(layer, state[f"{name}.{part}"] + (1.0 if end else 0.0), old=old)
    if pad is not None:
        layer.convolution_param.pad.append(pad)
        layer.convolution_param.num_output = state[f"{name}.weight"].shape[0]


def add_norm(net: Any, rest: str, end: str, state: dict[str, Tensor], name: str) -> None:
    norm = net.layer.add(name=f"bn_{rest}{end}" if rest == "conv1" else f"bn{rest}{end}", type="BatchNorm")
    add_blob(norm, state[f"{name}.running_mean"] * FACTOR, old=False)
    add_blob(norm, state[f"{name}.running_var"] * FACTOR, old=False)
    add_blob(norm, torch.tensor([FACTOR]), old=False)
    scale = net.layer.add(name=f"scale_{rest}{end}" if rest == "conv1" else f"scale{rest}{end}", type="Scale")
    add_blob(scale, state[f"{name}.weight"], old=False)
    add_blob(scale, state[f"{name}.bias"], old=False)


def add_blob(layer: Any, values: Tensor, *, old: bool) -> None:
    blob = layer.blobs.add()
    blob.data.extend(values.flatten().tolist())
    if old:
        blob.num, blob.channels, blob.height, blob.width = [1] * (4 - values.ndim) + list(values.shape)
    else:
        blob.shape.dim.extend(values.shape)
