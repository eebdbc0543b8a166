"""The fully connected CRF: plain arrays in, labels out."""

from pipeline.crf.dense import BACKENDS, MODES, DenseCRF, require_backend
from pipeline.crf.parameters import CRFParameters
from pipeline.crf.stats import CRFStats

__all__ = ["BACKENDS", "MODES", "CRFParameters", "CRFStats", "DenseCRF", "require_backend"]
