"""Compiled plans of GPU engines: where they live, when they are stale, and that each is built once.

Building a plan takes minutes and times kernels on the GPU, so one process builds at a time and the others
wait for it. A plan is code that will be run: it is read only from a directory that nobody else can have
written into.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

from engines.base import EngineError
from engines.cancellation import Cancellation
from engines.whole_file import whole_file

T = TypeVar("T")

MAGIC = b"deeplab-stream plan 1\n"
"""First line of a plan's file; the second is a line of JSON, the rest is the library's own."""

KEPT_PLANS = 32
"""Plans that stay: one a model, size, precision, GPU and library, some 10 to 200 MB each."""

PORTABLE = "portable"
"""Among the options of a key: the plan runs on other GPUs and by later releases, too."""

OLDEST_PORTABLE = (8, 0)
"""Compute capability of Ampere, the oldest that a portable plan runs on."""

ANOTHER = "choose another directory (XDG_CACHE_HOME)"

_LOCK = "plans.lock"
_POLL_S = 0.1
_LONGEST_HEADER = 1 << 16

_log = logging.getLogger(__name__)


class PlanError(EngineError):
    """A cache of plans that cannot be used; the message names the way out."""


class _UnusableError(Exception):
    """Why a file is no plan that may be run."""


@dataclass(frozen=True, slots=True)
class PlanKey:
    """All that a plan depends on.

    Attributes:
        model: what people call the network; part of the file's name.
        onnx_sha256: hash of the graph that the plan is built of, hexadecimal.
        library: who builds it, with its version, e.g. ``"TensorRT 11.4.0.106"``.
        device: the GPU as it calls itself.
        compute_capability: of the GPU, e.g. ``"8.6"``.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        size: (height, width) of the network's input, in pixels.
        max_batch: pictures of the largest batch.
        options: further options of the build that change the plan.
    """

    model: str
    onnx_sha256: str
    library: str
    device: str
    compute_capability: str
    precision: str
    size: tuple[int, int]
    max_batch: int
    options: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Beginning of the file's name: what a person asks for."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.model)[:64].lstrip(".-") or "model"
        return f"{name}-{self.size[1]}x{self.size[0]}-{self.precision}-"

    @property
    def file(self) -> str:
        """Name of the plan's file."""
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.stem}{hashlib.sha256(text.encode()).hexdigest()[:16]}.plan"

    def serves(self, wanted: PlanKey) -> bool:
        """A plan of this key can do what ``wanted`` asks: it is the same, takes larger batches, or is portable."""
        if self.max_batch < wanted.max_batch:
            return False
        key = replace(self, max_batch=wanted.max_batch)
        if PORTABLE in self.options and PORTABLE not in wanted.options and self._reaches(wanted):
            key = replace(
                key, library=wanted.library, device=wanted.device, compute_capability=wanted.compute_capability,
                options=tuple(option for option in self.options if option != PORTABLE),
            )  # fmt: skip
        return key == wanted

    def _reaches(self, wanted: PlanKey) -> bool:
        """A portable plan of this key runs there: on Ampere or newer, by its release or a later one of its major."""
        (name, ours), (other, theirs) = (key.library.rsplit(" ", 1) for key in (self, wanted))
        here, there = _numbers(ours), _numbers(theirs)
        newer = name == other and here[:1] == there[:1] and here <= there
        return newer and _numbers(wanted.compute_capability) >= OLDEST_PORTABLE

    def differences(self, wanted: PlanKey) -> str:
        """What is another in ``wanted``, for people: ``"library TensorRT 10.16 → TensorRT 11.4"``."""
        pairs = [(field.name, getattr(self, field.name), getattr(wanted, field.name)) for field in fields(self)]
        return ", ".join(f"{name.replace('_', ' ')} {_told(a)} → {_told(b)}" for name, a, b in pairs if a != b)


class PlanCache:
    """A directory of plans.

    Args:
        directory: made where it is missing; see `own_directory`.

    Raises:
        PlanError: it cannot be made, or others can write into it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = own_directory(directory, "plan cache")

    def obtain(
        self,
        key: PlanKey,
        build: Callable[[], bytes],
        read: Callable[[bytes], T],
        cancellation: Cancellation | None = None,
    ) -> T:
        """What ``read`` makes of a plan, from the cache if it is there and good, else built and kept.

        Args:
            key: what the plan must be for.
            build: makes the plan; called with the cache locked, so by one process at a time.
            read: deserialises a plan; where it raises an `EngineError` for a kept one, that is built anew.
            cancellation: nobody waits any more for whoever holds the lock.

        Raises:
            PlanError: a plan must be built and the cache cannot be written.
            CancelledError: another one was waited for, and ``cancellation`` is set.
            EngineError: as ``build``, or as ``read`` of a plan that was just built.
        """
        found, why = self._find(key, read)
        if found is not None:
            return found
        with self._locked(cancellation or Cancellation()):
            found, why = self._find(key, read)  # by whoever held the lock
            if found is not None:
                return found
            _log.info("building a plan of %s, which may take minutes: %s", key.model, why)
            plan = build()
            result = read(plan)
            self._write(key, plan)
            self._prune()
            return result

    def _find(self, key: PlanKey, read: Callable[[bytes], T]) -> tuple[T | None, str]:
        """What ``read`` makes of a kept plan, or None and why there is none."""
        reasons = []
        for path in self._candidates(key):
            try:
                return read(_read(path, key)), ""
            except (_UnusableError, EngineError) as error:
                reasons.append(f"{path.name} {error}")
        return None, reasons[0] if reasons else "there is none yet"

    def _candidates(self, key: PlanKey) -> list[Path]:
        """The plan's own file, then those of the same model, size and precision, the newest first."""
        exact = self.directory / key.file
        others = sorted(self.directory.glob(f"{key.stem}*.plan"), key=_age, reverse=True)
        return [*([exact] if exact in others else []), *(path for path in others if path != exact)]

    @contextlib.contextmanager
    def _locked(self, cancellation: Cancellation) -> Iterator[None]:
        """One process at a time, and one thread of it; the kernel opens the lock when its holder ends, however it ends.

        Raises:
            PlanError: the directory cannot be written.
            CancelledError: somebody else holds it, and ``cancellation`` is set.
        """
        try:
            with tempfile.TemporaryFile(
                dir=self.directory
            ):  # permissions alone do not tell: it may be mounted read-only
                pass
            handle = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise PlanError(
                f"the plan cache {self.directory} cannot be written ({error.strerror}), so each run would build it "
                f"anew: make it writable, build the plan where it is (python -m engines build), or {ANOTHER}"
            ) from error
        try:
            if not self._took(handle):
                _log.info("waiting for another plan that is built in %s", self.directory)
                while not self._took(handle):  # a wait for the lock itself cannot be called off
                    cancellation.check("waiting for another plan")
                    time.sleep(_POLL_S)
            yield
        finally:
            os.close(handle)

    def _took(self, handle: int) -> bool:
        """Whether the lock is ours now, or there are none here, as on some network file systems."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            _log.info(
                "%s knows no locks (%s), so other processes may build the same plan", self.directory, error.strerror
            )
        return True

    def _write(self, key: PlanKey, plan: bytes) -> None:
        header = json.dumps({"key": asdict(key), "bytes": len(plan), "sha256": hashlib.sha256(plan).hexdigest()})
        try:
            place = self.directory / key.file
            if place.is_symlink():
                place.unlink()  # else the plan would be written where it points
            with whole_file(place) as path, path.open("wb") as file:
                file.writelines((MAGIC, header.encode(), b"\n", plan))
        except OSError as error:
            raise PlanError(
                f"the plan cannot be kept in {self.directory} ({error.strerror}): make room, or {ANOTHER}"
            ) from error

    def _prune(self) -> None:
        """Remove what a killed process left half-written, and the oldest plans beyond `KEPT_PLANS`."""
        old = sorted(self.directory.glob("*.plan"), key=_age)[:-KEPT_PLANS]
        for path in (*self.directory.glob("*.plan.part"), *old):
            with contextlib.suppress(OSError):
                path.unlink()


def own_directory(path: Path, what: str, *names: str) -> Path:
    """A directory that nobody else can have written into; it is made where it is missing.

    Args:
        path: the directory.
        what: it is called in messages.
        names: of directories each in the one before; the last is returned, and all are as ``path``, since whoever can
            write into one can put another in the place of the next.

    Raises:
        PlanError: it cannot be made, or others own it or can write into it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        raise PlanError(f"the {what} {path} cannot be made ({error.strerror}): {ANOTHER}") from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PlanError(
            f"the {what} {path} can be written by other users, and what is in it would be run: "
            f"take their rights away (chmod go-w) if it is yours, or {ANOTHER}"
        )
    return own_directory(path / names[0], what, *names[1:]) if names else path


def refuse_foreign_files(directory: Path) -> None:
    """See that all that a library may read from a directory is this user's, whoever could write there once.

    Raises:
        PlanError: a file belongs to somebody else or is a link.
    """
    for path in directory.iterdir():
        try:
            found = path.lstat()
        except FileNotFoundError:  # another process is done with it
            continue
        if not _is_own_file(found):
            raise PlanError(f"{path} is not a file of this user's, and what is in it would be run: remove it")


def _is_own_file(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()


def _read(path: Path, wanted: PlanKey) -> bytes:
    """A kept plan.

    Raises:
        _UnusableError: it is damaged, of another format, not this user's, or for another case.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as file:
            if not _is_own_file(os.fstat(file.fileno())):
                raise _UnusableError("is not a file of this user's")
            if file.readline(len(MAGIC)) != MAGIC:
                raise _UnusableError("is no plan, or one of another release")
            header = json.loads(file.readline(_LONGEST_HEADER))
            values = header["key"]
            key = PlanKey(**values | {"size": tuple(values["size"]), "options": tuple(values["options"])})
            if not key.serves(wanted):
                raise _UnusableError(f"is for another case: {key.differences(wanted)}")
            plan = file.read()
        if header["bytes"] != len(plan) or header["sha256"] != hashlib.sha256(plan).hexdigest():
            raise _UnusableError("is damaged")
    except OSError as error:
        raise _UnusableError(f"cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise _UnusableError("is damaged: its header cannot be read") from error
    return plan


def _age(path: Path) -> float:
    """When a file was written; of one that has gone meanwhile, long ago."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _told(value: object) -> str:
    text = "×".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return (text if len(text) <= 40 else f"{text[:12]}…") or "none"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))
