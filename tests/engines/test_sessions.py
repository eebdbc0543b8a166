"""What every engine does with its sessions: each is compiled once, and nobody waits for another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from engines.backends.common import EngineBase, FinishedRequest, SessionBase
from engines.base import EngineError, EngineInfo, Model, Session
from tests.engines.support import LABELS, WAIT_S

pytestmark = pytest.mark.timeout(60)

SLOW, QUICK = (64, 64), (32, 32)


class PlainSession(SessionBase):
    def start(self, image: np.ndarray, out: np.ndarray) -> FinishedRequest:
        raise NotImplementedError


@dataclass
class Compiler:
    """How an engine compiles: sizes one by one, the slow one when it may."""

    compiled: list[tuple[int, int]] = field(default_factory=list)
    freed: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


class PlainEngine(EngineBase):
    def __init__(self, compiler: Compiler) -> None:
        model = Model("plain", Path("none.onnx"), LABELS, 32, 1, align_corners=False, licence="", sha256="")
        super().__init__(model, EngineInfo("plain", "0", "cpu", "fp32", 1, 1))
        self._compiler = compiler

    def _compile(self, height: int, width: int) -> Session:
        assert not self._compiler.freed
        if (height, width) == SLOW:
            self._compiler.begun.set()
            assert self._compiler.go_on.wait(WAIT_S)
        self._compiler.compiled.append((height, width))
        return PlainSession((height, width), (1, len(LABELS), height, width))

    def _free(self) -> None:
        self._compiler.freed += 1


class SideBySideEngine(PlainEngine):
    side_by_side = True


@pytest.fixture
def compiler() -> Iterator[Compiler]:
    compiler = Compiler()
    yield compiler
    compiler.go_on.set()


@pytest.fixture
def threads(compiler: Compiler) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads
        compiler.go_on.set()


@pytest.mark.parametrize("kind", [PlainEngine, SideBySideEngine])
def test_a_session_that_is_there_is_given_while_another_is_compiled(
    kind: type[PlainEngine], compiler: Compiler, threads: ThreadPoolExecutor
) -> None:
    engine = kind(compiler)
    session = engine.session(*QUICK)
    asked = [threads.submit(engine.session, *SLOW) for _ in range(3)]
    assert compiler.begun.wait(WAIT_S)
    assert threads.submit(engine.session, *QUICK).result(WAIT_S) is session
    compiler.go_on.set()
    assert len({id(each.result(WAIT_S)) for each in asked}) == 1
    assert compiler.compiled == [QUICK, SLOW]


@pytest.mark.parametrize("kind", [PlainEngine, SideBySideEngine])
def test_sizes_are_compiled_at_once_where_the_library_can(
    kind: type[PlainEngine], compiler: Compiler, threads: ThreadPoolExecutor
) -> None:
    engine = kind(compiler)
    slow = threads.submit(engine.session, *SLOW)
    assert compiler.begun.wait(WAIT_S)
    quick = threads.submit(engine.session, *QUICK)
    if kind.side_by_side:
        assert quick.result(WAIT_S).input_size == QUICK
        assert not slow.done()
    compiler.go_on.set()
    assert slow.result(WAIT_S).input_size == SLOW
    assert quick.result(WAIT_S).input_size == QUICK
    assert compiler.compiled == ([QUICK, SLOW] if kind.side_by_side else [SLOW, QUICK])


def test_closing_waits_for_no_compiler(compiler: Compiler, threads: ThreadPoolExecutor) -> None:
    engine = PlainEngine(compiler)
    asked = [threads.submit(engine.session, *SLOW) for _ in range(2)]
    assert compiler.begun.wait(WAIT_S)
    threads.submit(engine.close).result(WAIT_S)
    assert not compiler.freed, "it is in use"
    compiler.go_on.set()
    for each in asked:
        with pytest.raises(EngineError, match="the plain engine of plain is closed"):
            each.result(WAIT_S)
    assert compiler.freed == 1
    assert compiler.compiled == [SLOW]


def test_a_compiler_that_failed_holds_up_nobody(compiler: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = PlainEngine(compiler)
    with monkeypatch.context() as patch:
        patch.setattr(PlainSession, "score_shape", (9, 1, 1))
        with pytest.raises(EngineError, match="plain scores 9 classes but 4 labels are given"):
            engine.session(*QUICK)
    assert engine.session(*QUICK).input_size == QUICK
    engine.close()
    engine.close()
    assert compiler.freed
