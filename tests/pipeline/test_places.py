"""Which output belongs to which input, and times as people write them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest

from pipeline.cli.places import pair_up, parse_time
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("12.5", Fraction(25, 2)), ("1:30", 90), ("1:02:03.25", Fraction(14893, 4)), ("090", 90)],
)
def test_times(text: str, seconds: Fraction) -> None:
    assert parse_time(text, "--start") == seconds


@pytest.mark.parametrize("text", ["", "x", "-3", "1:2:3:4", "1::2", "1/0", "nan", "1e400", "1e999999999", "1:2e3"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--start"):
        parse_time(text, "--start")


def test_an_output_belongs_to_the_input_before_it() -> None:
    first, second = pair_up(
        [("input", "a.mp4"), ("output", "1.mp4"), ("masks", "1.mkv"), ("input", "b.mp4"), ("output", "2.mp4")]
    )
    assert (first.uri, first.outputs, first.masks) == ("a.mp4", ("1.mp4",), ("1.mkv",))
    assert (second.uri, second.outputs, second.masks) == ("b.mp4", ("2.mp4",), ())


def test_a_name_in_braces_serves_every_input_and_names_are_unique() -> None:
    inputs = pair_up([("input", "x/cam.mp4"), ("input", "y/cam.mp4"), ("output", "out/{name}.mp4")])
    assert [one.outputs for one in inputs] == [("out/cam.mp4",), ("out/cam-2.mp4",)]


def test_a_glob_of_videos_is_several_inputs(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.mp4"):
        (tmp_path / name).write_bytes(b"")
    inputs = pair_up([("input", f"{tmp_path}/*.mp4"), ("output", "{name}.mkv")])
    assert [one.outputs[0] for one in inputs] == ["a.mkv", "b.mkv"]


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ([("output", "o.mp4"), ("input", "a.mp4")], "comes before any --input"),
        ([("input", "a.mp4")], "has no output"),
        ([("input", "a.mp4"), ("input", "b.mp4"), ("output", "o.mp4")], "has no output"),
        ([("input", "a.mp4"), ("output", "o.mp4"), ("output", "o.mp4")], "two outputs would write o.mp4"),
    ],
)
def test_what_cannot_be_paired_is_refused(places: list[tuple[str, str]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pair_up(places)
