"""Labelled pictures, and a run on them: what the tests of training learn from."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

CONFIG = """
labels: camvid
ignore: 11
validate_every: 100
precision: fp32
model: {network: tiny}
augment: {crop: 64, scale: [1.0, 1.0], brightness: 0.1}
optimiser: {batch: 2, backbone_rate: 2.0e-2, head_rate: 2.0e-2, warmup: 2, average: 0.8}
loss: {lovasz: 0.5}
"""


def paint(index: int, height: int = 64, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """A picture of sky over road with a car, whose place depends on ``index``."""
    image = np.zeros((height, width, 3), np.uint8)
    labels = np.zeros((height, width), np.uint8)
    horizon = 20 + 5 * index
    image[:horizon], labels[:horizon] = (120, 160, 240), 0
    image[horizon:], labels[horizon:] = (90, 90, 90), 3
    image[40:56, 10 * index : 10 * index + 24], labels[40:56, 10 * index : 10 * index + 24] = (200, 30, 30), 8
    labels[-2:] = 11
    return image, labels


def write_pictures(root: Path) -> Path:
    """Four labelled pictures of two drives for training, one for validation."""
    for split, indices in (("train", range(4)), ("val", [1])):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in indices:
            image, labels = paint(index)
            name = f"{'A' if index else 'B'}_{index}.png"
            Image.fromarray(image).save(root / split / "images" / name)
            Image.fromarray(labels).save(root / split / "labels" / name)
    return root


def arguments(root: Path, output: Path, *more: str) -> argparse.Namespace:
    config = root / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    from engines.training import train

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = [
        "--config",
        str(config),
        "--root",
        str(root),
        "--output",
        str(output),
        "--device",
        "cpu",
        "--threads",
        "1",
        *more,
    ]
    return parser.parse_args(given)
