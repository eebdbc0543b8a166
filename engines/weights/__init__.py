"""Weights from anywhere: official, published and our own files into our networks."""

from engines.weights.layout import Part
from engines.weights.load import Loaded, WeightFile, load_weights, open_weights

__all__ = ["Loaded", "Part", "WeightFile", "load_weights", "open_weights"]
