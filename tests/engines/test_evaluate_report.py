"""The report of an evaluation: one file that needs nothing else, and tells what was counted."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib", reason="a report needs matplotlib (the extra `train`)")

from engines.cli import main
from engines.labels import LabelSet
from engines.training.datasets import find_samples
from engines.training.evaluation import evaluate
from engines.training.report.frames import ALPHA, NONE, WRONG, mistakes, painted, worst_frames
from engines.training.report.page import html_report
from tests.engines.colours import LABELS, ColourEngine
from tests.engines.support import write_graph


class Page(HTMLParser):
    """What a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    @property
    def images(self) -> list[tuple[str, bytes]]:
        """Kind and content of every picture."""
        found = [values["src"] for tag, values in self.tags if tag == "img"]
        pairs = [re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", address or "") for address in found]
        assert None not in pairs, "a picture that is not in the file"
        return [(pair[1], base64.b64decode(pair[2])) for pair in pairs if pair is not None]


def write_worse(root: Path, shares: tuple[float, ...]) -> None:
    """Pictures with the given share of wrong true labels, named by it."""
    random = np.random.default_rng(5)
    for kind in ("images", "labels"):
        (root / "val" / kind).mkdir(parents=True)
    for share in shares:
        shown = np.kron(random.integers(0, 3, (3, 4)), np.ones((8, 8), int))
        true = np.where(random.random(shown.shape) < share, (shown + 1) % 3, shown).astype(np.uint8)
        true[0] = 255
        name = f"wrong{100 * share:02.0f}.png"
        Image.fromarray(np.array(LABELS.palette, np.uint8)[shown]).save(root / "val" / "images" / name)
        Image.fromarray(true).save(root / "val" / "labels" / name)


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    write_worse(tmp_path, (0.1, 0.9, 0.3, 0.5, 0.2, 0.6, 0.7, 0.8))
    write_graph(tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("labels: [red, '<b>&green', blue, grey]\nsize: 24\noutput_stride: 2\n")
    where = ["--model", str(tmp_path / "net.onnx"), "--root", str(tmp_path), "--split", "val"]
    return ["evaluate", *where, "--engine", "openvino", "--threads", "1", "--html", str(tmp_path / "report.html")]


def test_a_report_needs_nothing_but_itself(given: list[str], tmp_path: Path) -> None:
    assert main([*given, "--json", str(tmp_path / "figures.json")]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    assert not any(name.startswith("on") or name == "href" for _, values in page.tags for name in values)
    assert not re.search(r"url\(|@import|https?://", text)
    kinds = [kind for kind, _ in page.images]
    assert kinds == ["svg+xml"] * 2 + ["jpeg"] * 18
    for kind, content in page.images:
        if kind == "jpeg":
            with Image.open(io.BytesIO(content)) as picture:
                assert picture.size == (32, 24)
            continue
        for element in ElementTree.fromstring(content).iter():
            for name, value in element.attrib.items():
                assert not name.endswith("href") or value.startswith(("#", "data:")), "it asks for another file"
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert page.texts.count(f"{100 * figures['miou']:.2f}") >= 1
    for name, iou in figures["iou"].items():
        assert name in page.texts
        assert ("–" if iou is None else f"{100 * iou:.2f}") in page.texts
    assert f"{100 * figures['trimap']['4']:.2f}" in page.texts
    assert figures["measured"]["SHA-256"] == hashlib.sha256((tmp_path / "net.onnx").read_bytes()).hexdigest()
    assert {*figures["measured"], *figures["measured"].values()} <= set(page.texts)
    assert "<b>&amp;green" not in text
    assert "&lt;b&gt;&amp;green" in text


def test_the_worst_pictures_come_first(tmp_path: Path) -> None:
    write_worse(tmp_path, (0.1, 0.9, 0.3, 0.5, 0.2))
    samples = find_samples(tmp_path, "val")
    found = evaluate(ColourEngine(), samples)
    frames = worst_frames(ColourEngine(), samples, found, 3)
    assert [frame.name for frame in frames] == ["wrong90", "wrong50", "wrong30"]
    assert [frame.miou for frame in frames] == sorted(each.miou for each in found.pictures)[:3]
    page = Page(html_report(found, "colours on val", [("what", "as told")], frames))
    assert [text for text in page.texts if text.startswith("wrong") and text != "wrong"] == [
        "wrong90",
        "wrong50",
        "wrong30",
    ]
    assert "as told" in page.texts
    assert f"mIoU {100 * frames[0].miou:.2f}, pixel accuracy {100 * frames[0].accuracy:.2f}" in page.texts


def test_a_report_of_a_resumed_evaluation_is_that_of_an_unbroken_one(given: list[str], tmp_path: Path) -> None:
    def report() -> str:
        return re.sub(r"[0-9.]+ ms", "", (tmp_path / "report.html").read_text(encoding="utf-8"))

    assert main(given) == 0
    unbroken = report()
    last = tmp_path / "val" / "images" / "wrong90.png"
    whole = last.read_bytes()
    last.write_bytes(b"no picture")
    assert main([*given, "--resume", str(tmp_path / "val.work")]) == 1
    last.write_bytes(whole)
    (tmp_path / "report.html").unlink()
    assert main([*given, "--resume", str(tmp_path / "val.work")]) == 0
    assert report() == unbroken


def test_nothing_counted_is_reported_too(tmp_path: Path) -> None:
    page = Page(html_report(evaluate(ColourEngine(), []), "nothing", [], []))
    assert "There are none." in page.texts
    assert "–" in page.texts
    assert len(page.images) == 2


def test_background_is_told_apart_and_not_painted(tmp_path: Path) -> None:
    write_worse(tmp_path, (0.3,))
    labels = replace(LABELS, background=0)
    found = evaluate(ColourEngine(labels), find_samples(tmp_path, "val"))
    page = Page(html_report(found, "colours", [], []))
    assert "mIoU without background" in page.texts
    assert f"{100 * found.without_background:.2f}" in page.texts
    image = np.full((1, 3, 3), 100, np.uint8)
    shown = painted(image, np.array([[0, 255, 2]], np.uint8), labels)
    assert shown[0, :2].tolist() == [[100] * 3] * 2
    assert shown[0, 2].tolist() == [round(100 * (1 - ALPHA))] * 2 + [round(100 * (1 - ALPHA) + 255 * ALPHA)]


def test_wrong_pixels_are_coloured() -> None:
    image = np.array([[[30, 60, 90]] * 3], np.uint8)
    shown = mistakes(image, np.array([[1, 1, 255]], np.uint8), np.array([[1, 2, 1]], np.uint8))
    assert shown[0, 0].tolist() == [60, 60, 60]
    for place, colour in ((1, WRONG), (2, NONE)):
        assert shown[0, place].tolist() == [round(60 * (1 - ALPHA) + each * ALPHA) for each in colour]


def test_many_classes_fit(tmp_path: Path) -> None:
    write_worse(tmp_path, (0.3,))
    many = LabelSet(tuple(f"class {i}" for i in range(60)), tuple((i, 2 * i, 255 - i) for i in range(60)))
    found = evaluate(ColourEngine(many), find_samples(tmp_path, "val"))
    page = Page(html_report(found, "many", [], []))
    assert "class 59" in page.texts


def test_what_cannot_be_written_is_refused_before_any_work(
    given: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([*given[:-1], "/no/such/folder/x.html"]) == 1
    assert "x.html: cannot be written: its directory does not exist" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(given) == 1
    error = capsys.readouterr().err
    assert "--html needs matplotlib: pip install 'deeplab-stream[train]'" in error
    assert "evaluating" not in error
