"""Networks of other libraries, exported as their users do, through the program with a YAML beside them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks are torch's (the extra `train`)")
pytest.importorskip("onnxscript", reason="exports need onnxscript (the extra `train`)")

from torch import nn  # noqa: E402

from tests.conftest import absent  # noqa: E402
from tests.engines.peers.torchvision import segmentation_models, settle_norms  # noqa: E402
from tests.pipeline.clips import Clip  # noqa: E402
from tests.pipeline.painting import Array  # noqa: E402
from tests.pipeline.running import PlainNetwork, arguments, masks_of, plainly, program, sidecar_of  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

LABELS = ["road", "car", "person", "tree", "sky"]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FRAMES = 3
SIZE = 80
"""Short side of the clip, so that nothing is scaled on the way."""

YAML = """
labels: [road, car, person, tree, sky]
palette: ["#804080", "#00008e", [220, 20, 60], [107, 142, 35], "#4682b4"]
mean: [0.485, 0.456, 0.406]
std: [0.229, 0.224, 0.225]
range: 1
layout: nchw
"""


@dataclass(frozen=True)
class Foreign:
    """A network of another library.

    Attributes:
        make: the network, and the convolution that gives its scores.
        stride: sides that it takes are multiples of this.
        yaml: what its YAML says besides `YAML`.
        exporter: what `torch.onnx.export` is told.
        take: its scores in what it returns.
    """

    make: Callable[[], tuple[nn.Module, nn.Conv2d]]
    stride: int
    yaml: str
    exporter: dict[str, Any]
    take: Callable[[Any], torch.Tensor] = field(default=lambda answer: answer)


def torchvision_deeplab() -> tuple[nn.Module, nn.Conv2d]:
    try:
        models = segmentation_models()
    except ImportError:
        absent("torchvision (the extra `train`)")
    network = models.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(LABELS), aux_loss=True
    )
    return network, network.classifier[-1]


def smp(architecture: str) -> tuple[nn.Module, nn.Conv2d]:
    segmentation_models()  # timm imports torchvision
    try:
        import segmentation_models_pytorch
    except ImportError:
        absent("segmentation_models_pytorch (the extra `dev`)")
    network = getattr(segmentation_models_pytorch, architecture)(
        "mobilenet_v2", encoder_weights=None, classes=len(LABELS)
    )
    return network, network.segmentation_head[0]


def segformer() -> tuple[nn.Module, nn.Conv2d]:
    try:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation
    except ImportError:
        absent("transformers (the extra `dev`)")
    config = SegformerConfig(
        num_labels=len(LABELS), depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], decoder_hidden_size=32
    )
    network = SegformerForSemanticSegmentation(config)
    return network, network.decode_head.classifier


SCRIPTED = {"dynamo": False, "dynamic_axes": {"pixels": {2: "height", 3: "width"}}}
"""torch's older exporter, which most files in the world are of."""

FIXED = {"dynamo": True, "external_data": False}

NETWORKS = {
    "torchvision": Foreign(
        torchvision_deeplab, 8, "output_stride: 8\nsize: 80\noutput: out\n",
        SCRIPTED | {"output_names": ["out", "aux"]}, lambda answer: answer["out"],
    ),
    "smp DeepLabV3+, one size": Foreign(lambda: smp("DeepLabV3Plus"), 16, "", FIXED),
    "smp Unet": Foreign(lambda: smp("Unet"), 32, "size: 80\nbackground: road\n", SCRIPTED),
    "SegFormer, one size": Foreign(segformer, 4, "", FIXED, lambda answer: answer.logits),
    "SegFormer": Foreign(segformer, 32, "size: 80\nname: mine\n", SCRIPTED, lambda answer: answer.logits),
}  # fmt: skip


def normalised(image: Array) -> torch.Tensor:
    unit = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    return (unit - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@torch.no_grad()
def settled(foreign: Foreign) -> nn.Module:
    """The network with batch norms of some pictures, and scores of which each class wins somewhere."""
    torch.manual_seed(3)
    torch.set_num_threads(1)
    network, last = foreign.make()
    pictures = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), (96, 96), mode="bilinear")
    settle_norms(network, pictures)
    scores = foreign.take(network(pictures))
    last.weight *= 3 / scores.std((0, 2, 3))[:, None, None, None]
    assert last.bias is not None
    last.bias.zero_()
    last.bias -= foreign.take(network(pictures)).mean((0, 2, 3))
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_foreign_export_labels_as_its_library_does(name: str, clip: Callable[[str], Clip], tmp_path: Path) -> None:
    foreign, given = NETWORKS[name], clip("h264").path
    network = settled(foreign)
    # Other sides than the clip's, where any are taken.
    example = torch.rand(1, 3, SIZE, 96) if foreign.exporter is FIXED else torch.rand(1, 3, 64, 128)
    path, masks = tmp_path / "net.onnx", tmp_path / "masks.mkv"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network, (example,), path, input_names=["pixels"], verbose=False, **foreign.exporter)
    path.with_suffix(".yaml").write_text(YAML + foreign.yaml)
    flags = ("--output", tmp_path / "out.mp4", "--masks", masks, "--max-frames", str(FRAMES))
    done = program(*arguments(given, str(path), *flags))
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, "nothing is left to be guessed"

    def scores(image: Array) -> Array:
        with torch.inference_mode():
            found: Array = foreign.take(network(normalised(image)))[0].numpy().astype(np.float64)
            swapped: Array = foreign.take(network(normalised(image[..., ::-1].copy())))[0].numpy()
        assert (found.argmax(0) != swapped.argmax(0)).mean() > 0.02, "or the network does not see the picture"
        return found

    seen = 0
    plain = PlainNetwork(scores, foreign.stride, lead=0.02)
    found = masks_of(masks)
    for expected, mask in zip(plainly(given, SIZE, plain, max_frames=FRAMES), found, strict=True):
        assert expected.certain.mean() > 0.9
        expected.check(mask)
        seen |= sum(1 << int(label) for label in np.unique(mask))
    assert seen.bit_count() >= 3, "or the network tells nothing"
    header, _ = sidecar_of(masks)
    assert [each["name"] for each in header["classes"]] == LABELS
