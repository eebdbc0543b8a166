"""torchvision's own segmentation networks, which it builds without its compiled operators."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from tests.conftest import absent

_DECLARED: list[torch.library.Library] = []
"""What is declared lasts as long as this."""


def segmentation_models() -> ModuleType:
    """``torchvision.models.segmentation``.

    PyPI's wheel holds operators for CUDA, which do not load beside a torch for processors alone; the import then
    fails at two that torchvision tells more of.  The networks need neither: they are declared, and never called.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module("torchvision.models.segmentation")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)
    return importlib.import_module("torchvision.models.segmentation")


@torch.no_grad()
def settle_norms(network: torch.nn.Module, pictures: torch.Tensor) -> None:
    """Give batch norms the statistics of some pictures; with those of a fresh network, deep ones see nothing.

    Leaves the network in eval mode.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean of all batches, not a hundredth of each
    network.train()(pictures)
    network.eval()


def filled(name: str, size: tuple[int, int]) -> tuple[torch.nn.Module, torch.Tensor]:
    """One of its networks with weights and statistics at random, in eval mode, and the pictures that gave these.

    Args:
        name: of the function that makes it.
        size: height and width of the pictures, of which there are two.
    """
    try:
        models = segmentation_models()
    except ImportError:
        absent("torchvision (the extra `train`)")
    torch.manual_seed(5)
    network = getattr(models, name)(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    pictures = torch.randn(2, 3, *size)
    settle_norms(network, pictures)
    return network, pictures
