"""Times that rise strictly from stamps that need not."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.timestamps import Timestamps

TICK = Fraction(1, 1000)


def run(stamps: list[float | None], **options: object) -> tuple[list[float], int]:
    line: Timestamps[int] = Timestamps(TICK, **options)  # type: ignore[arg-type]
    out = []
    for number, stamp in enumerate(stamps):
        out += line.push(number, None if stamp is None else Fraction(stamp))
    out += line.flush()
    assert [item for item, _ in out] == list(range(len(stamps)))
    return [float(pts) for _, pts in out], line.repaired


@pytest.mark.parametrize(
    ("stamps", "expected", "repaired"),
    [
        pytest.param([0, 1, 2, 5, 5.5], [0, 1, 2, 5, 5.5], 0, id="good ones stay"),
        pytest.param([7, 8, 60, 61], [7, 8, 60, 61], 0, id="a gap is a gap"),
        pytest.param([0, 1, 1, 2], [0, 1, 1.001, 2], 1, id="one that repeats"),
        pytest.param([0, 1, 0.75, 2], [0, 1, 1.001, 2], 1, id="one a little behind"),
        pytest.param([10, 11, 12, 0, 14], [10, 11, 12, 13, 14], 1, id="one far behind"),
        pytest.param([10, 11, 12, 0, 1, 2], [10, 11, 12, 13, 14, 15], 3, id="a second time line"),
        pytest.param([0, 1, 9000, 3, 4], [0, 1, 2, 3, 4], 1, id="one far ahead"),
        pytest.param([0, 1, 9000, 9001], [0, 1, 9000, 9001], 0, id="a leap"),
        pytest.param([0, 1, 9000], [0, 1, 9000], 0, id="a leap at the end"),
        pytest.param([0, 1, 9000, None, 9002], [0, 1, 9000, 9001, 9002], 1, id="a leap, then none"),
        pytest.param([5, 6, None, 8], [5, 6, 7, 8], 1, id="none in between"),
        pytest.param([None, None, 1], [0, 0.04, 1], 2, id="none at first"),
        pytest.param([9000, 1, 2], [9000, 9000.04, 9001.04], 2, id="the first one far ahead"),
    ],
)
def test_cases(stamps: list[float | None], expected: list[float], repaired: int) -> None:
    times, count = run(stamps)
    assert times == pytest.approx(expected)
    assert count == repaired


def test_an_impatient_line_holds_nothing_back() -> None:
    line: Timestamps[str] = Timestamps(TICK, patient=False)
    assert len(line.push("a", Fraction(0))) == 1
    assert len(line.push("b", Fraction(9000))) == 1


def test_without_any_times_the_rate_makes_them() -> None:
    times, repaired = run([None, 3, None], rate=Fraction(30000, 1001))
    assert times == pytest.approx([0, 1001 / 30000, 2002 / 30000])
    assert repaired == 0


def test_the_container_s_duration_places_a_missing_time() -> None:
    line: Timestamps[int] = Timestamps(TICK)
    line.push(0, Fraction(0), Fraction(1, 2))
    assert line.push(1, None) == [(1, Fraction(1, 2))]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.none(), st.fractions(-100, 100000, max_denominator=90000)), max_size=40), st.booleans())
def test_rises_strictly_whatever_comes(stamps: list[Fraction | None], patient: bool) -> None:
    line: Timestamps[int] = Timestamps(TICK, patient=patient)
    out = []
    for number, stamp in enumerate(stamps):
        out += line.push(number, stamp)
    out += line.flush()
    assert [item for item, _ in out] == list(range(len(stamps)))
    times = [pts for _, pts in out]
    assert all(a < b for a, b in pairwise(times))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.fractions(0, 9, max_denominator=90000), unique=True))
def test_rising_stamps_pass_untouched(stamps: list[Fraction]) -> None:
    line: Timestamps[int] = Timestamps(TICK)
    out = [pts for number, stamp in enumerate(sorted(stamps)) for _, pts in line.push(number, stamp)]
    assert out == sorted(stamps)
    assert line.repaired == 0
