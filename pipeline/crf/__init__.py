"""The fully connected CRF: plain arrays in, labels out."""

from pipeline.crf.dense import BACKENDS, DenseCRF, require_backend
from pipeline.crf.parameters import CRFParameters

__all__ = ["BACKENDS", "CRFParameters", "DenseCRF", "require_backend"]
