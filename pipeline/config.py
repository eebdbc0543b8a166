"""From YAML presets and flags to `RunOptions`; the defaults stand in the dataclasses alone.

A preset is a mapping shaped as `RunOptions`: ``{mode, source: {…}, model: {…}, …}``, its inputs by name.
``${NAME}`` in a value is an environment variable, ``${file:PATH}`` what a file holds.  Unknown keys
and wrong types are errors that name the file and the path of the key.
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
from urllib.parse import quote

import yaml

from pipeline.errors import ConfigError
from pipeline.options import InputOptions, RunOptions

FLAGS: dict[str, tuple[str, ...]] = {
    "start": ("source", "start"),
    "duration": ("source", "duration"),
    "max_frames": ("source", "max_frames"),
    "loop": ("source", "loop"),
    "realtime": ("source", "realtime"),
    "video_size": ("source", "video_size"),
    "framerate": ("source", "framerate"),
    "pixel_format": ("source", "pixel_format"),
    "rtsp_transport": ("source", "rtsp_transport"),
    "reconnect": ("source", "reconnect"),
    "model": ("model", "name"),
    "size": ("model", "size"),
    "engine": ("engine", "name"),
    "precision": ("engine", "precision"),
    "refine": ("refine", "kind"),
    "crf_workers": ("refine", "workers"),
    "crf_iterations": ("refine", "crf", "iterations"),
    "render": ("render", "mode"),
    "alpha": ("render", "alpha"),
    "classes": ("render", "classes"),
    "legend": ("render", "legend"),
    "quality": ("video", "quality"),
    "codec": ("video", "codec"),
    "mode": ("mode",),
    "max_latency": ("max_latency",),
}
"""Where the value of a flag, or of a keyword of `pipeline.stream`, goes in the tree of options."""

_FROM_FILE = "file:"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*|file:[^}]+)\}")
_BEFORE_SECRET = re.compile(r"://[^/?#@]*$")
_AFTER_SECRET = re.compile(r"[^/?#]*@")
"""What stands before and after user and password of an address."""


def load_options(preset: str | None, overrides: Mapping[tuple[str, ...], Any]) -> RunOptions:
    """The options of a run.

    Args:
        preset: a preset's name, a YAML file, or None.
        overrides: values by path, e.g. ``{("model", "size"): 360}``, that win over the preset.

    Raises:
        ConfigError: unknown preset, unknown key, wrong type, value out of range.
    """
    where, tree = ("command line", {}) if preset is None else _read(preset)
    inputs = tree.pop("inputs", {})
    common = tree.get("source", {})
    for path, value in overrides.items():
        _put(tree, path, value)
    if "inputs" not in tree:
        flags = {path[1]: value for path, value in overrides.items() if path[0] == "source"}
        tree["inputs"] = _inputs(inputs, common, flags, where)
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


def _inputs(tree: Any, common: Any, flags: Mapping[str, Any], where: str) -> tuple[InputOptions, ...]:
    """The inputs of a preset; what one says of its source wins over ``common``, ``flags`` over both."""
    if not isinstance(tree, dict):
        raise _error(where, ("inputs",), f"expected a mapping such as {{door: {{uri: …}}}}, got {tree!r}")
    built = []
    for name, given in tree.items():
        path = ("inputs", str(name))
        if not isinstance(given, dict):
            raise _error(where, path, f"expected a mapping such as {{uri: …}}, got {given!r}")
        if "name" in given:
            raise _error(where, (*path, "name"), "unknown key; an input's name is what it stands under")
        own = given.get("source")
        source = {"source": {**common, **own, **flags}} if isinstance(own, dict) and isinstance(common, dict) else {}
        one = _build(InputOptions, {**given, **source, "name": str(name)}, where, path)
        assert isinstance(one, InputOptions)
        built.append(one)
    return tuple(built)


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


def substitute(text: str, where: str) -> str:
    """The text with ``${NAME}`` and ``${file:PATH}`` put in.

    What stands where an address has its user and password is percent-encoded, so that it may hold any character.

    Args:
        text: a value of a preset or of a flag.
        where: it stands, for the message.

    Raises:
        ConfigError: no such variable, or the file cannot be read.
    """
    return _substitute(text, where, ())


def _substitute(text: str, where: str, path: tuple[str, ...]) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith(_FROM_FILE):
            found = _content(Path(name.removeprefix(_FROM_FILE)).expanduser(), where, path)
        elif name in os.environ:
            found = os.environ[name]
        else:
            raise _error(where, path, f"the environment variable {name} is not set")
        secret = _BEFORE_SECRET.search(text[: match.start()]) and _AFTER_SECRET.match(text[match.end() :])
        return quote(found, safe="") if secret else found

    return _VARIABLE.sub(value, text)


def _content(file: Path, where: str, path: tuple[str, ...]) -> str:
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise _error(where, path, f"the file {file} cannot be read: {reason}") from None


def _error(where: str, path: tuple[str, ...], message: str) -> ConfigError:
    return ConfigError(f"{where}: {'.'.join(path)}: {message}" if path else f"{where}: {message}")
