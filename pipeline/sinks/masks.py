"""Label masks as a lossless video: FFV1 in Matroska, with a JSON line for every frame beside it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.frame import Colour, Result, UInt8
from pipeline.sinks import records
from pipeline.sinks.base import OutputInfo
from pipeline.sinks.encoders import encoder_named
from pipeline.sinks.files import PartFile, StandardOutput
from pipeline.sinks.muxer import Coding, Muxer, plays
from pipeline.sinks.picture import Canvas, PictureFormat
from pipeline.sinks.target import Target, commit
from pipeline.sources.base import AudioPacket

_LOG = logging.getLogger(__name__)
_LAYOUT = "gray"
_THREADS = 4  # FFV1 makes four slices of pictures of usual sizes: more threads would have nothing to do

Targets = tuple[Target, Target | None]
"""Where a segment's video goes, and its lines (None for nowhere)."""


class MaskSegment:
    """Masks of one size in one file.

    The file itself tells the classes in the tags ``CLASSES`` (a JSON list of names in label order) and ``MODEL``.

    Args:
        targets: where the video goes, and its lines.
        info: the stream and the model.
        shape: height and width of the masks, in pixels.
        number: of the segment, from 1.
        prompt: hand on every packet at once.

    Raises:
        SinkError: the encoder or the container refuses.
    """

    def __init__(self, targets: Targets, info: OutputInfo, shape: tuple[int, int], number: int, prompt: bool) -> None:
        height, width = shape
        self.shape = shape
        self._lines = targets[1]
        # Full range, so that nobody who converts gray to gray stretches the labels.
        colour = Colour(full_range=True)
        aspect = info.stream.sample_aspect_ratio
        picture = PictureFormat(width, height, _LAYOUT, colour, aspect if aspect > 0 else aspect + 1)
        encoder = encoder_named("ffv1")
        self._canvas = Canvas(width, height, _LAYOUT)
        coding = Coding(
            encoder, encoder.options(None), picture, info.stream.time_base, info.stream.average_rate, _THREADS
        )
        tags = {"CLASSES": json.dumps(info.labels.names, ensure_ascii=False), "MODEL": info.model}
        self._muxer = Muxer(targets[0], "matroska", coding, prompt=prompt, lasting=info.stream.live, tags=tags)
        self._say(records.header(info, height, width, number))

    def write(self, result: Result, sequence: int) -> None:
        """Append one mask, which has ``sequence`` others before it."""
        self._muxer.write(self._canvas.fill((result.labels,)), result.pts)
        self._say(records.frame(result, sequence))

    def _say(self, record: records.Json) -> None:
        if self._lines is not None:
            self._lines.write(records.line(record))
            self._lines.check()

    def finish(self) -> None:
        """Write the end."""
        self._muxer.finish()

    def abandon(self) -> None:
        """Let go of the encoder."""
        self._muxer.abandon()


class MaskVideoSink:
    """Writes the labels' very bytes as gray levels, with the source's times.

    ``NAME.mkv`` gets ``NAME.mkv.jsonl`` beside it (see `pipeline.sinks.records`), because
    Matroska rounds times to milliseconds and says nothing of classes.  Both tell the source's times, whatever
    part of it is played.  Neither FFV1 nor
    Matroska can change its size, and labels are never scaled: masks of another size go on in
    ``NAME-2.mkv`` with lines of its own, and so on.  Only ``NAME.mkv`` replaces what was there
    before: the others take the next number that is free.

    Args:
        name: the output as the user named it.
        targets: makes what takes the bytes of the segment of that number (from 1).
        prompt: hand on every packet at once, for whoever watches.
    """

    def __init__(self, name: str, targets: Callable[[int], Targets], *, prompt: bool = False) -> None:
        self._name = name
        self._make_targets = targets
        self._prompt = prompt
        self._info: OutputInfo | None = None
        self._targets: list[Targets] = []
        self._segment: MaskSegment | None = None
        self._frames = 0

    @property
    def name(self) -> str:
        """The output as the user named it."""
        return self._name

    @property
    def written(self) -> int:
        """Bytes written so far."""
        return sum(target.written for target in self._all())

    def open(self, info: OutputInfo) -> None:
        """Make the first files, under hidden names; the encoder starts with the first mask's size."""
        self._targets = [self._make_targets(1)]
        self._info = info
        self._frames = 0

    def write(self, result: Result) -> None:
        """Append one mask and its line."""
        if self._info is None:
            raise SinkError(f"{self._name} is not open")
        self._segment_for(self._info, result.labels).write(result, self._frames)
        self._frames += 1

    def _segment_for(self, info: OutputInfo, labels: UInt8) -> MaskSegment:
        shape = (int(labels.shape[0]), int(labels.shape[1]))
        segment = self._segment
        if segment is None or segment.shape != shape:
            if segment is not None:
                self._end(segment)
                self._targets.append(self._make_targets(len(self._targets) + 1))
            segment = self._segment = MaskSegment(self._targets[-1], info, shape, len(self._targets), self._prompt)
        return segment

    def _end(self, segment: MaskSegment) -> None:
        """Finish a segment's bytes; it keeps its hidden name until `close`."""
        segment.finish()
        self._segment = None
        for target in self._targets[-1]:
            if target is not None:
                target.finish()

    def write_audio(self, audio: AudioPacket) -> None:
        """Masks are silent."""

    def reconfigure(self, info: OutputInfo) -> None:
        """Masks after this may have another size: then they start a new segment."""
        self._info = info

    def close(self) -> None:
        """Flush and rename all segments; without a single mask there is no file."""
        if self._info is None:
            return
        if self._segment is None:
            _LOG.warning("%s: no mask came, nothing is written", self._name)
            self.abort()
            return
        try:
            self._segment.finish()
        except SinkError:
            if not self._info.stream.live:
                self.abort()
            raise
        try:
            commit(*self._all())
        except SinkError:
            self.abort()
            raise
        self._forget()

    @property
    def continues(self) -> bool:
        """False: the next file would be written over what was kept."""
        return False

    def keep(self) -> bool:
        """As `Keeping`: of a live input, into files."""
        if self._info is None or not self._info.stream.live or not self._targets:
            return False
        if not all(isinstance(target, PartFile) for target in self._all()):
            return False
        if self._segment is not None:
            self._segment.abandon()
        for video, lines in self._targets:
            assert isinstance(video, PartFile)
            kept = video.keep(plays)
            if isinstance(lines, PartFile):
                lines.keep(cut_to_lines) if kept else lines.discard()
        self._forget()
        return True

    def abort(self) -> None:
        """Remove what was written, all segments."""
        for target in reversed(self._all()):  # the first made the directories
            target.discard()
        if self._segment is not None:
            self._segment.abandon()
        self._forget()

    def _all(self) -> list[Target]:
        return [target for pair in self._targets for target in pair if target is not None]

    def _forget(self) -> None:
        self._info = self._segment = None
        self._targets = []


def file_targets(path: Path, name: str) -> Callable[[int], Targets]:
    """Makes ``NAME.mkv`` and its lines for segment 1, ``NAME-2.mkv`` and its lines for segment 2, ….

    Numbers are left out where a file of that name is there already.

    Args:
        path: the first segment's final name.
        name: how messages call the output.
    """
    taken = 1  # a segment of this run is hidden until the end

    def make(number: int) -> Targets:
        nonlocal taken
        taken = 1 if number == 1 else _next_free(path, taken + 1)
        video = _numbered(path, taken)
        lines = _lines_of(video)
        first = PartFile(video, name)
        try:
            second = PartFile(lines, name)
        except SinkError:
            first.discard()
            raise
        if number > 1:
            _LOG.warning("%s: the masks' size has changed, they go on in %s and %s", name, video, lines)
        return first, second

    return make


def _next_free(path: Path, number: int) -> int:
    while any(os.path.lexists(file) for file in (_numbered(path, number), _lines_of(_numbered(path, number)))):
        number += 1
    return number


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _lines_of(video: Path) -> Path:
    return video.with_name(video.name + ".jsonl")


def cut_to_lines(path: Path) -> bool:
    """Take away the last line where it is not whole; whether any is left."""
    with path.open("r+b") as file:
        return file.truncate(file.read().rfind(b"\n") + 1) > 0


def pipe_targets(number: int) -> Targets:
    """Standard output, for segment 1 alone.

    Raises:
        SinkError: it is a terminal or taken, or the masks have changed their size.
    """
    if number > 1:
        raise SinkError("the masks' size changes, which a pipe cannot take: write them to NAME.mkv")
    return StandardOutput(), None
