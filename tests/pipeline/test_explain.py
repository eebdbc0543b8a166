"""The figure of one frame's way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.cli.figure import ClassMap, Step, heat, sheet
from tests.pipeline.clips import Clip
from tests.pipeline.conftest import Cli
from tests.pipeline.leftovers import nothing_left
from tests.pipeline.running import arguments, one_line_error, plainly, tree
from tests.pipeline.tiny import LABELS

pytestmark = pytest.mark.timeout(60)

MakeClip = Callable[[str], Clip]


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("name", ["h264", "odd", "left", "anamorphic", "10 bit", "late"])
@pytest.mark.parametrize("refine", ["none", "guided", "crf"])
def test_pictures_and_the_figure(
    *, name: str, refine: str, cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path
) -> None:
    given = clip(name)
    with nothing_left():
        done = cli(*arguments(given.path, tiny, "--explain", tmp_path / "figures", "--refine", refine))
    assert done.returncode == 0, done.stderr
    files = tree(tmp_path / "figures")
    titles = [
        "input",
        "network-input",
        "coarse-labels",
        "labels",
        *(["refined"] if refine != "none" else []),
        "overlay",
    ]
    assert [file[3:-4] for file in files if file[:2].isdigit()][: len(titles)] == titles
    assert "figure.png" in files
    assert any("scores-of-" in file for file in files)
    assert f"{len(files) - 1} pictures and figure.png" in done.stdout
    shown = (given.height, round(given.width * given.aspect))
    for file in files:
        if file != "figure.png":
            assert picture(tmp_path / "figures" / file).shape[:2] == shown
    figure = picture(tmp_path / "figures/figure.png")
    assert figure.shape[1] == 1920
    assert len(np.unique(figure.astype(int) @ [65536, 256, 1])) > 50


def test_labels_are_those_of_the_stream(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    given = clip("h264")
    cli(*arguments(given.path, tiny, "--explain", tmp_path, "--start", "0.4"))
    expected = next(each for each in plainly(given.path) if each.frame.pts == given.pts[10])
    shown = picture(tmp_path / "03-labels.png")
    palette = np.array(LABELS.palette, np.uint8)
    assert (shown == palette[expected.labels])[expected.certain].all()


def test_what_cannot_be_explained(cli: Cli, clip: MakeClip, tiny: str, tmp_path: Path) -> None:
    done = cli("--model", tiny, "--explain", tmp_path / "figures")
    one_line_error(done, "no input", status=2)
    done = cli(*arguments("nowhere.mp4", tiny, "--explain", tmp_path / "figures"))
    one_line_error(done, "nowhere.mp4")
    assert tree(tmp_path) == []
    (tmp_path / "file").touch()
    done = cli(*arguments(clip("h264").path, tiny, "--explain", tmp_path / "file"))
    one_line_error(done, "--explain", "file is a file: name a directory", status=2)
    assert "INFO" not in done.stderr, "said before the engine is loaded"
    for place, said in (("file/x", "a part of the path is a file"), ("a/b/c", f"mkdir -p {tmp_path}/a/b")):
        done = cli(*arguments(clip("h264").path, tiny, "--explain", tmp_path / place))
        one_line_error(done, f"{place} cannot be written", said)
        assert "INFO" not in done.stderr
    assert tree(tmp_path) == ["file"]


def test_heat_rises_in_brightness() -> None:
    ramp = heat(np.linspace(0, 1, 256, dtype=np.float32)[None]).astype(int).sum(axis=2)[0]
    assert (np.diff(ramp) >= -2).all()
    assert ramp[0] < 20
    assert ramp[-1] > 600


@pytest.mark.parametrize("aspect", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("classes", [0, 1, 6, 18])
def test_every_shape_fits_on_the_sheet(aspect: float, classes: int) -> None:
    tile = np.zeros((8, 8, 3), np.uint8)
    maps = [ClassMap(f"class {number}", (9, 9, 9), 0.001, tile) for number in range(classes)]
    steps = [Step("a step", "of the way", tile)] * 5
    made = sheet("heading", "subtitle", steps, maps, aspect)
    bottom = np.asarray(made)[-10:]
    assert (bottom == 255).all()
