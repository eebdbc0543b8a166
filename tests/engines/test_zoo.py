"""Models by name and from anybody's file: where they are looked for, and what is said when they are not there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from engines import zoo
from engines.base import EngineError, ModelError
from engines.facts import ModelFacts
from engines.fetch import FetchError
from engines.labels import CAMVID, VOC
from engines.zoo import ZOO, fetch_model, list_models, load_model
from tests.engines.serving import PUBLISHED, Server

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("home")]


# --- by name --------------------------------------------------------------------------------------


def test_street_is_embedded() -> None:
    model = load_model("street")
    assert model.labels == CAMVID
    assert (model.name, model.output_stride, model.align_corners) == ("street", 16, False)
    assert len(model.sha256) == 64
    assert model.path.stat().st_size < 12e6


def test_voc_is_fetched_once_and_converted(publisher: Server, home: Path) -> None:
    model = load_model("voc", progress=False)
    assert model.labels == VOC
    assert (model.name, model.size, model.output_stride, model.align_corners) == ("voc", 385, 16, True)
    assert model.path.is_relative_to(home / "cache")
    assert load_model("voc") == model
    assert load_model("auto") == model
    assert fetch_model("voc") == model
    assert len(publisher.does.seen) == 1
    assert {row.entry.name: row.place for row in list_models()} == {
        "street": "embedded",
        "street-int8": "embedded",
        "voc": "cached",
    }


def test_a_damaged_conversion_is_made_again(publisher: Server, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_model("voc")
    whole = model.path.read_bytes()
    model.path.write_bytes(whole[:1000])
    assert load_model("voc") == model
    assert model.path.read_bytes() == whole
    assert "unusable and is made again" in caplog.text
    assert len(publisher.does.seen) == 1, "the published file was still there"


def test_a_damaged_download_is_fetched_again(publisher: Server, home: Path) -> None:
    model = load_model("voc")
    source = model.path.parent / PUBLISHED
    source.write_bytes(source.read_bytes()[:-1])
    model.path.unlink()
    assert load_model("voc").sha256 == model.sha256
    assert len(publisher.does.seen) == 2


def test_offline_is_one_line_with_the_ways_out() -> None:
    with pytest.raises(FetchError) as caught:
        load_model("voc")
    assert "\n" not in str(caught.value)
    for word in ("https://weights.invalid/net.tflite", PUBLISHED, "voc.onnx", "DEEPLAB_STREAM_WEIGHTS"):
        assert word in str(caught.value)


def test_unknown_names_are_told_the_known_ones() -> None:
    with pytest.raises(
        ModelError, match=r"no model 'vox': choose from auto, street, street-int8, voc, or give an \.onnx file"
    ):
        load_model("vox")
    with pytest.raises(ModelError, match="no model 'auto': choose from street, street-int8, voc"):
        fetch_model("auto")
    with pytest.raises(ModelError, match=r"there is no model file nowhere\.onnx"):
        load_model("nowhere.onnx")


def test_a_cache_that_cannot_be_written_says_the_way_out(
    publisher: Server, data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    with pytest.raises(FetchError, match=r"cannot write .* choose another directory"):
        load_model("voc")
    with pytest.raises(ModelError, match=r"cannot write .* XDG_CACHE_HOME"):
        load_model("voc", weights_dir=data / "weights")


# --- the weights directory ------------------------------------------------------------------------


def test_the_published_file_in_the_weights_directory(data: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_STREAM_WEIGHTS", str(data / "weights"))
    assert list_models()[-1].place == f"in {data / 'weights'}"
    model = load_model("voc")
    assert model.path.is_relative_to(home / "cache"), "conversions go to the cache: the directory may be read-only"


def test_a_converted_file_in_the_weights_directory_comes_first(data: Path, home: Path) -> None:
    made = load_model("voc", weights_dir=data / "weights")
    site = home / "site"
    site.mkdir()
    shutil.copy(made.path, site / "voc.onnx")
    shutil.copy(load_model("street").path, site / "street.onnx")
    assert load_model("voc", weights_dir=site).path == site / "voc.onnx"
    assert load_model("street", weights_dir=site).path == site / "street.onnx"


def test_another_file_under_the_published_name_is_refused(home: Path) -> None:
    (home / PUBLISHED).write_bytes(b"something else")
    with pytest.raises(ModelError, match=r"is not the published file: its SHA-256 is [0-9a-f]{64}, not 350af47f"):
        load_model("voc", weights_dir=home)


def test_a_weights_directory_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_STREAM_WEIGHTS", "/nowhere/at/all")
    with pytest.raises(ModelError, match=r"/nowhere/at/all does not exist \(--weights-dir or DEEPLAB_STREAM_WEIGHTS\)"):
        load_model("voc")


# --- the entries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ZOO.values(), ids=lambda entry: entry.name)
def test_entries_are_whole(entry: zoo.ZooEntry) -> None:
    assert entry.licence
    assert entry.about
    assert (entry.size - entry.align_corners) % entry.output_stride in (0, 8)
    if entry.download:
        assert entry.download.url.startswith("https://")


def test_the_embedded_file_agrees_with_its_entry() -> None:
    model, entry = load_model("street"), ZOO["street"]
    assert (model.labels, model.output_stride, model.align_corners) == (
        entry.labels, entry.output_stride, entry.align_corners,
    )  # fmt: skip


def test_facts_survive_the_file() -> None:
    facts = ModelFacts("straße", VOC, 360, 16, True, "CC-BY 4.0")
    assert ModelFacts.from_properties(facts.to_properties(), "x.onnx") == facts
    half = replace(facts, half=True)
    assert ModelFacts.from_properties(half.to_properties(), "x.onnx") == half
    older = {key: value for key, value in half.to_properties().items() if not key.endswith(".half")}
    assert ModelFacts.from_properties(older, "x.onnx") == facts


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("size", '"big"', r"x\.onnx: metadata deeplab_stream\.size is 'big': it must be a whole number from 16"),
        ("labels", "[]", "labels is \\[\\]: it must be a list of 2 to 255"),
        ("palette", "[[0,0,0]]", "palette is .*: it must be a list of 21 colours"),
        ("half", '"yes"', "half is 'yes': it must be true or false"),
        ("align_corners", "1", "align_corners is 1: it must be true or false"),
        ("background", '"sea"', "background is 'sea': it must be a class name or a number from 0 to 20"),
    ],
)
def test_wrong_metadata_names_file_and_key(key: str, value: str, words: str) -> None:
    properties = ModelFacts("voc", VOC, 360, 16, True, "").to_properties() | {f"deeplab_stream.{key}": value}
    with pytest.raises(EngineError, match=words):
        ModelFacts.from_properties(properties, "x.onnx")
