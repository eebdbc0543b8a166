"""libav's own lines: on logging at debug level where somebody listens, else nowhere.

Decoders write them from threads of their own, and each needs Python's lock to do so: whoever
holds that lock while it waits for such a thread waits for ever.  So libav stays mute unless
debugging is on, its lines are only collected in the callback, and a source parks its
decoder's threads before it frees them.
"""

from __future__ import annotations

import logging

import av.logging

from pipeline.sources.uri import mask_uri

_log = logging.getLogger(__name__)
_capture: av.logging.Capture | None = None
_lines: list[tuple[int, str, str]] = []


def listen() -> None:
    """Begin to collect libav's warnings and errors if this logger takes debug messages."""
    global _capture, _lines  # noqa: PLW0603  # libav has one log for the whole process
    if _capture is None and _log.isEnabledFor(logging.DEBUG):
        _capture = av.logging.Capture(local=False)
        _lines = _capture.__enter__()
        av.logging.set_level(av.logging.WARNING)


def relay() -> None:
    """Log what was collected since the last call."""
    while _lines:
        _, part, line = _lines.pop(0)
        _log.debug("libav %s: %s", part, mask_uri(line.strip()))
