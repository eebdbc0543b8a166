"""torchvision's own networks, filled at random, and what is made of their files here."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="networks need torch (the extra `train`)")

from engines.networks import DeepLab, build  # noqa: E402
from engines.weights import load_weights  # noqa: E402
from tests.engines.peers.torchvision import filled  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (65, 73)
"""H and W; no multiple of any stride."""


@pytest.mark.parametrize(
    ("theirs", "ours", "output_stride"),
    [
        ("deeplabv3_mobilenet_v3_large", "deeplabv3-mobilenetv3-large", 16),
        pytest.param("deeplabv3_resnet50", "deeplabv3-resnet50", 8, marks=pytest.mark.slow),
        pytest.param("deeplabv3_resnet101", "deeplabv3-resnet101", 8, marks=pytest.mark.slow),
    ],
)
def test_a_file_of_torchvision_gives_its_scores(theirs: str, ours: str, output_stride: int, tmp_path: Path) -> None:
    peer, image = filled(theirs, SIZE)
    with torch.no_grad():
        expected, other = (peer(image[i : i + 1]) for i in range(2))
    assert float((expected["out"] - other["out"]).abs().max() / expected["out"].abs().max()) > 0.05
    path = tmp_path / f"{theirs}.pth"
    torch.save(peer.state_dict(), path)
    network = build(ours, 21, output_stride, auxiliary=True).eval()
    loaded = load_weights(network, path)
    assert (loaded.layout, loaded.part) == ("torchvision", "network")
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in peer.parameters())
    assert isinstance(network, DeepLab)
    with torch.inference_mode():
        for found, wanted in zip(network.both(image[:1]), (expected["out"], expected["aux"]), strict=True):
            full = torch.nn.functional.interpolate(found, SIZE, mode="bilinear", align_corners=False)
            assert float((full - wanted).abs().max() / wanted.abs().max()) < 1e-4
