"""Names of inputs: credentials masked, short names, what kind of thing a string means."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from engines.masking import hide, remember, remember_as

_SECRET_KEYS = (
    r"pass?(?:w(?:or)?d|phrase)?|\w*passw(?:or)?d|(?:login|user|usr|admin)_?pass?|\w*pwd|pw|psw|\w*secret|\w*token|auth|"
    r"authorization|bearer|jwt|sid|session_?id|api_?key|key|sig|signature|credentials?"
)
# In a filter graph of libav's the colons are escaped.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]*\\*://"
_URI = re.compile(rf"{_SCHEME}[^\s'\"<>]+")
_VALUE = r"(?:(?!:$)[^&;#\s'\"])*"  # without the colon of a message in which the address comes first
_PREFIX = r"(?:[\w.\-]*[_\-.]|\w*(?-i:(?=[A-Z])))?"  # of access_token, X-Amz-Signature, accessToken
_QUERY = re.compile(rf"([?&;#]{_PREFIX}(?:{_SECRET_KEYS})=){_VALUE}", re.IGNORECASE)
# Recorders take it in the path: rtsp://host/user=me_password=secret_channel=1_stream=0.sdp
_PATH = re.compile(r"([/_](?:password|passwd|pwd)=)(?:(?!:$)[^&;#/_?\s'\"])*", re.IGNORECASE)
_USERINFO = re.compile(rf"^({_SCHEME})([^/?#:@]*):([^/?#]*)@")
_RAW_USERINFO = re.compile(rf"^({_SCHEME})([^/?#:@]*):(?!\d+[/?#])(.*)@")
_USER = re.compile(rf"^({_SCHEME})[^/?#:@]+@")  # alone it is a token as often as a name
_STREAM_KEY = re.compile(r"^(rtmps?://[^/]+/.+/)[^/?]+")
_ENDS_EARLY = re.compile(r"[\s'\"<>]")

SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]+):")
"""A scheme of at least two letters: a single one is a drive."""


def mask_uri(text: str) -> str:
    """The text with the credentials of every URI in it replaced by ``***``; the user's name stays.

    Masks ``scheme://user:password@host``, ``scheme://token@host`` and query values whose key speaks of a secret
    (``?password=``, ``&api_key=``, ``&X-Amz-Signature=``; ``/user=me_password=`` as recorders have it), and whatever
    came from a variable or a file.
    """
    return _URI.sub(lambda match: _mask_one(match[0]), hide(text))


def remember_uri(uri: str, *, published: bool = False) -> str:
    """Mask the password of an address from now on, even if characters in it end an address in a text.

    Args:
        uri: the address.
        published: to that server; the last part of an RTMP path is the key to the channel then.

    Returns:
        The address as people may see it.
    """
    match = _USERINFO.match(uri) or _RAW_USERINFO.match(uri)
    if match and _ENDS_EARLY.search(match[3]):
        remember_as(uri, _mask_one(uri))
        remember(match[3])
    if published and _STREAM_KEY.match(uri):
        remember_as(uri, _STREAM_KEY.sub(r"\1***", _mask_one(hide(uri))))
    return mask_uri(uri)


def _mask_one(uri: str) -> str:
    masked = _USERINFO.sub(r"\1\2:***@", uri)
    if masked == uri:
        masked = _RAW_USERINFO.sub(r"\1\2:***@", uri)  # a password with an unescaped / ? or #
    masked = _USER.sub(r"\1***@", masked)
    return _PATH.sub(r"\1***", _QUERY.sub(r"\1***", masked))


def input_name(uri: str) -> str:
    """A name for the input that is fit for a file: stem of a file, host of a stream, ``cam0``, ``stdin``; no secret."""
    uri = hide(uri)
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
