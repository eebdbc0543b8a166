"""From YAML to frozen dataclasses, strictly: what is unknown or of a wrong type is named by file and key.

The defaults stand in the dataclasses alone.  ``${NAME}`` in a value is an environment variable,
``${file:PATH}`` what a file holds, ``$${`` the characters ``${``.  What was put in is masked from then on
(`engines.masking`).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from engines import masking
from engines.base import EngineError
from engines.yaml_text import parse_yaml

T = typing.TypeVar("T")

_FROM_FILE = "file:"
_VARIABLE = re.compile(r"\$\$\{|\$\{([A-Za-z_][A-Za-z0-9_]*|file:[^}]+)\}|\$\{\w*")
_BEFORE_SECRET = re.compile(r"://[^/?#@]*$")
_AFTER_SECRET = re.compile(r"[^/?#]*@")
"""What stands before and after user and password of an address."""

_NO_VARIABLE = "is neither ${NAME} nor ${file:PATH}; write $${ for a plain ${"
_STRUCTURE = re.compile(r"[:/@=]")
"""What a value that is all of a text must have to hold a secret: a word is a model, a camera, a size."""

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}


class SettingsError(EngineError):
    """Settings that cannot be used; the message names the file and the key."""


def preset_names(package: str = "configs") -> tuple[str, ...]:
    """Names of the settings that come with a package."""
    files = resources.files(package).iterdir()
    return tuple(sorted(entry.name[:-5] for entry in files if entry.name.endswith(".yaml")))


def read_settings(name: str, package: str = "configs") -> dict[str, Any]:
    """The settings of a name that come with a package, or those in a YAML file, as they are.

    Raises:
        SettingsError: there are none, or they are no YAML, or no mapping.
    """
    try:
        known = name in preset_names(package)
        data = (resources.files(package).joinpath(f"{name}.yaml") if known else Path(name)).read_bytes()
    except FileNotFoundError:
        presets = ", ".join(preset_names(package))
        raise SettingsError(f"config {name!r} is neither a file nor a preset; presets: {presets}") from None
    except OSError as error:
        raise SettingsError(f"config {name!r} cannot be read: {error.strerror or error}") from error
    try:
        tree = parse_yaml(data)
    except ValueError as error:
        raise SettingsError(f"config {name!r} {error}") from error
    if not isinstance(tree, dict | None):
        raise SettingsError(f"config {name!r} must be a mapping of keys and values, not a {type(tree).__name__}")
    return tree or {}


def build(
    kind: type[T],
    tree: Any,
    where: str,
    path: tuple[str, ...] = (),
    refusals: tuple[type[Exception], ...] = (ValueError,),
) -> T:
    """An instance of a dataclass, and of those inside it, from mappings shaped as they are.

    Args:
        kind: the dataclass.
        tree: its values by the names of its fields.
        where: the file, for messages.
        path: keys that lead to ``tree``, for messages.
        refusals: what a dataclass raises where a value makes no sense.

    Raises:
        SettingsError: an unknown key, a wrong type, or a value that the dataclass refuses.
    """
    built = _Builder(where, refusals).build(kind, tree, path)
    assert isinstance(built, kind)
    return built


@dataclasses.dataclass(frozen=True, slots=True)
class _Builder:
    """See `build`."""

    where: str
    refusals: tuple[type[Exception], ...]

    def build(self, kind: type, tree: Any, path: tuple[str, ...]) -> object:
        """An instance of the dataclass ``kind`` from a mapping."""
        if not isinstance(tree, dict):
            raise self.error(path, f"expected a mapping, got {tree!r}")
        hints = typing.get_type_hints(kind)
        fields = [field.name for field in dataclasses.fields(kind) if field.init]
        for key in tree:
            if key not in fields:
                close = difflib.get_close_matches(str(key), fields, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(fields)}"
                raise self.error((*path, str(key)), f"unknown key{hint}")
        values = {key: self.value(hints[key], value, (*path, key)) for key, value in tree.items()}
        missing = [field.name for field in dataclasses.fields(kind) if _required(field) and field.name not in values]
        if missing:
            raise self.error(path, f"missing: {', '.join(missing)}")
        try:
            return kind(**values)
        except self.refusals as error:
            raise self.error(path, str(error)) from error

    def value(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        """A value as its type hint wants it."""
        return self.fitted(hint, substitute(value, self.where, path) if isinstance(value, str) else value, path)

    def fitted(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        """A value, whose variables have been put in, as its type hint wants it."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin in (types.UnionType, typing.Union):
            return self.union(arguments, value, path)
        if origin is typing.Literal:
            if value is False and "off" in arguments:
                return "off"  # as which YAML reads the bare word
            if value not in arguments:
                raise self.error(path, f"{value!r} is not one of {', '.join(map(str, arguments))}")
            return value
        if origin is tuple and isinstance(value, list | tuple):
            if arguments[-1] is Ellipsis:
                arguments = arguments[:1] * len(value)
            if len(arguments) != len(value):
                raise self.error(path, f"expected {len(arguments)} values, got {len(value)}")
            return tuple(self.value(arguments[i], item, (*path, str(i))) for i, item in enumerate(value))
        if dataclasses.is_dataclass(hint):
            return value if isinstance(value, hint) else self.build(hint, value, path)  # type: ignore[arg-type]
        return self.plain(hint, value, path)

    def union(self, choices: tuple[Any, ...], value: Any, path: tuple[str, ...]) -> Any:
        """A value as the first of several hints that fits it."""
        if value is None and type(None) in choices:
            return None
        rest = [choice for choice in choices if choice is not type(None)]
        for choice in rest[:-1]:
            try:
                return self.fitted(choice, value, path)
            except SettingsError:
                continue
        try:
            return self.fitted(rest[-1], value, path)
        except SettingsError:
            spelled = [_spelled(choice) for choice in rest]
            if len(rest) == 1 or not all(spelled):
                raise
            raise self.error(path, f"{value!r} is not {' or '.join(spelled)}") from None

    def plain(self, hint: Any, value: Any, path: tuple[str, ...]) -> Any:
        """A number, a text, a truth or a path."""
        if hint is Fraction and isinstance(value, int | float | str | Fraction) and not isinstance(value, bool):
            try:
                return Fraction(str(value))
            except (ValueError, ZeroDivisionError):
                raise self.error(path, f"expected a number, got {value!r}") from None
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if hint is Path and isinstance(value, str):
            return Path(value)
        # A list where the hint is a tuple was taken before, so a generic hint here means a wrong type.
        fits = isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
        if not fits:
            raise self.error(path, f"expected {_NAMES.get(hint, 'a list')}, got {value!r}")
        return value

    def error(self, path: tuple[str, ...], message: str) -> SettingsError:
        """The error at a key."""
        return _error(self.where, path, message)


def _spelled(hint: Any) -> str:
    """What a plain hint or a choice of words takes, in words; empty for others."""
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    return _NAMES.get(hint, "")


def substitute(text: str, where: str, path: tuple[str, ...] = ()) -> str:
    """The text with ``${NAME}`` and ``${file:PATH}`` put in, which `engines.masking` hides from then on.

    What stands where an address has its user and password is percent-encoded, so that it may hold any character.
    ``$${`` gives ``${``.

    Args:
        text: a value of a file of settings, or of a flag.
        where: it stands, for messages.
        path: keys that lead to it, for messages.

    Raises:
        SettingsError: no such variable, the file cannot be read, or a ``${`` that begins neither.
    """
    found: list[str] = []

    def value(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise _error(where, path, f"{match[0]}… {_NO_VARIABLE}")
        found.append(_value(match[1], where, path))
        secret = _BEFORE_SECRET.search(text[: match.start()]) and _AFTER_SECRET.match(text[match.end() :])
        return quote(found[-1], safe="") if secret else found[-1]

    whole = _VARIABLE.sub(value, text)
    if whole not in found or _STRUCTURE.search(whole):
        hidden = [masking.remember(each) for each in found]
        if not all(hidden) and "://" in whole:  # what is too short is hidden in this address alone
            masking.remember_as(whole, _VARIABLE.sub(lambda match: "***" if match[1] else "${", text))
    return whole


def _value(name: str, where: str, path: tuple[str, ...]) -> str:
    if name.startswith(_FROM_FILE):
        return _content(Path(name.removeprefix(_FROM_FILE)).expanduser(), where, path)
    if name not in os.environ:
        raise _error(where, path, f"the environment variable {name} is not set")
    return os.environ[name]


def _content(file: Path, where: str, path: tuple[str, ...]) -> str:
    try:
        return file.read_text("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise _error(where, path, f"the file {file} cannot be read: {reason}") from None


def _error(where: str, path: tuple[str, ...], message: str) -> SettingsError:
    place = f"{where}: {'.'.join(path)}" if path else where
    return SettingsError(f"{place}: {masking.hide(message)}")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
