"""Credentials of those who may look, and how they prove it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from pipeline.errors import ConfigError
from pipeline.sinks.serve.options import ServeOptions

REALM = "deeplab-stream"

_PAIR = re.compile(r'([A-Za-z]+)\s*=\s*(?:"([^"]*)"|([^\s,"]+))')
_MAX_FILE = 1 << 16
_MAX_PROOF = 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """Users with their passwords."""

    users: dict[str, str] = field(repr=False)

    @classmethod
    def load(cls, options: ServeOptions) -> Credentials | None:
        """Those of the options, or None where everybody may look.

        Raises:
            ConfigError: the file cannot be read, or holds something else.
        """
        lines = [options.auth] if options.auth is not None else []
        if options.auth_file is not None:
            try:
                with options.auth_file.open(encoding="utf-8") as file:
                    lines += file.read(_MAX_FILE).splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
                raise ConfigError(f"auth file {options.auth_file} cannot be read: {reason}") from error
        users: dict[str, str] = {}
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            user, colon, password = line.partition(":")
            if not (user and colon and password):
                raise ConfigError(f"auth file {options.auth_file}: line {number} is not USER:PASSWORD")
            users[user] = password
        if options.protected and not users:
            raise ConfigError(f"auth file {options.auth_file} names no user: a line is USER:PASSWORD")
        return cls(users) if users else None

    def allows_digest(self, header: str, method: str, uri: str, nonce: str) -> bool:
        """Whether an ``Authorization: Digest`` header proves a password (RFC 2069 and 2617, MD5).

        Args:
            header: its value.
            method, uri: of the request.
            nonce: what this connection was asked with.
        """
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "digest" or len(rest) > _MAX_PROOF:
            return False
        said = {match[1].lower(): match[2] if match[2] is not None else match[3] for match in _PAIR.finditer(rest)}
        if said.get("nonce") != nonce or said.get("realm") != REALM or said.get("uri") != uri:
            return False
        if said.get("algorithm", "MD5").upper() != "MD5":
            return False
        user = said.get("username", "")
        first = _md5(f"{user}:{REALM}:{self.users.get(user, '')}")
        second = _md5(f"{method}:{uri}")
        middle = f"{nonce}:{said.get('nc', '')}:{said.get('cnonce', '')}:auth" if said.get("qop") == "auth" else nonce
        proof = _md5(f"{first}:{middle}:{second}")
        return hmac.compare_digest(proof.encode(), said.get("response", "").encode()) and user in self.users

    def allows_basic(self, header: str) -> bool:
        """Whether an ``Authorization: Basic`` header holds a user's password (RFC 7617)."""
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "basic":
            return False
        try:
            user, _, password = base64.b64decode(rest.strip(), validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            return False
        right = hmac.compare_digest(password.encode(), self.users.get(user, "").encode())
        return right and user in self.users


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
