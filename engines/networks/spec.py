"""What decides a network's shape and function, but for its classes, output stride and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

RatePlan = Literal["exact", "at once", "late"]
"""Where an atrous rate begins that replaces a stride; see `engines.networks.encoder.trade_strides`."""

Triple = tuple[float, float, float]

MAX_LAYERS = 64
"""Most layers of a head, rates and scales: far beyond any DeepLab, and soon built where a file asks for them."""


@dataclass(frozen=True, slots=True)
class Conventions:
    """In what implementations of one architecture differ without a trace in the weights.

    Weights work as they were trained only under the conventions that they were trained with.
    """

    align_corners: bool = False
    """Score maps are laid corner to corner (Caffe, TensorFlow; sizes are 8k + 1) instead of by half pixels."""

    plan: RatePlan = "exact"

    grid: tuple[int, ...] = ()
    """Factors of the rates of a ResNet's last blocks (multi-grid, arXiv 1706.05587, section 3.2)."""

    block_padding: bool = False
    """An inverted residual is padded before its expansion, whose batch norm then fills the border."""

    stem_padding: bool = True

    mean: Triple | None = None
    """Of pictures of 0–255 in RGB; None for the encoder's own, as with `std`."""

    std: Triple | None = None

    def __post_init__(self) -> None:
        if self.plan not in get_args(RatePlan):
            raise ValueError(f"no rate plan {self.plan!r}; there are {', '.join(get_args(RatePlan))}")


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that decides a network's shape but its classes and output stride."""

    encoder: str
    """Key of `engines.networks.registry.ENCODERS`."""

    decoder: bool
    """V3+ (scores at stride 4) or V3 and V2 (scores at the output stride)."""

    width: float = 1.0
    """Multiplier of the encoder's channels."""

    aspp_channels: int = 256
    """Channels of the ASPP; in version 2 those of fc6 and fc7, and 0 where branches score at once."""

    rates: tuple[int, ...] = (6, 12, 18)
    """Atrous rates of the ASPP: at output stride 16, in version 2 at 8."""

    separable: bool = True
    """Separable 3×3 convolutions in ASPP and decoder."""

    low_channels: int = 48
    """Low-level features after their reduction, V3+ only."""

    decoder_channels: int = 256
    version: int = 3
    """3: ASPP with image pooling, concatenated; 2: atrous branches, their scores summed."""

    context_layers: int = 0
    """3×3 layers between ASPP and scores or decoder."""

    decoder_layers: int = 2
    """3×3 layers of the decoder."""

    pooling_norm: bool = False
    """Batch norm instead of a bias in the image pooling."""

    separable_norm: bool = True
    """Batch norm and ReLU between the halves of a separable convolution."""

    low_inner: bool = True
    """MobileNetV2: the decoder sees the wide inner features of a block instead of its output."""

    auxiliary: bool = False
    """A second head on features in the middle of the encoder, for training."""

    scales: tuple[float, ...] = (1.0,)
    """Sizes at which the picture is seen; the largest score of each class counts. The first one is 1."""

    conventions: Conventions = field(default_factory=Conventions)

    def __post_init__(self) -> None:
        if self.version not in (2, 3):
            raise ValueError(f"no DeepLab version {self.version}; there are 2 and 3 (3+ is 3 with a decoder)")
        if not max(self.context_layers, self.decoder_layers, len(self.rates), len(self.scales)) <= MAX_LAYERS:
            raise ValueError(f"more than {MAX_LAYERS} layers, rates or scales: no DeepLab")
        if not self.scales or self.scales[0] != 1 or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive and begin with 1, not {self.scales}")

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> NetworkSpec:
        """The inverse of `dataclasses.asdict`, lists for tuples allowed."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in tree.items()}
        if "conventions" in values:
            given: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values["conventions"].items()
            }
            values["conventions"] = Conventions(**given)
        return cls(**values)
