"""The real networks, for every test of engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.base import Model
from engines.zoo import load_model


@pytest.fixture(scope="session")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    """The real networks: V3+ at stride 4 with a decoder, and V3 at stride 16."""
    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(home))
        return {
            "street": load_model("street"),
            "voc": load_model("voc", weights_dir=data / "weights"),
        }
