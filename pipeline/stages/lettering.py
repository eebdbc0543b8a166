"""The font of the legend and the figure: Pillow's own, or one of the system's for letters that it lacks."""

from __future__ import annotations

import logging
import unicodedata
from functools import cache

from PIL import ImageFont

_log = logging.getLogger(__name__)

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
)
"""Looked for where the system keeps its fonts, in this order."""

Font = ImageFont.FreeTypeFont


def font_for(text: str, size: int) -> Font:
    """A font that has all letters of a text, or as many as any here; where some are in none, a warning says so once.

    Args:
        text: all that shall be written in it.
        size: in pixels.
    """
    return _font(_fitting("".join(sorted(set(text)))), size)


@cache
def _fitting(letters: str) -> str | None:
    """A font's file, or None for Pillow's own, which is the same on every system."""
    best, lacking = None, _lacking(None, letters)
    for name in SYSTEM_FONTS:
        if not lacking:
            break
        try:
            left = _lacking(name, letters)
        except OSError:  # not here
            continue
        if len(left) < len(lacking):
            best, lacking = name, left
    if lacking:
        _log.warning(
            "no font has %s: boxes are drawn instead; install one that has (fonts-dejavu, fonts-noto-cjk …)",
            " ".join(lacking),
        )
    return best


def _lacking(name: str | None, letters: str) -> str:
    font = _font(name, 24)
    box = _drawn(font, "\uffff")  # a code point that no font may have
    visible = (letter for letter in letters if unicodedata.category(letter)[0] not in "ZC")
    return "".join(letter for letter in visible if _drawn(font, letter) == box)


def _drawn(font: Font, letter: str) -> bytes:
    return bytes(font.getmask(letter))


def _font(name: str | None, size: int) -> Font:
    font = ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
    assert isinstance(font, Font), "PyPI's Pillow has FreeType"
    return font
