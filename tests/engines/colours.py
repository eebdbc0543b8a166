"""A network that knows colours, for tests of what is made of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines.base import EngineInfo, Model, TensorSpec
from engines.labels import LabelSet

LABELS = LabelSet(("red", "green", "blue", "grey"), ((255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)))
"""Four classes, told by their colours; nothing is ever grey."""


class Done:
    """A request that is finished when it is made."""

    def wait(self, timeout: float) -> None:
        """Nothing is left to do."""
        assert timeout > 0


class ColourSession:
    """Scores a pixel by how near it is to each class's colour; what lies further right is less of the first."""

    def __init__(self, height: int, width: int, labels: LabelSet = LABELS, slant: float = 0.0) -> None:
        self.input_size = (height, width)
        self.score_shape = (len(labels), height, width)
        self._colours = np.array(labels.palette, np.float32)[:, None, None]
        self._slant = slant * 255 * np.arange(width, dtype=np.float32) / width

    def start(self, image: np.ndarray, out: np.ndarray) -> Done:
        """Score at once."""
        distance = image[None].astype(np.float32) - self._colours
        out[:] = -np.abs(distance).sum(-1)
        out[0] -= self._slant
        return Done()


class ColourEngine:
    """An engine that knows colours, at a score for every pixel."""

    def __init__(self, labels: LabelSet = LABELS, slant: float = 0.0) -> None:
        self.model = Model("colours", Path("none.onnx"), labels, 24, 1, align_corners=False, licence="", sha256="")
        self._slant = slant

    info = EngineInfo("none", "0", "cpu", "fp32", 1, 1)
    input = TensorSpec("image", "uint8", (1, -1, -1, 3), "rgb8")
    output = TensorSpec("scores", "float32", (1, 4, -1, -1), "scores")

    def session(self, height: int, width: int) -> ColourSession:
        """A session of any size."""
        return ColourSession(height, width, self.model.labels, self._slant)

    def cancel(self) -> None:
        """Nothing takes long."""

    def close(self) -> None:
        """Nothing to free."""
