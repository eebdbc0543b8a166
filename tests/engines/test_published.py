"""Published weights of the zoo that torch makes models of: served under their names, exported, and run by an engine."""

from __future__ import annotations

import hashlib
import io
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")
pytest.importorskip("onnxscript", reason="exports need onnxscript (the extra `train`)")

from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from engines.base import EngineOptions, Model, ModelError  # noqa: E402
from engines.catalogue import ZOO, ZooEntry  # noqa: E402
from engines.cli import main  # noqa: E402
from engines.networks import NETWORKS  # noqa: E402
from engines.networks.normalise import ByteNetwork  # noqa: E402
from engines.published import read_published  # noqa: E402
from engines.zoo import fetch_published, load_model  # noqa: E402
from tests.engines.peers import published  # noqa: E402
from tests.engines.peers.parts import Weights  # noqa: E402
from tests.engines.peers.torchvision import filled  # noqa: E402
from tests.engines.serving import Server  # noqa: E402
from tests.engines.support import open_engine_for, picture, score  # noqa: E402

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("one_thread", "home")]

Serve = Callable[[str, dict[str, Tensor]], ZooEntry]

SIZE = (72, 104)
"""H and W: a multiple of eight, where torchvision pads nothing either."""


@pytest.fixture
def serve(server: Server, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Publishes weights as a named model's, under a name that tells their hash where the real one tells its own."""

    def publish(name: str, state: dict[str, Tensor]) -> ZooEntry:
        held = io.BytesIO()
        torch.save(state, held)
        server.does.body, server.does.chunk = held.getvalue(), 1 << 20
        entry = ZOO[name]
        assert entry.download
        file, told = entry.download.file, entry.download.sha256
        if told is not None:
            mine = hashlib.sha256(server.does.body).hexdigest()[: len(told)]
            file, told = file.replace(told, mine), mine
        url = server.url.rpartition("/")[0] + "/" + file
        moved = replace(entry, download=replace(entry.download, url=url, file=file, sha256=told))
        monkeypatch.setitem(ZOO, name, moved)
        return moved

    return publish


def scores_of(model: Model, image: np.ndarray) -> Tensor:
    with open_engine_for(model, "openvino", EngineOptions("fp32", threads=1)) as engine:
        return torch.from_numpy(score(engine.session(*image.shape[:2]), image))[None]


def normalised(image: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """As torchvision's presets have it."""
    unit = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    return (unit - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def expected_scores(peer: torch.nn.Module, image: np.ndarray) -> Tensor:
    """Of torchvision's network, H×W; they tell the picture's colours."""
    with torch.inference_mode():
        right, swapped = (
            peer(normalised(each, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))["out"]
            for each in (image, image[..., ::-1].copy())
        )
    assert not close(swapped, right, within=0.005)
    return right


def close(found: Tensor, wanted: Tensor, within: float = 1e-4) -> bool:
    return float((found - wanted).abs().max() / wanted.abs().max()) < within


def scores_in_torch(entry: ZooEntry, state: dict[str, Tensor], image: np.ndarray, folder: Path) -> Tensor:
    assert entry.download
    path = folder / entry.download.file
    # As torch wrote files before 1.6, when several of the published ones were made.
    torch.save(OrderedDict(state), path, _use_new_zipfile_serialization=False)
    network = read_published(entry, path).restore()
    with torch.inference_mode():
        return ByteNetwork(network)(torch.from_numpy(image[None]))


def enlarged(scores: Tensor) -> Tensor:
    return F.interpolate(scores, SIZE, mode="bilinear", align_corners=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("deeplabv3-mobilenetv3-large-voc", "deeplabv3_mobilenet_v3_large"),
        ("deeplabv3-resnet50-voc", "deeplabv3_resnet50"),
    ],
)
def test_export_makes_torchvisions_network_of_its_file(
    name: str, theirs: str, serve: Serve, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (peer, _), image = filled(theirs, SIZE), picture(SIZE)
    entry = serve(name, peer.state_dict())
    server.does.break_after = [3_000_000]
    assert main(["export", name]) == 0
    assert entry.download
    assert {path.rpartition("/")[2] for path in server.does.paths} == {entry.download.file}
    assert [seen.get("range") for seen in server.does.seen] == [None, "bytes=3000000-"]
    model = load_model(name)
    assert (model.name, model.labels, model.size, model.licence) == (name, entry.labels, 520, entry.licence)
    assert close(enlarged(scores_of(model, image)), expected_scores(peer, image))
    assert "exporting: 100%" in capsys.readouterr().err
    assert main(["fetch", name]) == main(["info", name]) == 0
    told = capsys.readouterr().out
    assert len(server.does.seen) == 2, "what is there is not fetched again"
    assert entry.accuracy in told
    assert f'{{"published": "{entry.download.url}", "sha256": ' in told, "where the file came from"


@pytest.mark.slow
def test_torchvisions_largest_is_its_own_network(tmp_path: Path) -> None:
    (peer, _), image = filled("deeplabv3_resnet101", SIZE), picture(SIZE)
    found = scores_in_torch(ZOO["deeplabv3-resnet101-voc"], peer.state_dict(), image, tmp_path)
    assert close(enlarged(found), expected_scores(peer, image))


def kazutos(weights: Weights, x: Tensor) -> Tensor:
    """kazuto1011's network at three scales: of each class the largest score counts."""
    first = published.kazuto(weights, x)
    every = [first]
    for scale in (0.5, 0.75):
        small = F.interpolate(x, [int(side * scale) for side in x.shape[2:]], mode="bilinear", align_corners=False)
        scores = published.kazuto(weights, small)
        every.append(F.interpolate(scores, first.shape[2:], mode="bilinear", align_corners=False))
    return torch.stack(every).amax(0)


def test_kazutos_file_is_its_network_at_three_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At an eighth of its width; that such a network is exported rightly is seen where exports are tested."""
    entry, weights, image = ZOO["deeplabv2-resnet101-voc"], Weights(), picture(SIZE)
    assert entry.recipe
    narrow = replace(NETWORKS[entry.recipe.network], width=0.125)
    monkeypatch.setitem(NETWORKS, entry.recipe.network, narrow)
    blue_first = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)[None]
    mean = torch.tensor([104.008, 116.669, 122.675]).reshape(3, 1, 1)
    with torch.inference_mode():
        expected = kazutos(weights, blue_first - mean)
    assert close(scores_in_torch(entry, weights.state, image, tmp_path), expected)
    assert entry.download
    path = tmp_path / entry.download.file
    small = replace(entry, download=replace(entry.download, about=path.stat().st_size))
    assert fetch_published(small, weights_dir=tmp_path) == path


def test_a_file_that_contradicts_its_entry_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = Weights()
    with torch.inference_mode():
        published.kazuto(weights, torch.zeros(1, 3, 33, 33))
    for name, words in (
        ("deeplabv3-resnet50-voc", "is not of deeplabv3-resnet50-voc: its pictures have another order"),
        ("deeplabv2-resnet101-cocostuff", r"does not fit the network: .* of another shape: .*base\.aspp\.c0\.weight"),
    ):
        with pytest.raises(ModelError, match=words):
            scores_in_torch(ZOO[name], weights.state, picture(SIZE), tmp_path)
