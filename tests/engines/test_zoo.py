"""Models by name and from anybody's file: where they are looked for, and what is said when they are not there."""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import onnx
import pytest
import yaml
from onnx import numpy_helper

from engines.base import EngineError, ModelError
from engines.catalogue import ZOO, Download, ZooEntry
from engines.facts import ModelFacts
from engines.fetch import FetchError
from engines.labels import CAMVID, VOC
from engines.zoo import fetch_model, fetch_published, is_ready, list_models, load_model
from tests.conftest import absent
from tests.engines.serving import PUBLISHED, Server

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("home")]

ROOT = Path(__file__).resolve().parents[2]


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
    places = {row.entry.name: row.place for row in list_models()}
    assert {name: places.pop(name) for name in ("street", "street-int8", "voc")} == {
        "street": "embedded",
        "street-int8": "embedded",
        "voc": "cached",
    }
    assert set(places.values()) == {"not fetched"}


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


def test_unknown_names_are_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"no model 'vox': choose from auto, street, street-int8, voc, .*, or give an \.onnx file"
    ):
        load_model("vox")
    with pytest.raises(ModelError, match="no model 'auto': choose from street, street-int8, voc, "):
        fetch_model("auto")
    with pytest.raises(ModelError, match=r"there is no model file nowhere\.onnx"):
        load_model("nowhere.onnx")
    checkpoint = tmp_path / "last.pt"
    checkpoint.write_bytes(b"PK")
    with pytest.raises(ModelError, match=r"no ONNX file: .* --checkpoint .*last\.pt --output last\.onnx' makes one"):
        load_model(str(checkpoint))


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
    places = {row.entry.name: row.place for row in list_models()}
    assert places["voc"] == places["voc-dm05-257"] == f"in {data / 'weights'}"
    for name, stride in (("voc", 16), ("voc-dm05-257", 8)):
        model = load_model(name)
        assert model.path.is_relative_to(home / "cache"), "conversions go to the cache: the directory may be read-only"
        assert (model.name, model.labels, model.output_stride) == (name, VOC, stride)
        constants = {each.name: numpy_helper.to_array(each) for each in onnx.load(model.path).graph.initializer}
        seen = ZOO[name].picture
        assert seen
        assert seen.mean == (constants["middle"],) * 3
        assert seen.std == pytest.approx((1 / constants["scale"],) * 3, rel=0.005), "its bytes are worth so much"


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


def like(download: Download, begin: bytes) -> bytes:
    """Bytes that are as long as a published file."""
    return begin + bytes(download.expected - len(begin))


def test_a_login_page_is_not_taken_for_weights(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    entry = ZOO["voc-dm05"]
    assert entry.download
    moved = replace(entry, download=replace(entry.download, url=server.url))
    for body, said in (
        (b"<html>log in first</html>", "is 25 bytes long, where 751000 were published: deleted"),
        (like(entry.download, b"<html>log in first"), "is no TFLite file: deleted"),
    ):
        server.does.body = body
        with pytest.raises(FetchError, match=said):
            fetch_published(moved)
    assert "recorded" not in caplog.text
    server.does.body = like(entry.download, b"\x1c\0\0\0TFL3")
    assert fetch_published(moved).read_bytes() == server.does.body
    assert "recorded that of this first download" in caplog.text


@pytest.mark.parametrize(
    ("name", "begin", "other"),
    [
        ("voc-dm05", b"\x1c\0\0\0TFL3", b"<html>"),
        ("deeplabv2-resnet101-voc", bytes.fromhex("80028a0a6cfc9c46f920"), b"PK no archive"),
    ],
)
def test_files_without_a_hash_are_looked_at_and_said_to_be_unchecked(
    name: str, begin: bytes, other: bytes, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entry = ZOO[name]
    assert entry.download
    small = replace(entry, download=replace(entry.download, about=1000))
    assert small.download
    path = home / small.download.file
    for held in (like(small.download, other), like(small.download, begin)[:940], b""):
        path.write_bytes(held)
        with pytest.raises(ModelError, match=r"is not the published file: it is (no|940|0) "):
            fetch_published(small, weights_dir=home)
    path.write_bytes(like(small.download, begin))
    assert fetch_published(small, weights_dir=home) == path
    assert "is not checked: nobody has published its hash" in caplog.text


def test_what_torch_must_make_is_told_with_the_command(home: Path) -> None:
    name = "deeplabv3-resnet50-voc"
    with pytest.raises(ModelError) as caught:
        load_model(name)
    assert "\n" not in str(caught.value)
    for words in (
        f"python -m engines export {name}",
        "deeplab-stream[train]",
        f"{name}.onnx",
        "DEEPLAB_STREAM_WEIGHTS",
    ):
        assert words in str(caught.value)
    site = home / "site"
    site.mkdir()
    shutil.copy(load_model("street").path, site / f"{name}.onnx")
    assert load_model(name, weights_dir=site).path == site / f"{name}.onnx"


def test_a_published_file_for_torch_is_taken_from_the_weights_directory(home: Path) -> None:
    entry = ZOO["deeplabv3-resnet50-voc"]
    assert entry.download
    assert not is_ready(entry)
    (home / entry.download.file).write_bytes(b"something else")
    (row,) = (row for row in list_models(weights_dir=home) if row.entry is entry)
    assert (row.place, row.ready) == (f"in {home}, not exported", False)
    with pytest.raises(ModelError, match=r"its SHA-256 is [0-9a-f]{64}, not cd0a2569…"):
        fetch_published(entry, weights_dir=home)
    with pytest.raises(ModelError, match="street is in the package: there is nothing to fetch"):
        fetch_published(ZOO["street"])


def test_a_weights_directory_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_STREAM_WEIGHTS", "/nowhere/at/all")
    with pytest.raises(ModelError, match=r"/nowhere/at/all does not exist \(--weights-dir or DEEPLAB_STREAM_WEIGHTS\)"):
        load_model("voc")


# --- the entries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("entry", ZOO.values(), ids=lambda entry: entry.name)
def test_entries_are_whole(entry: ZooEntry) -> None:
    assert entry.licence
    assert entry.about
    assert (entry.size - entry.align_corners) % entry.output_stride in (0, 8)
    if entry.download:
        assert entry.download.url.startswith("https://")
        assert entry.download.url.endswith("/" + entry.download.file)
        assert entry.download.expected
        assert entry.picture
        head = re.search(r"-([0-9a-f]{8})\.pth$", entry.download.file)
        assert not head or entry.download.sha256 == head[1], "torch names its files by their hashes"


def test_the_classes_are_those_of_the_data_sets() -> None:
    names = ZOO["deeplabv2-resnet101-cocostuff"].labels.names
    assert (len(names), len(set(names))) == (182, 182)
    assert all(re.fullmatch(r"[a-z]+([ -][a-z]+)?", name) for name in names)
    # Of COCO-Stuff's list, which counts from 1.
    assert [names[number - 1] for number in (1, 91, 92, 148, 182)] == [
        "person",
        "hair brush",
        "banner",
        "river",
        "wood",
    ]


def test_vocs_classes_are_in_torchvisions_order() -> None:
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        absent("torchvision (the extra `train`)")
    assert found
    assert found.origin
    text = (Path(found.origin).parent / "models" / "_meta.py").read_text(encoding="utf-8")
    listed = re.search(r"_VOC_CATEGORIES = (\[.*?\])", text, re.DOTALL)
    assert listed
    assert VOC.names[1:] == tuple(ast.literal_eval(listed[1])[1:])


def test_published_crf_parameters_are_those_of_the_preset() -> None:
    for entry in ZOO.values():
        if entry.crf is not None:
            preset = yaml.safe_load((ROOT / "configs" / f"{entry.crf.preset}.yaml").read_text())
            wanted = {key: value for key, value in asdict(entry.crf).items() if key != "preset"}
            assert preset["refine"] == {"kind": "crf", "crf": wanted}


def test_the_documents_table_has_every_entry() -> None:
    rows = {
        match[1]: line
        for line in (ROOT / "docs" / "zoo.md").read_text().splitlines()
        if (match := re.match(r"\| `([\w-]+)` \|", line))
    }
    assert list(rows) == list(ZOO)
    for name, entry in ZOO.items():
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert entry.licence in cells
        if entry.download:
            figure = re.match(r"[\d.]+", entry.accuracy)
            assert (figure[0] if figure else "none published") in rows[name]
            assert entry.download.file in rows[name]


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
