"""Whether a file can be the published one, for those whose hash nobody has published.

A network that wants a login first answers every address with a page of its own; a proxy, with its error. The hash of
such a page must not become the hash that a model has to have.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from engines.catalogue import Download

TOLERANCE = 0.05
"""How far a length may be from the one that was published in round figures."""

TORCH_LEGACY = bytes.fromhex("80028a0a6cfc9c46f920")
"""How files of torch before 1.6 begin: its magic number, pickled."""

TFLITE = b"TFL3"
"""At byte 4 of a TFLite file."""


def implausible(download: Download, path: Path) -> str:
    """Why a file cannot be the published one, in a phrase behind its name; empty if nothing speaks against it.

    Raises:
        OSError: it cannot be read.
    """
    length = path.stat().st_size
    if abs(length - download.expected) > (0 if download.size else TOLERANCE * download.about):
        return f"is {length} bytes long, where {download.expected} were published"
    with path.open("rb") as file:
        head = file.read(16)
    if download.file.endswith(".tflite") and head[4:8] != TFLITE:
        return "is no TFLite file"
    if download.file.endswith(".pth") and not head.startswith(TORCH_LEGACY) and not zipfile.is_zipfile(path):
        return "is no file of torch"
    return ""
