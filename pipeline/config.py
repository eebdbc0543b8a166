"""From YAML presets and flags to `RunOptions`; the defaults stand in the dataclasses alone.

A preset is a mapping shaped as `RunOptions`: ``{mode, source: {…}, model: {…}, …}``.
``${NAME}`` in a value is an environment variable.  Unknown keys and wrong types
are errors that name the file and the path of the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Mapping
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.options import RunOptions

FLAGS: dict[str, tuple[str, ...]] = {
    "start": ("source", "start"),
    "duration": ("source", "duration"),
    "max_frames": ("source", "max_frames"),
    "loop": ("source", "loop"),
    "realtime": ("source", "realtime"),
    "model": ("model", "name"),
    "size": ("model", "size"),
    "engine": ("engine", "name"),
    "precision": ("engine", "precision"),
    "refine": ("refine", "kind"),
    "crf_workers": ("refine", "workers"),
    "crf_iterations": ("refine", "crf", "iterations"),
    "temporal": ("propagate", "temporal"),
    "infer_every": ("propagate", "infer_every"),
    "max_latency": ("propagate", "max_latency"),
    "target_fps": ("propagate", "target_fps"),
    "render": ("render", "mode"),
    "alpha": ("render", "alpha"),
    "classes": ("render", "classes"),
    "legend": ("render", "legend"),
    "quality": ("video", "quality"),
    "codec": ("video", "codec"),
    "mode": ("mode",),
}
"""Where the value of a flag, or of a keyword of `pipeline.stream`, goes in the tree of options."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def load_options(preset: str | None, overrides: Mapping[tuple[str, ...], Any]) -> RunOptions:
    """The options of a run.

    Args:
        preset: a preset's name, a YAML file, or None.
        overrides: values by path, e.g. ``{("model", "size"): 360}``, that win over the preset.

    Raises:
        ConfigError: unknown preset, unknown key, wrong type, value out of range.
    """
    where, tree = ("command line", {}) if preset is None else _read(preset)
    for path, value in overrides.items():
        _put(tree, path, value)
    tree.setdefault("inputs", [])
    built = _build(RunOptions, tree, where, ())
    assert isinstance(built, RunOptions)
    return built


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package."""
    folder = resources.files("configs")
    return tuple(sorted(entry.name[:-5] for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def _read(preset: str) -> tuple[str, dict[str, Any]]:
    try:
        if preset in preset_names():
            text = resources.files("configs").joinpath(f"{preset}.yaml").read_text("utf-8")
        else:
            text = Path(preset).read_text("utf-8")
    except FileNotFoundError:
        known = ", ".join(preset_names())
        raise ConfigError(f"config {preset!r} is neither a file nor a preset; presets: {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {preset!r} cannot be read: {error}") from error
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config {preset!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"config {preset!r} must be a mapping of sections, not a {type(tree).__name__}")
    return preset, tree or {}


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            return  # the type error is reported with its path when the tree is built
        tree = below
    tree[path[-1]] = value


def _build(kind: type, tree: Any, where: str, path: tuple[str, ...]) -> object:
    """An instance of the dataclass ``kind`` from a mapping."""
    if not isinstance(tree, dict):
        raise _error(where, path, f"expected a mapping, got {tree!r}")
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in tree:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
            raise _error(where, (*path, str(key)), f"unknown key{hint}")
    values = {key: _value(hints[key], value, where, (*path, key)) for key, value in tree.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = [f.name for f in dataclasses.fields(kind) if _required(f) and f.name not in values]
        raise _error(where, path, f"missing: {', '.join(missing)}" if missing else str(error)) from error
    except (ValueError, ConfigError) as error:
        raise _error(where, path, str(error)) from error


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str, path: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        value = _substitute(value, where, path)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _union(arguments, value, where, path)
    if origin is typing.Literal:
        if value not in arguments:
            raise _error(where, path, f"{value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_value(arguments[0], item, where, (*path, str(i))) for i, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _build(hint, value, where, path)  # type: ignore[arg-type]
    return _plain(hint, value, where, path)


def _union(choices: tuple[Any, ...], value: Any, where: str, path: tuple[str, ...]) -> Any:
    if value is None and type(None) in choices:
        return None
    rest = [choice for choice in choices if choice is not type(None)]
    for choice in rest[:-1]:
        try:
            return _value(choice, value, where, path)
        except ConfigError:
            continue
    return _value(rest[-1], value, where, path)


def _plain(hint: Any, value: Any, where: str, path: tuple[str, ...]) -> Any:
    if hint is Fraction and isinstance(value, int | float | str | Fraction) and not isinstance(value, bool):
        try:
            return Fraction(str(value))
        except (ValueError, ZeroDivisionError):
            raise _error(where, path, f"expected a number, got {value!r}") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    # A list where the hint is a tuple was taken before, so a generic hint here means a wrong type.
    fits = isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if not fits:
        raise _error(where, path, f"expected {_NAMES.get(hint, 'a list')}, got {value!r}")
    return value


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


def _substitute(text: str, where: str, path: tuple[str, ...]) -> str:
    def variable(match: re.Match[str]) -> str:
        value = os.environ.get(match[1])
        if value is None:
            raise _error(where, path, f"the environment variable {match[1]} is not set")
        return value

    return _VARIABLE.sub(variable, text)


def _error(where: str, path: tuple[str, ...], message: str) -> ConfigError:
    return ConfigError(f"{where}: {'.'.join(path)}: {message}" if path else f"{where}: {message}")
