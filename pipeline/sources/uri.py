"""Names of inputs: credentials masked, short names, what kind of thing a string means."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

_SECRET_KEYS = (
    r"pass(?:w(?:or)?d|phrase)?|pwd|pw|psw|secret|token|auth|authorization|api_?key|key|sig|signature|credential"
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s'\"<>]+")
_VALUE = r"(?:(?!:$)[^&;#\s'\"])*"  # without the colon of a message in which the address comes first
_QUERY = re.compile(rf"([?&;#](?:[\w.\-]*[_\-.])?(?:{_SECRET_KEYS})=){_VALUE}", re.IGNORECASE)
# Recorders take it in the path: rtsp://host/user=me_password=secret_channel=1_stream=0.sdp
_PATH = re.compile(r"([/_](?:password|passwd|pwd)=)(?:(?!:$)[^&;#/_?\s'\"])*", re.IGNORECASE)
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*://)([^/?#:@]*):([^/?#]*)@")
_RAW_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*://)([^/?#:@]*):(?!\d+[/?#])(.*)@")

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+):")
"""A scheme of at least two letters: a single one is a drive."""


def mask_uri(text: str) -> str:
    """The text with the credentials of every URI in it replaced by ``***``; the user's name stays.

    Masks ``scheme://user:password@host`` and query values whose key speaks of a secret
    (``?password=``, ``&api_key=``, ``&X-Amz-Signature=``; ``/user=me_password=`` as recorders have it).
    """
    return _URI.sub(lambda match: _mask_one(match[0]), text)


def _mask_one(uri: str) -> str:
    masked = _USERINFO.sub(r"\1\2:***@", uri)
    if masked == uri:
        masked = _RAW_USERINFO.sub(r"\1\2:***@", uri)  # a password with an unescaped / ? or #
    return _PATH.sub(r"\1***", _QUERY.sub(r"\1***", masked))


def input_name(uri: str) -> str:
    """A name for the input that is fit for a file: stem of a file, host of a stream, ``cam0``, ``stdin``."""
    if uri == "-":
        return "stdin"
    if re.fullmatch(r"\d+", uri):
        return f"cam{uri}"
    kind, _, rest = uri.partition(":")
    if kind in ("cam", "lavfi"):
        return _fit(rest if kind == "cam" else re.split(r"[=,\[:@]", rest)[0]) or kind
    if "://" in uri and not uri.startswith("file:"):
        try:
            parts = urlsplit(mask_uri(uri))
        except ValueError:  # brackets that hold no address: opening it will say so
            return "stream"
        return _fit(Path(parts.path).stem) or _fit(parts.netloc.rpartition("@")[2].partition(":")[0]) or "stream"
    path = Path(uri)
    stem = path.stem if path.suffix else path.name
    return _fit(re.sub(r"%0?\d*d|[*?\[\]]", "", stem)) or _fit(path.parent.name) or "input"


def _fit(name: str) -> str:
    return re.sub(r"[^\w.\-]+", "_", name).strip("._-")[:64]
