"""From a file of weights into a network: everything fits, or nothing is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.base import ModelError
from engines.networks import Conventions, NetworkSpec, Segmenter
from engines.networks.layers import ConvNorm
from engines.networks.trained import odd_kind, printable, spelled
from engines.weights.files import read_contents
from engines.weights.layout import COUNTER, Layout, Names, Part, loadable
from engines.weights.layouts import LAYOUTS

ENCODER_CONVENTIONS = ("mean", "std", "block_padding", "stem_padding")
"""Fields of `Conventions` that an encoder keeps under another head and at another output stride."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded.

    Attributes:
        layout: Name of the layout that the file has.
        part: ``"encoder"`` or ``"network"``.
        ignored: Names of the file's tensors that have no place in the network, torch's counters aside.
    """

    layout: str
    part: Part
    ignored: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights whose layout is known.

    Attributes:
        path: The file.
        layout: Its layout.
        tensors: Its tensors, by their names in it.
        spec: The network that they are of, where the file tells it.
    """

    path: Path
    layout: Layout
    tensors: dict[str, Tensor]
    spec: NetworkSpec | None = None

    def part(self, wanted: Part | None = None) -> Part:
        """What is loaded of it: as wanted, or all that it has.

        Raises:
            ModelError: The whole network is wanted of a file that holds an encoder.
        """
        whole = self.layout.whole(self.tensors)
        if wanted == "network" and not whole:
            raise ModelError(f"{self.path} ({self.layout.name}) holds an encoder alone, not a whole network")
        return wanted or ("network" if whole else "encoder")

    def conventions(self, spec: NetworkSpec, part: Part | None = None) -> Conventions:
        """The conventions that a network of this spec needs for these weights.

        For the encoder alone this is how it sees the picture and pads it; the others stay the spec's.
        """
        demands = dict(self.layout.conventions(spec))
        if self.spec is not None:
            demands = {each.name: getattr(self.spec.conventions, each.name) for each in fields(Conventions)}
        if self.part(part) == "encoder":
            demands = {key: value for key, value in demands.items() if key in ENCODER_CONVENTIONS}
        return replace(spec.conventions, **demands)

    def load_into(self, network: Segmenter, part: Part | None = None) -> Loaded:
        """Put the weights into a network; see `load_weights`."""
        part = self.part(part)
        self._check_conventions(network, part)
        # What is no plain tensor cannot be brought into an order, nor compared.
        odd = [f"{printable(name)} ({kind})" for name, each in self.tensors.items() if (kind := odd_kind(each))]
        if odd:
            raise ModelError(f"{self.path} ({self.layout.name}): {len(odd)} unusable: {', '.join(odd)}")
        tensors = self.layout.adapt(dict(self.tensors), network)
        names = self.layout.layers(network, tensors)
        plan = _Plan(self.layout, tensors, network)
        for path, module in loadable(network, part).items():
            plan.add(path, module, names.get(path))
        extra = [
            name
            for name in tensors
            if name not in plan.used
            and not self.layout.ignores(name, network)
            and (part == "network" or self.layout.in_encoder(name))
        ]
        complaint = plan.complaint(extra)
        if not complaint and part == "network":
            complaint = self.layout.contradiction(tensors, network)
        if complaint:
            raise ModelError(f"{self.path} ({self.layout.name}) does not fit the network: {complaint}")
        plan.carry_out()
        ignored = (name for name in tensors if name not in plan.used and not name.endswith(COUNTER))
        return Loaded(self.layout.name, part, tuple(ignored))

    def _check_conventions(self, network: Segmenter, part: Part) -> None:
        spec = network.spec
        wanted = self.conventions(spec, part)
        differences = [
            f"{each.name} {getattr(wanted, each.name)!r} instead of {getattr(spec.conventions, each.name)!r}"
            for each in fields(Conventions)
            if getattr(wanted, each.name) != getattr(spec.conventions, each.name)
        ]
        if differences:
            raise ModelError(
                f"{self.path} ({self.layout.name}) was trained with {', '.join(differences)}: build the network with "
                "conventions=open_weights(path).conventions(network.spec)"
            )


@dataclass(slots=True)
class _Plan:
    """What goes where, and all that does not fit."""

    layout: Layout
    tensors: dict[str, Tensor]
    network: Segmenter
    used: set[str] = field(default_factory=set)
    copies: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    folded: list[nn.BatchNorm2d] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)

    def add(self, path: str, module: nn.Module, names: Names | None) -> None:
        """Plan a layer; `names` is None where the layout has no such layer."""
        if names is None:
            self.missing.append(f"{path} (unknown to this layout)")
        elif isinstance(module, ConvNorm):
            assert isinstance(module.norm, nn.BatchNorm2d)
            self.take(module.conv.weight, f"{names.conv}.weight", flip=self.layout.bgr and path == "encoder.stem")
            self.add_norm(path, module.norm, names)
        elif isinstance(module, nn.Conv2d):
            self.take(module.weight, f"{names.conv}.weight", flip=self.layout.bgr and path == "encoder.stem")
            if module.bias is not None:
                self.take(module.bias, f"{names.conv}.bias", optional=self.layout.optional_bias)

    def add_norm(self, path: str, norm: nn.BatchNorm2d, names: Names) -> None:
        """Plan a batch norm; one that is folded away becomes the convolution's bias."""
        if not names.norm:
            self.folded.append(norm)
            self.take(norm.bias, f"{names.conv}.bias", optional=self.layout.optional_bias)
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = names.scale or names.norm
        self.take(norm.weight, f"{scale}.weight")
        self.take(norm.bias, f"{scale}.bias")
        self.take(norm.running_mean, f"{names.norm}.running_mean")
        # Variance and epsilon are only ever added up.
        more = self.layout.epsilon(path, self.network) - norm.eps
        self.take(norm.running_var, f"{names.norm}.running_var", more=more)

    def take(self, target: Tensor, name: str, *, flip: bool = False, optional: bool = False, more: float = 0.0) -> None:
        """Plan a tensor: with its input channels in reverse, or zeros where it is left out, or with something added."""
        source = self.tensors.get(name)
        if source is None:
            if optional:
                self.copies.append((target, torch.zeros_like(target)))
            else:
                self.missing.append(name)
            return
        self.used.add(name)
        if source.shape != target.shape:
            self.misshapen.append(f"{name} ({_sides(source)}, not {_sides(target)})")
            return
        if not source.is_floating_point():
            self.unusable.append(f"{name} ({spelled(source)})")
            return
        if not source.isfinite().all():
            self.unusable.append(f"{name} (not all of it finite)")
            return
        if flip:
            source = source.flip(1)
        self.copies.append((target, source + more if more else source))

    def complaint(self, extra: Sequence[str]) -> str:
        """All that does not fit, by name, in a line; empty if everything does."""
        kinds = (
            ("missing", self.missing), ("of another shape", self.misshapen), ("unusable", self.unusable),
            ("too much", extra),
        )  # fmt: skip
        return "; ".join(f"{len(names)} {kind}: {', '.join(map(printable, names))}" for kind, names in kinds if names)

    @torch.no_grad()
    def carry_out(self) -> None:
        """Fill the network."""
        for norm in self.folded:
            norm.reset_running_stats()
            norm.weight.fill_((1 + norm.eps) ** 0.5)
        for target, source in self.copies:
            target.copy_(source)


def _sides(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a single number"


def open_weights(path: str | Path) -> WeightFile:
    """Read a file of weights and find its layout from its names.

    Args:
        path: See `engines.weights.files.read_contents` for what it may be.

    Raises:
        ModelError: The file is missing or damaged, wants to run code, or is of no known layout.
    """
    path = Path(path)
    contents = read_contents(path)
    for layout in LAYOUTS:
        if layout.recognises(contents.tensors):
            return WeightFile(path, layout, contents.tensors, contents.spec)
    some = ", ".join(map(printable, list(contents.tensors)[:3]))
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise ModelError(f"{path}: weights of no known layout ({some} …); known are {known}")


def load_weights(network: Segmenter, path: str | Path, part: Part | None = None) -> Loaded:
    """Put the weights of a file, ours or a published one, into a network.

    All tensors must be there, be plain, finite floats, fit, and have a place, or nothing is changed. Channels come
    in the order that they have here (RGB at the input), and norms that were folded into convolutions become their
    layer's shift. The network must have the conventions that the weights were trained with:
    `WeightFile.conventions` tells them before it is built.

    Args:
        network: The network; its classes are those of the file, unless only the encoder is loaded.
        path: The file.
        part: ``"encoder"`` leaves the head alone; None loads all that the file has.

    Raises:
        ModelError: The file cannot be read, has no known layout, or does not fit; every tensor that is missing, of
            another shape, unusable or too much is named.
    """
    return open_weights(path).load_into(network, part)
