"""From YAML presets and flags to `RunOptions`; the defaults stand in the dataclasses alone.

A preset is a mapping shaped as `RunOptions`: ``{mode, source: {…}, model: {…}, …}``, its inputs by name.
``${NAME}`` in a value is an environment variable, ``${file:PATH}`` what a file holds.  Unknown keys
and wrong types are errors that name the file and the path of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines import settings
from engines.settings import SettingsError, build, read_settings
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
    "temporal": ("propagate", "temporal"),
    "infer_every": ("propagate", "infer_every"),
    "target_fps": ("propagate", "target_fps"),
    "render": ("render", "mode"),
    "alpha": ("render", "alpha"),
    "classes": ("render", "classes"),
    "legend": ("render", "legend"),
    "quality": ("video", "quality"),
    "codec": ("video", "codec"),
    "hwaccel": ("hwaccel",),
    "mode": ("mode",),
    "max_latency": ("max_latency",),
    "segment_time": ("record", "segment_time"),
    "segment_size": ("record", "segment_size"),
    "keep_time": ("record", "keep_time"),
    "keep_size": ("record", "keep_size"),
    "auth": ("serve", "auth"),
    "auth_file": ("serve", "auth_file"),
    "tls_cert": ("serve", "tls_cert"),
    "tls_key": ("serve", "tls_key"),
    "insecure": ("serve", "insecure"),
    "metrics_port": ("serve", "metrics"),
    "serve_host": ("serve", "hosts"),
}
"""Where the value of a flag, or of a keyword of `pipeline.stream`, goes in the tree of options."""

REFUSALS = (ValueError, ConfigError)
"""What the options raise where a value makes no sense."""


def load_options(
    preset: str | None, overrides: Mapping[tuple[str, ...], Any], asker: str = "command line"
) -> RunOptions:
    """The options of a run.

    Args:
        preset: a preset's name, a YAML file, or None.
        overrides: values by path, e.g. ``{("model", "size"): 360}``, that win over the preset.
        asker: where these come from, for messages.

    Raises:
        ConfigError: unknown preset, unknown key, wrong type, value out of range.
    """
    if preset is None:
        return _load(None, overrides, asker)
    try:
        return _load(preset, overrides, preset)
    except ConfigError as error:
        try:  # whether the preset or what wins over it is to blame
            _load(None, overrides, asker)
        except ConfigError as own:
            if str(own).removeprefix(asker) == str(error).removeprefix(preset):
                raise own from error
        raise


def _load(preset: str | None, overrides: Mapping[tuple[str, ...], Any], where: str) -> RunOptions:
    try:
        tree = {} if preset is None else read_settings(preset)
        inputs = tree.pop("inputs", {})
        common = tree.get("source", {})
        for path, value in overrides.items():
            _put(tree, path, value)
        if "inputs" not in tree:
            flags = {path[1]: value for path, value in overrides.items() if path[0] == "source"}
            tree["inputs"] = _inputs(inputs, common, flags, where)
        return build(RunOptions, tree, where, refusals=REFUSALS)
    except SettingsError as error:
        raise ConfigError(str(error)) from error


def substitute(text: str, where: str) -> str:
    """The text with ``${NAME}`` and ``${file:PATH}`` put in; see `engines.settings.substitute`.

    Raises:
        ConfigError: no such variable, or the file cannot be read.
    """
    try:
        return settings.substitute(text, where)
    except SettingsError as error:
        raise ConfigError(str(error)) from error


def _inputs(tree: Any, common: Any, flags: Mapping[str, Any], where: str) -> tuple[InputOptions, ...]:
    """The inputs of a preset; what one says of its source wins over ``common``, ``flags`` over both."""
    if not isinstance(tree, dict):
        raise SettingsError(f"{where}: inputs: expected a mapping such as {{door: {{uri: …}}}}, got {tree!r}")
    built = []
    for name, given in tree.items():
        if not isinstance(given, dict):
            raise SettingsError(f"{where}: inputs.{name}: expected a mapping such as {{uri: …}}, got {given!r}")
        if "name" in given:
            raise SettingsError(f"{where}: inputs.{name}.name: unknown key; an input's name is what it stands under")
        own = given.get("source")
        source = {"source": {**common, **own, **flags}} if isinstance(own, dict) and isinstance(common, dict) else {}
        told = {**given, **source, "name": str(name)}
        built.append(build(InputOptions, told, where, ("inputs", str(name)), refusals=REFUSALS))
    return tuple(built)


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            return  # the type error is reported with its path when the tree is built
        tree = below
    tree[path[-1]] = value
