"""Random variations of a labelled picture: where it is looked at, and in what light."""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from engines.training.datasets import IGNORE, UInt8
from engines.training.options import AugmentOptions

Matrix = npt.NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
FILL = (127, 127, 127)
"""Colour outside the picture: zero after normalisation."""

LARGEST_BLUR = 1.5
LARGEST_NOISE = 12.0


def augment(
    image: UInt8,
    labels: UInt8,
    options: AugmentOptions,
    label_stride: int,
    random: np.random.Generator,
) -> tuple[UInt8, UInt8]:
    """One random view of a picture.

    Args:
        image: RGB, H×W×3.
        labels: H×W.
        options: What may be varied, and how much.
        label_stride: Pixels per label in each direction of the result.
        random: Where chance comes from.

    Returns:
        RGB crop, C×C×3, and its labels, (C/label_stride)×(C/label_stride), each label taken at
        the middle of the pixels that it stands for; 255 outside the picture.
    """
    height, width = labels.shape
    view = draw_view(height, width, options, random)
    side = options.crop
    crop = cv2.warpAffine(
        image,
        view[:2],
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=FILL,
    )
    middle = (label_stride - 1) / 2
    coarse = view @ np.array([[label_stride, 0, middle], [0, label_stride, middle], [0, 0, 1]])
    target = cv2.warpAffine(
        labels,
        coarse[:2],
        (side // label_stride, side // label_stride),
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(IGNORE,),
    )
    return relight(np.asarray(crop, np.uint8), options, random), np.asarray(target, np.uint8)


def draw_view(height: int, width: int, options: AugmentOptions, random: np.random.Generator) -> Matrix:
    """Random crop, zoom, turn and mirroring, as the 3×3 matrix from crop to picture pixels."""
    low, high = options.scale
    scale = math.exp(random.uniform(math.log(low), math.log(high)))
    angle = math.radians(random.uniform(-options.rotate, options.rotate))
    mirror = -1.0 if random.random() < options.flip else 1.0
    reach = options.crop / scale / 2

    def centre(length: int) -> float:
        # Within the picture if it is larger than the crop, else the picture within the crop.
        slack = length / 2 - reach
        return (length - 1) / 2 + random.uniform(-abs(slack), abs(slack))

    cosine, sine = math.cos(angle) / scale, math.sin(angle) / scale
    turn = np.array([[mirror * cosine, -sine, 0], [mirror * sine, cosine, 0], [0, 0, 1]])
    half = (options.crop - 1) / 2
    to_middle = np.array([[1, 0, -half], [0, 1, -half], [0, 0, 1]])
    to_place = np.array([[1, 0, centre(width)], [0, 1, centre(height)], [0, 0, 1]])
    return np.asarray(to_place @ turn @ to_middle)


def relight(image: UInt8, options: AugmentOptions, random: np.random.Generator) -> UInt8:
    """Random exposure, contrast, colour, blur and noise of an RGB picture."""
    image = _recolour(image, options, random)
    image = np.asarray(cv2.LUT(image, _tone_curves(image, options, random)), np.uint8)
    if random.random() < options.blur:
        sigma = random.uniform(0.3, LARGEST_BLUR)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    if random.random() < options.noise:
        noise = random.standard_normal(image.shape, np.float32) * random.uniform(1, LARGEST_NOISE)
        image = np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)
    return image


def _tone_curves(image: UInt8, options: AugmentOptions, random: np.random.Generator) -> UInt8:
    """Brightness, contrast, gamma and per-channel gain as one table, 256×1×3."""
    mean = cv2.mean(image)
    gamma = math.exp(random.uniform(-options.gamma, options.gamma))
    gain = 1 + random.uniform(-options.brightness, options.brightness)
    contrast = 1 + random.uniform(-options.contrast, options.contrast)
    channels = 1 + random.uniform(-options.channels, options.channels, 3)
    grey = float(LUMA @ np.array(mean[:3]))
    level = np.arange(256.0)[:, None]
    curve = ((level - grey) * contrast + grey) * gain * channels
    curve = 255 * (np.clip(curve, 0, 255) / 255) ** gamma
    return np.asarray(np.rint(curve), np.uint8)[:, None, :]


def _recolour(image: UInt8, options: AugmentOptions, random: np.random.Generator) -> UInt8:
    """Saturation and hue as one 3×3 matrix on RGB."""
    saturation = 1 + random.uniform(-options.saturation, options.saturation)
    angle = 2 * math.pi * random.uniform(-options.hue, options.hue)
    if saturation == 1 and angle == 0:
        return image
    # Turn about the grey axis, then stretch the distance from grey (the luma-weighted mean).
    axis = np.full(3, 1 / math.sqrt(3))
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(angle) * np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * np.outer(axis, axis)
    stretch = saturation * np.eye(3) + (1 - saturation) * np.tile(LUMA, (3, 1))
    return np.asarray(cv2.transform(image, stretch @ turn), np.uint8)
