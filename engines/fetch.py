"""Downloads that survive bad networks: resumed, verified, atomic, one at a time.

A file grows as ``NAME.part`` beside its place (``NAME.part.tag`` remembers which version of the
server's file that is) and gets its name only when it is whole and its hash is right.
"""

from __future__ import annotations

import contextlib
import email.message
import fcntl
import hashlib
import http.client
import logging
import math
import os
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from engines.base import EngineError
from engines.deadline import Deadline, Watch

CHUNK_BYTES = 1 << 16
MAX_BYTES = 4 << 30
"""Longest file that is taken: beyond any weights, before any disk."""

TRIES_WITHOUT_PROGRESS = 3
PAUSE_S = 0.5
LOCK_POLL_S = 0.1
SHA256_DIGITS = 64
USER_AGENT = "deeplab-stream"
_PERHAPS = "(offline, or behind a proxy that https_proxy does not name?)"
_NO_ANSWER = f"no answer in time {_PERHAPS}"

_log = logging.getLogger(__name__)


class FetchError(EngineError):
    """A file that cannot be had; the message is one line and names the address."""


class _LostError(Exception):
    """The connection failed in a way that another try may mend."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download may take.

    Attributes:
        silence_s: longest wait for a connection, and for the next byte, before it is tried again.
        begin_s: longest time until the file begins to arrive: names, proxies, redirections, repeated
            tries, and waiting for another process that fetches it, all together.
        pace: bytes a second, on average, that it must keep up from then on.
        finish_s: longest time until the whole file is here.  Once ``begin_s`` have passed, the speed seen so
            far must bring the rest by then: a link that would come too late is not waited for.
    """

    silence_s: float = 30.0
    begin_s: float = 120.0
    pace: float = 4096.0
    finish_s: float = math.inf


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    size: int | None = None,
    doubt: Callable[[Path], str] | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> Path:
    """Download a file unless it is there.

    Proxies are taken from the environment (``https_proxy``, ``no_proxy`` …).

    Args:
        url: http or https address.
        target: where the file shall be; its directory is made.
        sha256: hash that the file must have, hexadecimal, or its first digits.  Where that is not the whole of it (or
            None), the hash of the first download is recorded in ``NAME.sha256`` beside the file, and any later one
            must agree with both.
        size: length that the file must have, in bytes, where it is known.
        doubt: why a file whose whole hash is not published cannot be it, empty if it may be; asked before its hash is
            recorded.
        patience: how long it may take.
        progress: show a progress bar where there is a terminal.

    Returns:
        ``target``.

    Raises:
        FetchError: the network, the server or the disk fails, or length, hash or kind are wrong (what was
            downloaded is deleted then).
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FetchError(f"{parts.scheme}://… is no http or https address")
    if "@" in parts.netloc:
        raise FetchError(f"the address at {parts.hostname} carries a password: that would end in logs")
    patience = patience or Patience()
    deadline = Deadline(patience.begin_s, patience.pace, patience.finish_s)
    whole = sha256 is not None and len(sha256) == SHA256_DIGITS
    recorded = None if whole else _recorded(target)
    job = _Job(url, target, sha256, recorded, size, None if whole else doubt, patience.silence_s, deadline, progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with job.locked():
            if not job.present():
                job.run()
    except OSError as error:
        raise FetchError(
            f"cannot write {target}: {error.strerror or error}; make room or choose another directory"
        ) from error
    return target


@dataclass(frozen=True, slots=True)
class _Job:
    """One file to download."""

    url: str
    target: Path
    published: str | None
    recorded: str | None
    size: int | None
    doubt: Callable[[Path], str] | None
    silence_s: float
    deadline: Deadline
    progress: bool

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    @property
    def tag(self) -> Path:
        return self.target.with_name(self.target.name + ".part.tag")

    def present(self) -> bool:
        """Whether the file is there and right; a wrong one is deleted."""
        if not self.target.exists():
            return False
        fault = self._fault(self.target)
        if not fault:
            return True
        _log.warning("%s is damaged (it %s): fetching it again", self.target, fault)
        self.target.unlink()
        return False

    def run(self) -> None:
        """Download, verify, record, rename."""
        resumed = self._download()
        fault = self._fault(self.part)
        if fault and resumed:
            self._discard()  # two versions of the file may have been joined: once more, in one piece
            self._download()
            fault = self._fault(self.part)
        if fault:
            self._discard()
            also = f"; if it was changed for good, delete {_record(self.target)}" if self.recorded else ""
            raise FetchError(
                f"{self.url} {fault}: deleted; the file there was changed, or something on the way changes files{also}"
            )
        if self.recorded is None and len(self.published or "") < SHA256_DIGITS:
            self._record_hash()
        self.tag.unlink(missing_ok=True)
        self.part.replace(self.target)

    def _fault(self, path: Path) -> str:
        """What is wrong with a file, as a phrase behind its name; empty if nothing is."""
        if not _size(path):
            return "is empty"
        if self.published or self.recorded:
            actual = _hash(path)
            for known, where in ((self.published, ""), (self.recorded, f" by {_record(self.target)}")):
                if not actual.startswith(known or ""):
                    return f"has the SHA-256 {actual}, not {shown(known)} as it should{where}"
        return self.doubt(path) if self.doubt else ""

    def _record_hash(self) -> None:
        actual, head = _hash(self.part), self.published
        _record(self.target).write_text(f"{actual}  {self.target.name}\n", encoding="utf-8")
        known = f"no more than {shown(head)} is published of the" if head else "nobody has published a"
        _log.warning("%s hash of %s; recorded that of this first download: %s", known, self.target.name, actual)

    def _discard(self) -> None:
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)

    def _download(self) -> bool:
        """Bring the part to its whole length; whether it continued an earlier one."""
        resumed = self.part.exists()
        failures, longest = 0, _size(self.part)
        bar: tqdm[Any]
        with tqdm(
            desc=self.target.name, unit="B", unit_scale=True, leave=False, disable=None if self.progress else True
        ) as bar:
            while True:
                try:
                    self._request(bar)
                    return resumed
                except _LostError as error:
                    # Begun again and come no further than before is no progress.
                    failures = 0 if _size(self.part) > longest else failures + 1
                    longest = max(longest, _size(self.part))
                    if failures >= TRIES_WITHOUT_PROGRESS or self.deadline.left() <= PAUSE_S:
                        raise FetchError(f"cannot fetch {self.url}: {error}") from error
                    time.sleep(PAUSE_S)
                    resumed = True

    def _request(self, bar: tqdm[Any]) -> None:
        """One request for what is missing."""
        have, tag = _size(self.part), _read(self.tag)
        if have and not (tag or self.published or self.recorded):
            have = 0  # nothing would tell if the server's file were another one by now
        # A proxy or server that compresses would make the ranges meaningless.
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
            if tag:
                headers["If-Range"] = tag
        request = urllib.request.Request(self.url, headers=headers)
        watch = Watch(self.deadline, self.silence_s)
        try:
            with watch, watch.opener().open(request) as response:
                start = have if response.status == 206 else 0
                if response.status == 206 and not _continues(response.headers, have):
                    raise _LostError("the server sent another part than was asked for")
                self._store(response, start, bar, watch)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and have:
                self._discard()  # the part is longer than the file, or the whole of it: begin again
                raise _LostError("the server refuses to continue the download") from error
            if error.code in (408, 429, 500, 502, 503, 504):
                raise _LostError(f"HTTP {error.code} {error.reason}") from error
            raise FetchError(f"cannot fetch {self.url}: HTTP {error.code} {_on_one_line(error.reason)}") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
            raise self._too_slow() if watch.cut else _LostError(_reason(error)) from error

    def _too_slow(self) -> FetchError:
        if not self.deadline.gained:
            return FetchError(f"cannot fetch {self.url}: {_NO_ANSWER}")
        return FetchError(f"{self.url} is too slow: {_size(self.part)} bytes so far; the next try continues there")

    def _store(self, response: http.client.HTTPResponse, start: int, bar: tqdm[Any], watch: Watch) -> None:
        length = response.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else self.size
        if total is not None and total != (self.size or total):
            raise FetchError(f"{self.url} is {total} bytes long, not {self.size} as it should: this is another file")
        if (total or 0) > MAX_BYTES:
            raise FetchError(f"{self.url} is {total} bytes long: more than any model")
        if start == 0:
            self._discard()
            validator = _validator(response.headers)
            if validator:
                self.tag.write_text(validator, encoding="utf-8")
        self.deadline.rest = None if total is None else total - start
        bar.total = total
        bar.n = start
        bar.refresh()
        with self.part.open("ab") as file:
            got = self._copy(response, file, start, bar)
            file.flush()
            os.fsync(file.fileno())
        if watch.cut and got != total:
            raise self._too_slow()
        if total is not None and got < total:
            raise _LostError(f"the connection broke after {got} of {total} bytes")

    def _copy(self, response: http.client.HTTPResponse, file: BinaryIO, start: int, bar: tqdm[Any]) -> int:
        got, most = start, self.size or MAX_BYTES
        # read1 returns what has arrived: what was got before a connection breaks is kept.
        while chunk := response.read1(CHUNK_BYTES):
            got += len(chunk)
            if got > most:
                self._discard()
                raise FetchError(f"{self.url} sends more than {most} bytes: this is another file")
            file.write(chunk)
            self.deadline.gain(len(chunk))
            bar.update(len(chunk))
        return got

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time; the kernel lets go of the lock of a process that dies."""
        with self.target.with_name(self.target.name + ".lock").open("ab") as file:
            told, seen = False, _size(self.part)
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        _log.info("another process is fetching %s; waiting for it", self.target.name)
                        told = True
                    # What the other gets is progress, too.
                    if (have := _size(self.part)) > seen:
                        self.deadline.rest = None if self.size is None else self.size - seen
                        self.deadline.gain(have - seen)
                        seen = have
                    if self.deadline.left() <= 0:
                        raise FetchError(f"another process is still fetching {self.target}") from None
                    time.sleep(LOCK_POLL_S)
            yield  # closing the file unlocks it


def _continues(headers: email.message.Message, start: int) -> bool:
    match = re.match(r"bytes (\d+)-", headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == start


def _validator(headers: email.message.Message) -> str:
    """What tells versions of a file apart: a strong ETag, else the date; weak ones fit no range."""
    tag: str = headers.get("ETag", "")
    return tag if tag.startswith('"') else str(headers.get("Last-Modified", ""))


def _reason(error: BaseException) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return _NO_ANSWER
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror} {_PERHAPS}"
    return _on_one_line(cause) or type(cause).__name__


def _on_one_line(words: object) -> str:
    return " ".join(str(words).split())


def _recorded(target: Path) -> str | None:
    """The hash that the first download of this file had."""
    words = _read(_record(target)).split()
    return words[0] if words else None


def _record(target: Path) -> Path:
    """Where that is kept."""
    return target.with_name(target.name + ".sha256")


def shown(sha256: str | None) -> str:
    """A hash, or as much of it as is known."""
    return "unknown" if sha256 is None else sha256 if len(sha256) == SHA256_DIGITS else f"{sha256}…"


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
