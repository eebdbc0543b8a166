"""DeepLab V2: encoder → parallel atrous branches → the sum of their scores (arXiv 1606.00915, section 3.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from engines.networks.encoder import Encoder
from engines.networks.segmenter import Segmenter
from engines.networks.spec import NetworkSpec

PAPER_STRIDE = 8
"""The output stride that the paper's rates are for."""


class Branch(nn.Sequential):
    """One view of the context: fc6 (3×3 at a rate) → fc7 (1×1) → scores (1×1), or 3×3 scores at once.

    Args:
        inputs: Channels in.
        hidden: Channels of fc6 and fc7; 0 leaves both out.
        classes: Scores out.
        rate: Atrous rate of the 3×3 convolution.
    """

    def __init__(self, inputs: int, hidden: int, classes: int, rate: int) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden:
            for name, channels, kernel in (("fc6", inputs, 3), ("fc7", hidden, 1)):
                around = rate * (kernel // 2)
                layers[name] = nn.Conv2d(channels, hidden, kernel, padding=around, dilation=rate if around else 1)
                layers[f"{name}_relu"], layers[f"{name}_dropout"] = nn.ReLU(), nn.Dropout(0.5)
            layers["scores"] = nn.Conv2d(hidden, classes, 1)
        else:
            layers["scores"] = nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate)
        super().__init__(layers)


class DeepLabV2(Segmenter):
    """DeepLab V2: one branch is LargeFOV, four are ASPP.

    Attributes:
        branches: The parallel branches.
    """

    def __init__(self, spec: NetworkSpec, encoder: Encoder, classes: int, rates: Sequence[int]) -> None:
        super().__init__(spec, encoder, encoder.output_stride)
        self.branches = nn.ModuleList(
            Branch(encoder.high_channels, spec.aspp_channels, classes, rate) for rate in rates
        )

    def single(self, image: Tensor) -> Tensor:
        high = self.encoder(image).high
        scores: Tensor = self.branches[0](high)
        for branch in list(self.branches)[1:]:
            scores = scores + branch(high)
        return scores

    def classifier(self) -> nn.Conv2d:
        scores = self.branches[0].get_submodule("scores")
        assert isinstance(scores, nn.Conv2d)
        return scores
