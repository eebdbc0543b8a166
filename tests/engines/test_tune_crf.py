"""`python -m engines tune-crf`: what it finds, and that it goes on where it was killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.cli import main
from engines.training.tune_crf import RANGES, points
from pipeline.config import load_options
from tests.engines.support import write_graph

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def given(home: Path, tmp_path: Path) -> list[str]:
    """Arguments of a search on three pictures, of which some true labels are what the network sees coarsely."""
    random = np.random.default_rng(1)
    for kind in ("images", "labels"):
        (tmp_path / "val" / kind).mkdir(parents=True)
    for index in range(3):
        blocks = random.integers(0, 4, (6, 8))
        truth = np.kron(blocks, np.ones((16, 16), int)).astype(np.uint8)
        image = np.array([(200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128)])[truth]
        noisy = np.clip(image + random.normal(0, 25, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "val" / "images" / f"{index}.png")
        Image.fromarray(truth).save(tmp_path / "val" / "labels" / f"{index}.png")
    write_graph(tmp_path / "net.onnx")
    (tmp_path / "net.yaml").write_text("labels: [red, green, blue, grey]\nsize: 48\noutput_stride: 2\n")
    data = ["--model", str(tmp_path / "net.onnx"), "--root", str(tmp_path), "--split", "val"]
    return ["tune-crf", *data, "--output", str(tmp_path / "tuned.yaml"), "--engine", "openvino", "--threads", "1"]


def state_of(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    path = folder / "tuned.yaml.work" / "state.json"
    state: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {"figures": {}}
    return state


def test_it_goes_on_where_it_was_killed(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--rounds", "1", "--crf-iterations", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "engines", *given, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while len(state_of(tmp_path)["figures"]) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait(10)
    state = state_of(tmp_path)
    known = list(state["figures"])
    assert 3 <= len(known) < 28
    assert not (tmp_path / "tuned.yaml").exists()
    scores = {path: path.stat().st_mtime_ns for path in (tmp_path / "tuned.yaml.work").glob("*.npy")}
    assert len(scores) == 3
    # A figure that nothing measured could be: if it comes out, it was not measured again.
    state["figures"][known[2]] = {"miou": 2.0, "trimap": 1.5}
    (tmp_path / "tuned.yaml.work" / "state.json").write_text(json.dumps(state))

    assert main([*given, *more]) == 0
    assert {path: path.stat().st_mtime_ns for path in scores} == scores
    assert len(state_of(tmp_path)["figures"]) == 28
    assert "mIoU 200.00 with it" in capsys.readouterr().out
    assert list((tmp_path / "cache").rglob("compiled/*.blob")), "what was compiled is kept"
    options = load_options(str(tmp_path / "tuned.yaml"), {})
    best = json.loads(known[2])["crf"]
    assert options.refine.kind == "crf"
    assert {name: getattr(options.refine.crf, name) for name in best} == best
    assert options.refine.crf.iterations == 2


def test_figures_are_those_of_evaluate(given: list[str], tmp_path: Path) -> None:
    held = [f"--range={name}={value}" for name, value in (("bi_w", 2), ("bi_xy", 20), ("bi_rgb", 9), ("pos_w", 1))]
    more = ["--rounds", "2", "--crf-iterations", "3", "--range", "pos_xy=1:3", *held]
    assert main([*given, *more]) == 0
    figures = state_of(tmp_path)["figures"]
    assert len(figures) in (5, 6), "what needs no CRF, three values, then one or two beside the best"
    tried = sorted(json.loads(key)["crf"]["pos_xy"] for key in figures if json.loads(key)["kind"] == "crf")
    assert set(tried) > {1.0, 2.0, 3.0}
    best = max((value["miou"], value["trimap"]) for key, value in figures.items() if json.loads(key)["kind"] == "crf")
    data = given[1:7]
    out = str(tmp_path / "best.json")
    assert main(["evaluate", *data, "--engine", "openvino", "--config", given[8], "--json", out]) == 0
    told = json.loads(Path(out).read_text(encoding="utf-8"))
    assert told["refine"]["kind"] == "crf"
    assert (told["miou"], told["trimap"]["4"]) == pytest.approx(best)


def test_a_round_looks_around_the_best_within_the_ranges() -> None:
    first = list(points(RANGES, 0, None))
    assert len(first) == 27
    assert {each["bi_xy"] for each in first} == {30, 65, 100}
    assert {each["pos_w"] for each in first} == {3}
    second = list(points(RANGES, 1, {"pos_w": 3, "pos_xy": 3, "bi_w": 3, "bi_xy": 65, "bi_rgb": 6}))
    assert {each["bi_xy"] for each in second} == {47.5, 65, 82.5}
    assert {each["bi_w"] for each in second} == {3, 3.75}
    assert {each["bi_rgb"] for each in second} == {5.25, 6}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--rounds", "0"], "--rounds 0 is out of range: 1 to 8"),
        (["--limit", "0"], "--limit 0: at least one picture"),
        (["--crf-iterations", "-3"], "iterations is a whole number"),
        (["--range", "bi_rgb=-1:3"], "bi_rgb is a standard deviation"),
        (["--output", "/no/such/folder/x.yaml"], "its directory does not exist"),
    ],
)
def test_what_cannot_work_is_one_line(
    flags: list[str], said: str, given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*given, *flags]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert said in error
    assert not (tmp_path / "tuned.yaml.work").exists()


@pytest.mark.parametrize("text", ["w1=3:6", "bi_w=6:3", "bi_w", "bi_w=a:b"])
def test_a_range_that_is_none_is_wrong_usage(text: str, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*given, "--range", text])
    assert f"{text!r} is no range: write NAME=LOW:HIGH" in capsys.readouterr().err


def test_the_state_of_another_search_is_refused(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [f"--range={name}={low}" for name, (low, _) in RANGES.items()]
    assert main([*given, "--rounds", "1", *held]) == 0
    assert main([*given, "--rounds", "1", "--size", "96", *held]) == 1
    assert "belongs to a search with another size" in capsys.readouterr().err
    (tmp_path / "tuned.yaml.work" / "state.json").write_text("half a fi")
    assert main([*given, "--rounds", "1", *held]) == 1
    assert "not the state of a search" in capsys.readouterr().err
