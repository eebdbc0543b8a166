"""Training from a network that was exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the extra `train`)")
pytest.importorskip("cv2", reason="training needs OpenCV (the extra `train`)")
for peer in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(peer, reason=f"exporting needs {peer} (the extra `train`)")

from engines.base import ModelError  # noqa: E402
from engines.labels import CAMVID  # noqa: E402
from engines.networks import NETWORKS, NetworkSpec, assemble  # noqa: E402
from engines.networks.trained import TrainedNetwork  # noqa: E402
from engines.training import train  # noqa: E402
from engines.training.initial import calibrate  # noqa: E402
from engines.weights import load_weights  # noqa: E402
from tests.engines.camvid_like import arguments  # noqa: E402
from tests.engines.peers.encoders import mobilenet_v2  # noqa: E402
from tests.engines.peers.parts import Weights  # noqa: E402
from tests.engines.small_network import SPEC, Exported  # noqa: E402


def test_an_exported_network_goes_on_where_it_was(exported: Exported) -> None:
    network, path = exported.network(), exported.file
    images = torch.randn(4, 3, 64, 96)
    started = assemble(SPEC, len(CAMVID)).eval()
    with torch.inference_mode():
        wanted = network(images)
        assert not torch.allclose(started(images), wanted, atol=1e-2)
        load_weights(started, path)
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
    with pytest.raises(ModelError, match=r"1 of another shape: network\.head\.weight \(11×16×1×1, not 5×16×1×1\)"):
        load_weights(other, path)
    larger = assemble(NetworkSpec("mobilenetv2", decoder=True, width=0.5, aspp_channels=16), len(CAMVID))
    with pytest.raises(ModelError, match=r"of another shape: network\.encoder\.stem\.conv\.weight"):
        load_weights(larger, path)
    with pytest.raises(ModelError, match="no such file"):
        load_weights(other, tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("text")
    with pytest.raises(ModelError, match=r"text\.onnx: not a readable file of weights"):
        load_weights(other, tmp_path / "text.onnx")


def test_class_weights_are_taken_from_the_scores(exported: Exported) -> None:
    weights = tuple(1.0 + 0.1 * index for index in range(len(CAMVID)))
    weighted = TrainedNetwork.from_tree(replace(exported.trained, class_weights=weights).to_tree())
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        change = exported.trained.restore()(images) - weighted.restore()(images)
    torch.testing.assert_close(change, torch.tensor(weights).log()[None, :, None, None].expand_as(change))


@pytest.mark.usefixtures("one_thread")
def test_training_starts_from_a_published_encoder_as_it_wants_to_be_fed(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet's MobileNetV2 of torchvision: another mean than TensorFlow's, kept in the checkpoint."""
    monkeypatch.setitem(NETWORKS, "tiny", replace(SPEC, width=1.0))
    weights, image = Weights(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = mobilenet_v2(weights, image)
    torch.save(weights.state, tmp_path / "mobilenet.pth")
    given = arguments(root, tmp_path / "run", "--init", str(tmp_path / "mobilenet.pth"))
    trainer = train.make_trainer(given, train.resolve_options(given))
    trained = trainer.checkpoint().trained
    assert trained.spec.conventions.mean == pytest.approx((123.675, 116.28, 103.53))
    assert trained.facts["initial"] == "mobilenet"
    with torch.inference_mode():
        # The same function at stride 32 (the network has 16), with norms of the training pictures.
        found = trained.restore().encoder(image).high[:, :, ::2, ::2]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * float(expected.abs().max()))
    again = TrainedNetwork.from_tree(trained.to_tree())
    assert again.spec == trained.spec
    wrong = arguments(root, tmp_path / "run", "--init", str(tmp_path / "mobilenet.pth"), "--init-part", "network")
    with pytest.raises(ModelError, match="holds an encoder alone"):
        train.make_trainer(wrong, train.resolve_options(wrong))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("part", ["network", "encoder"])
def test_training_starts_from_our_own_file(part: str, root: Path, tmp_path: Path, exported: Exported) -> None:
    more = ["--init-part", part] if part == "encoder" else []
    given = arguments(root, tmp_path / "run", "--init", str(exported.file), *more)
    network = train.make_trainer(given, train.resolve_options(given)).network.eval()
    image = torch.randn(1, 3, 64, 64)
    wanted = exported.network()
    with torch.inference_mode():
        torch.testing.assert_close(network.encoder(image).high, wanted.encoder(image).high, rtol=1e-3, atol=1e-3)
        assert torch.allclose(network(image), wanted(image), atol=1e-3) == (part == "network")
