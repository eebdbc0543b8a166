"""Recipes: the published ones as presets, several processes as one, event files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")

from engines.base import EngineError  # noqa: E402
from engines.labels import CAMVID  # noqa: E402
from engines.model_file import LABEL_SETS  # noqa: E402
from engines.networks import NETWORKS, NetworkSpec, assemble  # noqa: E402
from engines.settings import preset_names  # noqa: E402
from engines.training import train  # noqa: E402
from engines.training.batches import Batches  # noqa: E402
from engines.training.checkpoint import Checkpoint  # noqa: E402
from engines.training.optimiser import freeze, make_optimiser  # noqa: E402
from engines.training.options import CONFIGS, load_options  # noqa: E402
from engines.training.processes import Processes  # noqa: E402
from engines.training.trainer import CHECKPOINT  # noqa: E402
from tests.engines.camvid_like import arguments  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", preset_names(CONFIGS))
def test_a_preset_is_of_a_network_and_labels_that_there_are(name: str) -> None:
    options = load_options(name)
    assert options.labels in LABEL_SETS
    assert train.model_spec(options.model).encoder == NETWORKS[options.model.network].encoder


@pytest.mark.parametrize(
    ("preset", "rates", "scales"),
    [
        ("voc-v2-vgg16", {(1e-3, 5e-4), (2e-3, 0.0), (1e-2, 5e-4), (2e-2, 0.0)}, 1),
        # Batch norms are left as they are and ResNet's convolutions have no bias.
        ("voc-v2-resnet101", {(2.5e-4, 5e-4), (2.5e-3, 5e-4), (5e-3, 0.0)}, 3),
    ],
)
def test_the_published_recipes_have_the_published_rates(
    preset: str, rates: set[tuple[float, float]], scales: int
) -> None:
    options = load_options(preset)
    with torch.device("meta"):
        network = assemble(train.model_spec(options.model), 21, options.model.output_stride)
    freeze(network, options.model)
    optimiser = make_optimiser(network, options)
    assert isinstance(optimiser, torch.optim.SGD)
    assert {(group["initial_lr"], group["weight_decay"]) for group in optimiser.param_groups} == rates
    assert {group["momentum"] for group in optimiser.param_groups} == {0.9}
    assert (options.steps, options.optimiser.batch, options.optimiser.power, options.augment.crop) == (
        20000,
        10,
        0.9,
        321,
    )
    assert len(network.scales) == scales
    assert network.align_corners


PLAIN = NetworkSpec("mobilenetv2", decoder=False, width=0.25, version=2, aspp_channels=0, rates=(2, 4))
"""A network without dropout, whose masks each process draws for its own pictures."""

PROGRAM = f"""
import sys
from engines.cli import main
from engines.networks import NETWORKS, NetworkSpec
from engines.networks.spec import Conventions
NETWORKS["plain"] = {PLAIN!r}
sys.exit(main())
"""


def written(root: Path, **changes: str) -> str:
    """A config of a network that every process knows, with some of its lines changed."""
    lines = {
        "labels": "camvid",
        "ignore": "11",
        "validate_every": "100",
        "precision": "fp32",
        "steps": "3",
        "model": "{network: plain, freeze_norms: true}",
        "augment": "{crop: 64, scale: [0.8, 1.2], brightness: 0.1}",
        "optimiser": "{kind: sgd, batch: 4, backbone_rate: 1.0e-2, head_rate: 1.0e-2, warmup: 0, average: 0.5}",
        "loss": "{log_weight: 1.1}",
    }
    (root / "shared.yaml").write_text("\n".join(f"{key}: {value}" for key, value in (lines | changes).items()))
    return str(root / "shared.yaml")


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_whole_batch(root: Path, tmp_path: Path) -> None:
    words = ["-c", PROGRAM, "train", "--config", written(root), "--root", str(root), "--threads", "1"]
    words += ["--device", "cpu", "--output"]
    shared = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", sys.executable]
    runs = [tmp_path / "one", tmp_path / "two"]
    for start, output in zip(([], shared), runs, strict=True):
        answer = subprocess.run(
            [sys.executable, *start, *words, str(output)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
    one, two = (Checkpoint.load(path / CHECKPOINT) for path in runs)
    assert one.step == two.step == 3
    train.set_seed(0)
    fresh = assemble(PLAIN, 11, 16).state_dict()
    moved = 0.0
    for ours, theirs in ((one.network, two.network), (one.trained.weights, two.trained.weights)):
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, atol=1e-5, rtol=1e-4)
            moved = max(moved, float((value - fresh[name]).abs().max()))
    assert moved > 1e-2
    assert len((runs[1] / "history.jsonl").read_text().splitlines()) == 3, "the first process alone writes"


def test_a_batch_is_shared_evenly_or_not_at_all(root: Path, tmp_path: Path) -> None:
    options = train.resolve_options(arguments(root, tmp_path))
    data = train.load_data(root, options, CAMVID.names)
    whole = next(iter(Batches(data.samples, data.pictures, options).epoch(0)))
    parts = [next(iter(Batches(data.samples, data.pictures, options, Processes(i, 2)).epoch(0))) for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)
    with pytest.raises(EngineError, match="batch 2 is not to be divided by 4"):
        Batches(data.samples, data.pictures, options, Processes(0, 4))


@pytest.mark.slow
def test_the_paper_s_kind_of_run_is_resumed_exactly(root: Path, tmp_path: Path) -> None:
    """SGD with momentum on all scales, cut at once after its first epoch's checkpoint."""
    model = "{network: tiny, scales: [1.0, 0.75, 0.5]}"
    config = written(root, model=model, steps="4", optimiser="{kind: sgd, batch: 2, warmup: 0}")
    runs = [tmp_path / "whole", tmp_path / "broken"]
    given = [arguments(root, output) for output in runs]
    for each in given:
        each.config = config
    train.run(given[0])
    options = train.resolve_options(given[1])
    train.set_seed(options.seed)
    train.make_trainer(given[1], options).run(epochs=1)
    given[1].resume = True
    train.run(given[1])
    whole, broken = (Checkpoint.load(path / CHECKPOINT) for path in runs)
    assert whole.step == broken.step == 4
    assert whole.trained.spec.scales == (1.0, 0.75, 0.5)
    assert all(torch.equal(value, broken.network[name]) for name, value in whole.network.items())
    momenta = [[each["momentum_buffer"] for each in run.optimiser["state"].values()] for run in (whole, broken)]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*momenta, strict=True))


def test_frozen_norms_stay_those_of_the_starting_weights(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [arguments(root, tmp_path / name) for name in ("first", "second")]
    for given in runs:
        given.config = written(root, model="{network: tiny, freeze_norms: true}", steps="1")
    train.run(runs[0])
    assert "there are none: give --init" in caplog.text
    tree = torch.load(tmp_path / "first" / CHECKPOINT, weights_only=True)
    kept = {name: value for name, value in tree["trained"]["weights"].items() if "running" in name}
    for value in kept.values():
        value.add_(0.25)
    torch.save(tree, tmp_path / "start.pt")
    runs[1].init = tmp_path / "start.pt"
    train.run(runs[1])
    learnt = Checkpoint.load(tmp_path / "second" / CHECKPOINT).network
    assert kept
    assert all(torch.equal(learnt[name], value) for name, value in kept.items())


@pytest.mark.slow
def test_a_killed_process_s_run_is_resumed_exactly(root: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", PROGRAM, "train", "--config", written(root, steps="30"), "--root", str(root)]
    words += ["--threads", "1", "--device", "cpu", "--output"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    history = broken / "history.jsonl"
    with subprocess.Popen([*words, str(broken)], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (history.is_file() and history.read_text().count("\n") > 1):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert Checkpoint.load(broken / CHECKPOINT).step < 30
    for output, *more in ((whole,), (broken, "--resume")):
        answer = subprocess.run([*words, str(output), *more], capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, answer.stderr
    ours, theirs = (Checkpoint.load(path / CHECKPOINT) for path in (whole, broken))
    assert ours.step == theirs.step == 30
    assert all(torch.equal(value, theirs.network[name]) for name, value in ours.network.items())
    assert all(torch.equal(value, theirs.trained.weights[name]) for name, value in ours.trained.weights.items())


@pytest.mark.slow
def test_event_files_tell_the_course_of_a_run(root: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train.run(arguments(root, tmp_path / "run", "--epochs", "1", "--tensorboard"))
    train.run(arguments(root, tmp_path / "run", "--epochs", "2", "--tensorboard", "--resume"))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert all(np.isfinite(event.value) for event in events.Scalars("train/loss"))
    assert [event.step for event in events.Scalars("train/mIoU")] == [2, 4]
    assert events.Scalars("validation/mIoU")[-1].value == pytest.approx(
        Checkpoint.load(tmp_path / "run" / CHECKPOINT).trained.facts["validation_miou"], abs=1e-6
    )
    assert "validation/IoU/sky" in events.Tags()["scalars"]


def test_tensorboard_that_is_not_installed_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(EngineError, match="--tensorboard needs TensorBoard"):
        train.run(arguments(root, tmp_path / "run", "--epochs", "1", "--tensorboard"))
