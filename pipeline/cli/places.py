"""From what people type (inputs, outputs, times) to what a run takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from pipeline.config import substitute
from pipeline.errors import ConfigError
from pipeline.options import InputOptions
from pipeline.sources import expand_inputs, input_name, mask_uri
from pipeline.sources.uri import remember_uri

_TIME = re.compile(r"(?:[0-9]{1,9}:){0,2}(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})")


def parse_time(text: str, flag: str) -> Fraction:
    """Seconds from ``12.5``, ``1:30`` or ``1:02:03.5``.

    Raises:
        ConfigError: not a time.
    """
    if not _TIME.fullmatch(text):
        raise ConfigError(f"{flag} {text!r} is not a time: give seconds, MM:SS or HH:MM:SS")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def pair_up(places: Iterable[tuple[str, str]], *, may_write_nothing: bool = False) -> tuple[InputOptions, ...]:
    """Inputs with their outputs, from ``("input" | "output" | "masks", URI)`` in the order given.

    An output belongs to the input before it; one with ``{name}`` belongs to every input.

    Args:
        places: what was typed.
        may_write_nothing: inputs without outputs are welcome.

    Raises:
        ConfigError: an output before any input, an unknown ``${VARIABLE}``, or several inputs that would
            write one file.
    """
    given: list[InputOptions] = []
    common: list[tuple[str, str]] = []
    for kind, typed in places:
        uri = substitute(typed, f"--{kind}") if "${" in typed else typed
        remember_uri(uri, published=kind != "input")
        if kind == "input":
            given += [InputOptions(one) for one in expand_inputs([uri])]
        elif "{name}" in uri:
            common.append((kind, uri))
        elif not given:
            raise ConfigError(
                f"--{kind} {mask_uri(uri)} comes before any --input: an output belongs to the input before it"
            )
        else:
            given[-1] = _with(given[-1], kind, uri)
    return settle([_with_common(one, common) for one in given], may_write_nothing=may_write_nothing)


def settle(given: Iterable[InputOptions], *, may_write_nothing: bool = False) -> tuple[InputOptions, ...]:
    """Inputs as they were written down, as a run takes them: globs expanded, all named, ``{name}`` put in.

    Args:
        given: inputs of a preset, say.
        may_write_nothing: inputs without outputs are welcome.

    Raises:
        ConfigError: no output, or several that would write one file.
    """
    expanded: list[InputOptions] = []
    for one in given:
        for uri in (*one.outputs, *one.masks):
            remember_uri(uri, published=True)
        remember_uri(one.uri)
        files = expand_inputs([one.uri])  # several are called as they themselves are
        expanded += [replace(one, uri=uri, name=one.name if len(files) == 1 else None) for uri in files]
    return _checked([_filled_in(one) for one in _named(expanded)], may_write_nothing)


def _with(one: InputOptions, kind: str, uri: str) -> InputOptions:
    if kind == "masks":
        return replace(one, masks=(*one.masks, uri))
    return replace(one, outputs=(*one.outputs, uri))


def _with_common(one: InputOptions, common: Sequence[tuple[str, str]]) -> InputOptions:
    for kind, uri in common:
        one = _with(one, kind, uri)
    return one


def _filled_in(one: InputOptions) -> InputOptions:
    outputs, masks = (tuple(uri.replace("{name}", one.name or "") for uri in uris) for uris in (one.outputs, one.masks))
    return replace(one, outputs=outputs, masks=masks)


def _named(given: Sequence[InputOptions]) -> list[InputOptions]:
    """Every input with a name that no other has."""
    taken: set[str] = set()
    named = []
    for one in given:
        base = name = one.name or input_name(one.uri)
        number = 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        named.append(replace(one, name=name))
    return named


def _checked(inputs: Sequence[InputOptions], may_write_nothing: bool) -> tuple[InputOptions, ...]:
    seen: set[str] = set()
    for one in inputs:
        if not (one.outputs or one.masks or may_write_nothing):
            several = "; {name} in --output serves all inputs" if len(inputs) > 1 else ""
            raise ConfigError(f"--input {mask_uri(one.uri)} has no output: name one with --output or --masks{several}")
        for uri in (*one.outputs, *one.masks):
            if uri in seen and uri != "null":
                raise ConfigError(
                    f"two outputs would write {mask_uri(uri)}: give each its own name, or put {{name}} into it"
                )
            seen.add(uri)
    return tuple(inputs)
