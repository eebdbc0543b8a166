"""The benchmark of cut inputs, for some seconds."""

from __future__ import annotations

import pytest

from benchmarks.live import measure
from pipeline.options import ModelOptions, RunOptions
from pipeline.sources import SourceOptions
from tests.pipeline.sources.peers import need_gstreamer


@pytest.mark.slow
def test_cuts_are_survived_and_measured() -> None:
    need_gstreamer()
    source = SourceOptions(read_timeout=1, open_timeout=2, rtsp_transport="tcp")
    options = RunOptions(inputs=(), source=source, model=ModelOptions("street", 96))
    figures = measure("rtsp", options, seconds=16, every=0.5)
    assert {cut.kind for cut in figures.cuts} == {"restarted", "frozen", "resized", "packets lost", "recoded"}
    assert all(cut.back_s is not None for cut in figures.cuts)
    assert all(cut.first_ms is not None and cut.first_ms < 300 for cut in figures.cuts)
    assert figures.results > 50
    assert sum(figures.outages.values()) >= 3
