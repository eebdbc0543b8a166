"""Presets and flags: what is refused says where it stands and what would do."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from engines.settings import preset_names
from pipeline.config import load_options
from pipeline.errors import ConfigError
from pipeline.options import RunOptions


def write(folder: Path, text: str) -> str:
    path = folder / "site.yaml"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_preset_is_read_and_flags_win(tmp_path: Path) -> None:
    preset = write(tmp_path, "mode: live\nmodel: {name: voc, size: 256}\n")
    options = load_options(preset, {("model", "size"): 320, ("render", "alpha"): 0.25})
    assert (options.mode, options.model.name, options.model.size, options.render.alpha) == ("live", "voc", 320, 0.25)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rendr: {alpha: 3}", "rendr: unknown key; did you mean 'render'?"),
        ("model: {sise: 3}", "model.sise: unknown key; did you mean 'size'?"),
        ("model: {size: big}", "model.size: expected a whole number, got 'big'"),
        ("model: {size: true}", "model.size: expected a whole number, got True"),
        ("model: {size: 7}", "model: size 7 is out of range"),
        ("model: 3", "model: expected a mapping, got 3"),
        ("render: {classes: car}", "render.classes: expected a list, got 'car'"),
        ("mode: fast", "mode 'fast' is unknown"),
        ("refine: {crf: {iterations: -1}}", "refine.crf:"),
        ("refine: {backend: magic}", "refine: CRF backend 'magic' is unknown: choose from native, pydensecrf"),
        ("refine: {mode: fast}", "refine: CRF mode 'fast' is unknown: choose from auto, exact, pruned, live"),
        ("refine: {backend: pydensecrf, mode: live}", "refine: CRF mode 'live' needs the native backend"),
        ("source: {rate: .inf}", "source: rate must be at most 1e+09"),
        ("inputs: {door: {uri: ''}}", "inputs.door: uri is empty: name what to read"),
        ("mode: 2024-99-99", "holds a value that cannot be"),
        ("mode: \u0007", "holds the character U+0007, which YAML does not allow"),
        ("inputs: [{uri: a}]", "inputs: expected a mapping such as {door: {uri: …}}"),
        ("inputs: {door: a.mp4}", "inputs.door: expected a mapping such as {uri: …}, got 'a.mp4'"),
        ("inputs: {door: {url: a}}", "inputs.door.url: unknown key; did you mean 'uri'?"),
        ("inputs: {door: {name: a}}", "inputs.door.name: unknown key"),
        ("inputs: {door: {outputs: [a.mp4]}}", "inputs.door: missing: uri"),
        ("inputs: {door: {uri: '${file:/nowhere/x}'}}", "inputs.door.uri: the file /nowhere/x cannot be read"),
        ("inputs: {door: {uri: a, source: {reconnect: -1}}}", "inputs.door.source: reconnect must not be negative"),
        ("source: {video_size: big}", "source: video_size is width and height in pixels, such as 1280x720"),
        ("propagate: {infer_every: never}", "propagate.infer_every: 'never' is not a whole number or auto"),
        ("source: {rtsp_transport: pigeon}", "'pigeon' is not one of auto, tcp, udp"),
        ("max_latency: 0", "max_latency 0 is out of range: above 0, to 60000 ms"),
        ("- a\n- b", "must be a mapping"),
        ("a: [", "is not YAML"),
        (
            "inputs: {a: {uri: 'rtsp://me:${PW:-hunter2}@h/x'}}",
            "inputs.a.uri: ${PW… is neither ${NAME} nor",
        ),
        ("inputs: {a: {uri: 'rtsp://me:${}@h/x'}}", "write $${ for a plain ${"),
        ("serve: {auth: 'me:${PW'}", "serve.auth: ${PW… is neither"),
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


@pytest.mark.parametrize(
    ("text", "size", "said"),
    [
        ("model: {size: 256}", 3, "command line: model: size 3 is"),
        ("model: {size: 3}", None, "site.yaml: model: size 3 is"),
        ("model: {size: 256, nam: x}", 3, "site.yaml: model.nam: unknown key"),
        ("render: 7", 3, "site.yaml: render: expected a mapping"),
    ],
)
def test_a_flag_s_mistake_is_not_the_preset_s(tmp_path: Path, text: str, size: int | None, said: str) -> None:
    given = {} if size is None else {("model", "size"): size}
    with pytest.raises(ConfigError, match=rf"^\S*{re.escape(said)}"):
        load_options(write(tmp_path, text), given)


def test_the_bare_word_off_is_understood(tmp_path: Path) -> None:
    """YAML reads it as false."""
    assert load_options(write(tmp_path, "source: {deinterlace: off}"), {}).source.deinterlace == "off"


def test_environment_variables_are_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHICH_MODEL", "street")
    options = load_options(write(tmp_path, "model: {name: '${WHICH_MODEL}'}"), {})
    assert options.model.name == "street"


def test_two_dollars_stand_for_one_and_what_was_put_in_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PW", "a${b}$${c")
    options = load_options(write(tmp_path, "serve: {auth: 'me:$${x}${PW}'}"), {})
    assert options.serve.auth == "me:${x}a${b}$${c"


SITE = """
source: {read_timeout: 3, audio: false, framerate: 10}
inputs:
  door:
    uri: rtsp://me:${DOOR_PASSWORD}@door/ch1?token=${DOOR_PASSWORD}
    outputs: ["out/{name}.mkv"]
    source: {framerate: 5, video_size: 640x480}
  yard: {uri: "rtsp://me:${file:FOLDER/secret}@yard:554/", masks: [yard.mkv]}
"""


def test_a_whole_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets of any characters; what one input says of its source wins, and flags over both."""
    monkeypatch.setenv("DOOR_PASSWORD", "a/b@c")
    (tmp_path / "secret").write_text("p:w?\n")
    preset = write(tmp_path, SITE.replace("FOLDER", str(tmp_path)))
    options = load_options(preset, {("source", "reconnect"): 7, ("source", "framerate"): 20.0})
    door, yard = options.inputs
    assert (door.name, door.uri) == ("door", "rtsp://me:a%2Fb%40c@door/ch1?token=a/b@c")
    assert (yard.name, yard.uri) == ("yard", "rtsp://me:p%3Aw%3F@yard:554/")
    assert yard.source is None
    assert door.source is not None
    assert (door.source.framerate, door.source.video_size, door.source.read_timeout) == (20, "640x480", 3)
    assert door.source.reconnect == options.source.reconnect == 7
    assert not door.source.audio


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"neither a file nor a preset; presets: .*live"):
        load_options("nonsense", {})


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_that_is_shipped_loads(name: str) -> None:
    load_options(name, {})


def test_the_documented_defaults_are_the_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAMERA_URL", "rtsp://door/1")
    lines = resources.files("configs").joinpath("default.yaml").read_text("utf-8").splitlines()
    keys = [line[2:] for line in lines if line.startswith("# ") and re.match(r"# +[-\w]+:|# +- \w+:", line)]
    documented = load_options(write(tmp_path, "\n".join(keys)), {})
    plain = load_options(None, {})
    assert dataclasses.replace(documented, inputs=()) == plain
    assert documented.inputs[0].uri == "rtsp://door/1"


def test_no_key_is_left_undocumented() -> None:
    text = resources.files("configs").joinpath("default.yaml").read_text("utf-8")

    def keys(kind: type) -> Iterator[str]:
        for name, hint in typing.get_type_hints(kind).items():
            yield name
            parts = [hint, *typing.get_args(hint)]
            yield from (key for part in parts if dataclasses.is_dataclass(part) for key in keys(part))

    missing = [key for key in keys(RunOptions) if not re.search(rf"\b{key}:", text)]
    assert not missing
