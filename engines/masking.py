"""Values that came from ``${NAME}`` and files: from then on `hide` puts ``***`` in their place.

An address that somebody typed is masked by its form; what came from a variable is a secret wherever it stands.
"""

from __future__ import annotations

import html
import json
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

SHORTEST = 4
"""Characters of a value that is hidden wherever it occurs: shorter ones are part of too many words."""

_ANYWHERE = 8
"""From so many characters on a value is hidden inside words, too."""

_MASK = "***"
_NUMBER = re.compile(r"\d{1,5}")  # a port, a size, a rate
_ADDRESS = re.compile(r"(?s)([A-Za-z][A-Za-z0-9+.\-]*:/+)(?:(.*)@)?([^/?#@]*)(.*)")
_PIECES = re.compile(r"[/?#&;=:@]+")

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Known:
    """What is shown for what, and the expression that finds it."""

    shown: dict[str, str]
    pattern: re.Pattern[str]


_known: _Known | None = None


def hide(text: str) -> str:
    """The text with ``***`` in place of every secret that is known, however it is escaped."""
    known = _known
    return text if known is None else known.pattern.sub(lambda match: known.shown[match[0]], text)


def remember(value: str) -> bool:
    """Hide a secret wherever it occurs, percent-encoded and escaped forms as well.

    Of an address scheme and host stay to be seen.  What has fewer than `SHORTEST` characters, a number of up to five
    digits, and a path that is there are not hidden.

    Returns:
        Whether it is hidden.
    """
    if _is_plain(value):
        return not value
    address = _ADDRESS.fullmatch(value)
    if address is None:
        _add((form, _MASK) for form in _forms(value))
        return True
    scheme, user, host, rest = address.groups()
    shown = f"{scheme}{'' if user is None else '***@'}{host}{_MASK if rest.strip('/') else rest}"
    _add((form, shown) for form in _forms(value))
    password = (user or "").partition(":")[2]
    pieces = [piece for piece in (*_PIECES.split(rest), user or "") if len(piece) >= _ANYWHERE]
    for piece in (password, *pieces):
        if not _is_plain(piece):
            _add((form, _MASK) for form in _forms(piece))
    return True


def remember_as(text: str, shown: str) -> None:
    """Show one thing for another wherever it stands as a whole: a text around a secret that is too short."""
    if len(text) >= _ANYWHERE and text != shown:
        _add((form, shown) for form in _forms(text))


def forget() -> None:
    """Hide nothing any more."""
    global _known  # noqa: PLW0603  # what is secret is so in the whole process
    _known = None


def _is_plain(value: str) -> bool:
    if len(value) < SHORTEST or _NUMBER.fullmatch(value):
        return True
    try:
        return value.startswith("/") and Path(value).exists()
    except (OSError, ValueError):
        return False


def _forms(value: str) -> list[str]:
    """As it is, and as it looks in addresses, filter graphs, JSON, HTML, Python's quotes and joined lines."""
    encoded = [quote(value, safe=""), quote(value), quote_plus(value), unquote(value)]
    return [
        value,
        *encoded,
        *(re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded),
        re.sub(r"([\\':,;\[\]])", r"\\\1", value),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
        repr(value)[1:-1],
        " ".join(value.split()),
        "\\n".join(value.splitlines()),
    ]


def _add(pairs: Iterable[tuple[str, str]]) -> None:
    global _known  # noqa: PLW0603
    with _lock:
        before = {} if _known is None else _known.shown
        shown = {**{form: shown for form, shown in pairs if len(form) >= SHORTEST}, **before}
        longest_first = sorted(shown, key=len, reverse=True)
        _known = _Known(shown, re.compile("|".join(map(_expression, longest_first))))


def _expression(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= _ANYWHERE else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"
