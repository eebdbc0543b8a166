"""How log lines look: for people, or as JSON for machines; credentials are masked in both."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from pipeline.sources.uri import mask_uri

FORMATS = ("text", "json")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return mask_uri(super().format(record))


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": mask_uri(record.getMessage()),
        }
        if record.exc_info:
            told["exception"] = mask_uri(self.formatException(record.exc_info))
        return json.dumps(told, ensure_ascii=False)


def set_up(verbose: int, *, quiet: bool, form: str) -> None:
    """Log to standard error.

    Args:
        verbose: 0 for what matters, 1 for everything of ours.
        quiet: errors alone.
        form: one of `FORMATS`: ``"json"`` is an object a line with ``time`` (ISO 8601, UTC), ``level``, ``logger``
            and ``message``.
    """
    level = logging.ERROR if quiet else (logging.INFO, logging.DEBUG)[min(verbose, 1)]
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text("%(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in ("pipeline", "engines"):
        logging.getLogger(name).setLevel(level)
