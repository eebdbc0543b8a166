"""From YAML presets and flags to `RunOptions`; the defaults stand in the dataclasses alone.

A preset is a mapping shaped as `RunOptions`: ``{mode, source: {…}, model: {…}, …}``.
``${NAME}`` in a value is an environment variable.  Unknown keys and wrong types
are errors that name the file and the path of the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.settings import SettingsError, build, read_settings
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


def load_options(preset: str | None, overrides: Mapping[tuple[str, ...], Any]) -> RunOptions:
    """The options of a run.

    Args:
        preset: a preset's name, a YAML file, or None.
        overrides: values by path, e.g. ``{("model", "size"): 360}``, that win over the preset.

    Raises:
        ConfigError: unknown preset, unknown key, wrong type, value out of range.
    """
    try:
        tree = {} if preset is None else read_settings(preset)
        for path, value in overrides.items():
            _put(tree, path, value)
        tree.setdefault("inputs", [])
        return build(RunOptions, tree, preset or "command line", refusals=(ValueError, ConfigError))
    except SettingsError as error:
        raise ConfigError(str(error)) from error


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        below = tree.setdefault(key, {})
        if not isinstance(below, dict):
            return  # the type error is reported with its path when the tree is built
        tree = below
    tree[path[-1]] = value
