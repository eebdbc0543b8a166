"""What a model file must say of itself, as ONNX metadata; written by whoever makes one, read by all.

Each fact is a ``metadata_props`` entry ``deeplab_stream.<fact>`` whose value is JSON (a bare word
that is not JSON counts as a string).
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.base import EngineError, ModelError
from engines.labels import LabelSet, voc_palette

PREFIX = "deeplab_stream."

HALF = ".half"
"""What the name of a weight that is stored in half precision ends with."""

NETWORK_FACT = PREFIX + "network"
"""What the network was made from (`engines.networks.NetworkSpec`), for whoever takes its weights back."""

TRAINING_FACT = PREFIX + "training"
"""How the network was trained, for people."""

MAX_CLASSES = 255
"""Labels are bytes and 255 means "ignore"."""

MAX_STRIDE = 256
SIZES = (16, 8192)
"""Shortest and longest short side that is believed, in pixels."""


def demand_size(size: int) -> None:
    """Refuse a ``--size`` beyond `SIZES`.

    Raises:
        EngineError: it is.
    """
    if not SIZES[0] <= size <= SIZES[1]:
        raise EngineError(f"--size {size} is out of range: {SIZES[0]} to {SIZES[1]} pixels")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts that the pipeline needs of a network whose graph takes uint8 N×H×W×3 RGB.

    Attributes:
        name: what people call it.
        labels: meaning of the score channels.
        size: preferred short side of the input, in pixels.
        output_stride: input sides are multiples of this (plus one with ``align_corners``).
        align_corners: scores are spread corner to corner, see `engines.base.Model`.
        licence: terms of the weights.
        half: its labels were seen to hold in half precision; a file that does not say so is False.
    """

    name: str
    labels: LabelSet
    size: int
    output_stride: int
    align_corners: bool
    licence: str
    half: bool = False

    def to_properties(self) -> dict[str, str]:
        """The entries to write into an ONNX file's ``metadata_props``."""
        facts: dict[str, Any] = {
            "name": self.name,
            "labels": self.labels.names,
            "palette": self.labels.palette,
            "background": self.labels.background,
            "size": self.size,
            "output_stride": self.output_stride,
            "align_corners": self.align_corners,
            "licence": self.licence,
            "half": self.half,
        }
        return {PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], where: str) -> ModelFacts:
        """The facts that `to_properties` wrote.

        Args:
            properties: ``metadata_props`` of a model.
            where: the file, for messages.

        Raises:
            ModelError: a fact is missing or not of its type.
        """
        facts = {
            key.removeprefix(PREFIX): _decoded(value) for key, value in properties.items() if key.startswith(PREFIX)
        }
        check = Checker(facts, f"{where}: metadata {PREFIX}")
        names = check.names("labels")
        return cls(
            name=check.text("name"),
            labels=LabelSet(names, check.palette("palette", len(names)), check.background("background", names)),
            size=check.whole("size", *SIZES),
            output_stride=check.whole("output_stride", 1, MAX_STRIDE),
            align_corners=check.flag("align_corners"),
            licence=check.text("licence"),
            half="half" in facts and check.flag("half"),
        )


def _decoded(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


@dataclass(frozen=True, slots=True)
class Checker:
    """Typed access to values that came from outside; a wrong one is named with its place.

    Attributes:
        values: key → value as decoded from JSON or YAML.
        where: file and key prefix, for messages.
    """

    values: Mapping[str, Any]
    where: str

    def fail(self, key: str, wanted: str) -> ModelError:
        """The error for a value that is missing or wrong."""
        if self.values.get(key) is None:
            return ModelError(f"{self.where}{key} is missing: it must be {wanted}")
        return ModelError(f"{self.where}{key} is {_shortened(self.values[key])}: it must be {wanted}")

    def text(self, key: str) -> str:
        """A string without line breaks and other control characters."""
        value = self.values.get(key)
        if not isinstance(value, str) or not _on_a_line(value):
            raise self.fail(key, "a text of one line")
        return value

    def choice(self, key: str, *choices: str) -> str:
        """One of some words."""
        value = self.values.get(key)
        if not isinstance(value, str) or value not in choices:
            raise self.fail(key, " or ".join(choices))
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.values.get(key)
        if not isinstance(value, bool):
            raise self.fail(key, "true or false")
        return value

    def whole(self, key: str, lowest: int, highest: int) -> int:
        """A whole number in a range."""
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise self.fail(key, f"a whole number from {lowest} to {highest}")
        return value

    def triple(self, key: str) -> tuple[float, float, float]:
        """Three numbers."""
        value = self.values.get(key)
        numbers = isinstance(value, list) and all(_is_number(item) for item in value)
        if not isinstance(value, list) or not numbers or len(value) != 3:
            raise self.fail(key, "three numbers")
        return (float(value[0]), float(value[1]), float(value[2]))

    def names(self, key: str) -> tuple[str, ...]:
        """Class names."""
        value = self.values.get(key)
        wanted = f"a list of 2 to {MAX_CLASSES} different class names"
        if not isinstance(value, list) or not all(
            isinstance(name, str) and name.strip() and _on_a_line(name) for name in value
        ):
            raise self.fail(key, wanted)
        if not 2 <= len(value) <= MAX_CLASSES or len(set(value)) != len(value):
            raise self.fail(key, wanted)
        return tuple(value)

    def palette(self, key: str, classes: int) -> tuple[tuple[int, int, int], ...]:
        """One colour a class: three numbers 0–255 or ``"#rrggbb"``; PASCAL VOC's where absent."""
        value = self.values.get(key)
        if value is None:
            return voc_palette(classes)
        wanted = f"a list of {classes} colours, each [red, green, blue] of 0 to 255 or '#rrggbb'"
        if not isinstance(value, list) or len(value) != classes:
            raise self.fail(key, wanted)
        colours = [_colour(item) for item in value]
        if any(colour is None for colour in colours):
            raise self.fail(key, wanted)
        return tuple(colour for colour in colours if colour is not None)

    def background(self, key: str, names: tuple[str, ...]) -> int | None:
        """The class that means "nothing", by name or index; None where absent."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, str) and value in names:
            return names.index(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < len(names):
            raise self.fail(key, f"a class name or a number from 0 to {len(names) - 1}")
        return value


def _on_a_line(text: str) -> bool:
    return not any(unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} for each in text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _colour(value: object) -> tuple[int, int, int] | None:
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        try:
            value = list(bytes.fromhex(value[1:]))
        except ValueError:
            return None
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= 255 for item in value):
        return None
    return (value[0], value[1], value[2])


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
