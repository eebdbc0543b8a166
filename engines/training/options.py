"""What a training run can be told, as frozen values, and their reader.

Defaults stand here alone. A config file is YAML with these very fields; an unknown key or a wrong
type is an error that names the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from engines.facts import SIZES
from engines.settings import SettingsError, build, read_settings
from engines.training.datasets import CHOICES

CONFIGS = "configs.training"


class OptionError(SettingsError):
    """Options that are of the right type, but make no sense."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The network to train."""

    network: str = "deeplabv3plus-mobilenetv2"
    """Name in `engines.networks.NETWORKS`."""

    output_stride: int = 16
    size: int = 448
    """Preferred short side in pixels when the network runs; kept in the export's metadata."""

    freeze: int = 0
    """Blocks of the encoder, counted after its stem, that keep their starting weights along with
    the stem; 0 trains everything."""

    freeze_norms: bool = False
    """Batch norms keep their starting statistics, scales and shifts: for small batches."""

    scales: tuple[float, ...] = (1.0,)
    """Sizes at which the network sees a picture, the first one being 1; with several every scale's scores and
    their maximum are learnt (arXiv 1606.00915, section 4.1.2)."""


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How a picture is varied. Every amount may be 0, which switches it off."""

    crop: int = 352
    """Side of the square crop in pixels: a multiple of the output stride."""

    scale: tuple[float, float] = (0.7, 2.0)
    """Range of the zoom, drawn evenly in its logarithm."""

    rotate: float = 0.0
    """Largest turn in degrees."""

    flip: float = 0.5
    """Share of pictures that is mirrored."""

    brightness: float = 0.0
    """Largest relative change of the mean, as the following ones of their quantities."""

    contrast: float = 0.0
    gamma: float = 0.0
    """Largest change of the logarithm of the exponent."""

    saturation: float = 0.0
    hue: float = 0.0
    """Largest turn of the colour circle, in turns."""

    channels: float = 0.0
    """Largest relative change of one channel alone."""

    blur: float = 0.0
    """Share of pictures that is blurred."""

    noise: float = 0.0
    """Share of pictures that gets Gaussian noise."""


@dataclass(frozen=True, slots=True)
class OptimiserOptions:
    """AdamW or SGD with a poly schedule and a moving average of the weights."""

    kind: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    """Of SGD."""

    batch: int = 8
    """Pictures of a step, in all processes together."""

    backbone_rate: float = 4e-4
    head_rate: float = 2e-3
    bias_factor: float = 1.0
    """What the rates of biases and shifts are multiplied by (Caffe's models: 2)."""

    decay: float = 0.01
    warmup: int = 100
    """Steps over which the learning rate rises to its full value."""

    power: float = 0.9
    """Exponent of the poly schedule."""

    average: float = 0.998
    """Decay of the moving average of the weights; 0 for none."""

    balance: float = 1.0
    """A drive of n pictures is drawn in proportion to n**balance: at 1 every picture is as likely
    as any other, at 0 every drive. A drive is the part of a file name before its first `_`."""


@dataclass(frozen=True, slots=True)
class LossOptions:
    """Weighted cross-entropy plus Lovász-softmax."""

    log_weight: float = 1.1
    """A class of frequency f weighs 1/ln(log_weight + f) (ENet, arXiv 1606.02147); 0 for none."""

    lovasz: float = 0.0
    """Weight of the Lovász-softmax term."""

    label_stride: int = 2
    """Pixels per label that the loss sees, in each direction."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """A whole training run, but for where its data and results lie."""

    labels: str = "camvid"
    """Name in `engines.labels`."""

    dataset: str = "auto"
    """What the root holds, of `engines.training.datasets.CHOICES`."""

    splits: tuple[str, ...] = ("train",)
    """Splits of the data set that are trained on."""

    validation: str = "val"
    """Split that is measured as training goes on."""

    hold_out: str = ""
    """Pictures of the training splits whose names start so are measured instead of trained on."""

    ignore: int = 255
    """Value of pixels without a label in the label files; 255 always is one, too."""

    seed: int = 0
    epochs: int = 50
    steps: int = 0
    """If set, the run lasts so many steps and `epochs` is not looked at."""

    hours: float = 0.0
    """If set, the run lasts so long and neither `epochs` nor `steps` is looked at."""

    validate_every: int = 10
    """Epochs between two measurements."""

    precision: str = "bf16"
    """`bf16` (autocast) or `fp32`."""

    model: ModelOptions = field(default_factory=ModelOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    loss: LossOptions = field(default_factory=LossOptions)


RANGES: dict[str, tuple[float, float]] = {
    "ignore": (0, 255),
    "seed": (0, 2**63 - 1),
    "epochs": (1, 10**6),
    "steps": (0, 10**9),
    "hours": (0, 10**5),
    "validate_every": (1, 10**6),
    "model: size": SIZES,
    "model: freeze": (0, 1000),
    "augment: crop": (1, SIZES[1]),
    "augment: rotate": (0, 180),
    "augment: flip": (0, 1),
    "augment: brightness": (0, 1),
    "augment: contrast": (0, 1),
    "augment: gamma": (0, 3),
    "augment: saturation": (0, 1),
    "augment: hue": (0, 0.5),
    "augment: channels": (0, 1),
    "augment: blur": (0, 1),
    "augment: noise": (0, 1),
    "optimiser: momentum": (0, 0.9999),
    "optimiser: batch": (1, 10**5),
    "optimiser: backbone_rate": (0, 10),
    "optimiser: head_rate": (0, 10),
    "optimiser: bias_factor": (0, 1000),
    "optimiser: decay": (0, 1),
    "optimiser: warmup": (0, 10**6),
    "optimiser: power": (0, 10),
    "optimiser: average": (0, 0.999999),
    "optimiser: balance": (0, 1),
    "loss: lovasz": (0, 100),
    "loss: label_stride": (1, 64),
}
"""Least and greatest value that makes sense, by key; what has other demands than these is not in it."""


def load_options(config: str) -> TrainingOptions:
    """Read the config of this name in `configs/training`, or the YAML file of this path.

    Raises:
        SettingsError: If there is no such file, or it is no YAML, or it has an unknown key or a
            value of a wrong type.
    """
    return parse_options(read_settings(config, CONFIGS), config)


def parse_options(tree: object, origin: str) -> TrainingOptions:
    """Options from a tree of mappings, such as `dataclasses.asdict` makes.

    Raises:
        SettingsError: If a key is unknown, or a value of a wrong type or out of its range; `origin`
            begins the message.
    """
    options = build(TrainingOptions, tree, origin)
    check_options(options, origin)
    return options


def check_options(options: TrainingOptions, origin: str) -> None:
    """See that values make sense, one by one and together.

    Raises:
        OptionError: one does not; `origin` begins the message, which names the key.
    """
    for key, (least, greatest) in RANGES.items():
        *section, name = key.split(": ")
        value = getattr(getattr(options, section[0]) if section else options, name)
        if not least <= value <= greatest:
            raise OptionError(f"{origin}: {key} {value:g} is out of range: {least:g} to {greatest:g}")
    rests = (0, 1) if options.loss.label_stride == 1 else (0,)
    low, high = options.augment.scale
    demands = {
        f"dataset must be one of {', '.join(CHOICES)}": options.dataset in CHOICES,
        "precision must be bf16 or fp32": options.precision in {"bf16", "fp32"},
        "model: output_stride must be 8, 16 or 32": options.model.output_stride in {8, 16, 32},
        "augment: scale must be two numbers from 0.01 to 100, the smaller one first": 0.01 <= low <= high <= 100,
        "augment: crop must be a multiple of loss: label_stride and of model: output_stride, or one more with "
        "label_stride 1": (
            options.augment.crop % options.loss.label_stride == 0
            and options.augment.crop % options.model.output_stride in rests
        ),
        "loss: log_weight must be 0 or above 1, and at most 100": (
            options.loss.log_weight == 0 or 1 < options.loss.log_weight <= 100
        ),
    }
    for demand, met in demands.items():
        if not met:
            raise OptionError(f"{origin}: {demand}")
