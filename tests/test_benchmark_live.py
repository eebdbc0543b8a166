"""The benchmark of cut inputs, for some seconds."""

from __future__ import annotations

import pytest

from benchmarks.live import growth, measure
from benchmarks.memory import Usage
from pipeline.options import ModelOptions, RunOptions
from pipeline.sources import SourceOptions
from tests.pipeline.sources.peers import need_gstreamer


@pytest.mark.slow
@pytest.mark.parametrize("bare", [True, False])
def test_cuts_are_survived_and_measured(bare: bool) -> None:
    need_gstreamer()
    source = SourceOptions(read_timeout=1, open_timeout=2, rtsp_transport="tcp")
    options = RunOptions(inputs=(), source=source, model=ModelOptions("street", 96))
    figures = measure("rtsp", options, seconds=16, every=0.5, bare=bare)
    assert {cut.kind for cut in figures.cuts} == {"restarted", "frozen", "resized", "packets lost", "recoded"}
    assert all(cut.back_s is not None for cut in figures.cuts)
    assert all(cut.first_ms is not None and cut.first_ms < 300 for cut in figures.cuts)
    assert figures.results > 50
    assert sum(figures.outages.values()) >= 3
    assert figures.client_stayed is (None if bare else True)


def test_half_an_hour_tells_of_growth() -> None:
    """The first figures come after a round of cuts, so there is never the whole time between them and the last."""
    before, after = Usage(0, 100.0, 0, 0, 1), Usage(0, 102.0, 0, 0, 1)
    assert growth([(100.0, before), (1800.0, after)]) == pytest.approx(2.0 * 3600 / 1700, abs=0.01)
    assert growth([(100.0, before), (1200.0, after)]) is None
