"""Training from a network that was exported, and pasting one picture's things into another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")
for peer in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(peer, reason=f"exporting needs {peer} (the extra `train`)")

from engines.base import ModelError  # noqa: E402
from engines.labels import CAMVID  # noqa: E402
from engines.networks import NetworkSpec, assemble  # noqa: E402
from engines.training.augment import paste  # noqa: E402
from engines.training.dataset import IGNORE  # noqa: E402
from engines.training.initial import calibrate, load_exported  # noqa: E402
from tests.engines.small_network import SPEC, Exported  # noqa: E402


def test_an_exported_network_goes_on_where_it_was(exported: Exported) -> None:
    network, path = exported.trained.restore(), exported.file
    images = torch.randn(4, 3, 64, 96)
    started = assemble(SPEC, len(CAMVID)).eval()
    with torch.inference_mode():
        wanted = network(images)
        assert not torch.allclose(started(images), wanted, atol=1e-2)
        load_exported(started, path)
        torch.testing.assert_close(started(images), wanted, rtol=1e-3, atol=1e-3)
    calibrate(started, images)
    with torch.inference_mode():
        torch.testing.assert_close(started(images), wanted, rtol=1e-3, atol=1e-3)
    assert started.head.weight.requires_grad
    for name, module in started.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None, name
            assert module.running_mean.abs().max() > 0, name


def test_an_export_of_another_network_is_refused(exported: Exported, tmp_path: Path) -> None:
    path = exported.file
    other = assemble(SPEC, 5)
    with pytest.raises(ModelError, match=r"street\.onnx: no weights of a fitting shape for head\.weight"):
        load_exported(other, path)
    larger = assemble(NetworkSpec("mobilenetv2", decoder=True, width=0.5, aspp_channels=16), len(CAMVID))
    with pytest.raises(ModelError, match="no weights of a fitting shape for"):
        load_exported(larger, path)
    with pytest.raises(ModelError, match="no such file"):
        load_exported(other, tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        load_exported(other, tmp_path / "text.onnx")


def test_half_of_the_donors_classes_are_pasted_where_they_lie() -> None:
    view = (np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4), np.uint8))
    donor_labels = np.array([[1] * 4, [2] * 4, [3] * 4, [IGNORE] * 4], np.uint8)
    donor = (np.repeat(donor_labels.repeat(2, 0).repeat(2, 1)[..., None], 3, 2), donor_labels)
    seen = set()
    for seed in range(20):
        image, labels = paste(view, donor, np.random.default_rng(seed))
        taken = set(np.unique(labels)) - {0}
        assert len(taken) == 2
        assert taken < {1, 2, 3}
        assert np.array_equal(np.unique(image), np.unique(labels))
        assert np.array_equal(image[::2, ::2, 0], labels)
        assert np.array_equal(image[1::2, 1::2, 2], labels)
        seen |= taken
    assert seen == {1, 2, 3}
    assert not view[1].any()


def test_a_donor_without_labels_gives_nothing() -> None:
    view = (np.full((8, 8, 3), 7, np.uint8), np.ones((4, 4), np.uint8))
    donor = (np.zeros((8, 8, 3), np.uint8), np.full((4, 4), IGNORE, np.uint8))
    image, labels = paste(view, donor, np.random.default_rng(0))
    assert np.array_equal(image, view[0])
    assert np.array_equal(labels, view[1])
