"""Where frames come from: files, pipes, images, cameras, network streams, filter graphs."""

from __future__ import annotations

from pipeline.sources.base import AudioPacket, Decoded, Outages, Source, SourceOptions, StreamInfo
from pipeline.sources.devices import InputDevice, list_inputs
from pipeline.sources.opening import open_source, open_sources
from pipeline.sources.places import expand_inputs
from pipeline.sources.uri import input_name, mask_uri

__all__ = [
    "AudioPacket",
    "Decoded",
    "InputDevice",
    "Outages",
    "Source",
    "SourceOptions",
    "StreamInfo",
    "expand_inputs",
    "input_name",
    "list_inputs",
    "mask_uri",
    "open_source",
    "open_sources",
]
