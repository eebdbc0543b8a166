"""What the documents name is there: commands with their flags, and files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_help import examples, understand

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "engines/models/street.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def test_commands_are_understood() -> None:
    for library in ("torch", "onnx", "cv2"):
        pytest.importorskip(library, reason="a library of the extra `train`")
    found = [words for document in DOCUMENTS for words in examples(document.read_text(encoding="utf-8"))]
    assert len(found) >= 25
    for words in found:
        understand(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
        assert "://" in target or (document.parent / target).exists(), target
