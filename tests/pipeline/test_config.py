"""Presets and flags: what is refused says where it stands and what would do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load_options, preset_names
from pipeline.errors import ConfigError


def write(folder: Path, text: str) -> str:
    path = folder / "site.yaml"
    path.write_text(text)
    return str(path)


def test_a_preset_is_read_and_flags_win(tmp_path: Path) -> None:
    preset = write(tmp_path, "mode: live\nmodel: {name: voc, size: 256}\n")
    options = load_options(preset, {("model", "size"): 320, ("render", "alpha"): 0.25})
    assert (options.mode, options.model.name, options.model.size, options.render.alpha) == ("live", "voc", 320, 0.25)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle: {size: 3}", "modle: unknown key; did you mean 'model'?"),
        ("model: {sise: 3}", "model.sise: unknown key; did you mean 'size'?"),
        ("model: {size: big}", "model.size: expected a whole number, got 'big'"),
        ("model: {size: true}", "model.size: expected a whole number, got True"),
        ("model: {size: 7}", "model: size 7 is out of range"),
        ("model: 3", "model: expected a mapping, got 3"),
        ("render: {classes: car}", "render.classes: expected a list, got 'car'"),
        ("mode: fast", "mode 'fast' is unknown"),
        ("refine: {crf: {iterations: -1}}", "refine.crf:"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("model: {name: '${NOT_SET_ANYWHERE}'}", "model.name: the environment variable NOT_SET_ANYWHERE is not set"),
    ],
)
def test_mistakes_name_the_file_and_the_key(tmp_path: Path, text: str, said: str) -> None:
    preset = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_options(preset, {})
    message = str(caught.value)
    assert said in message
    assert "site.yaml" in message
    assert "\n" not in message


def test_environment_variables_are_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHICH_MODEL", "street")
    options = load_options(write(tmp_path, "model: {name: '${WHICH_MODEL}'}"), {})
    assert options.model.name == "street"


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset; presets: .*live"):
        load_options("nonsense", {})


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_that_is_shipped_loads(name: str) -> None:
    load_options(name, {})
