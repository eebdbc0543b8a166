"""The video encoders there are: which container takes which, and what quality means to each."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import av
from av.codec.codec import UnknownCodecError

from pipeline.errors import ConfigError
from pipeline.frame import FORMATS, PixelFormat
from pipeline.hwaccel import HwAccel, check_choice

BEST_QUALITY = 0.0
WORST_QUALITY = 51.0
DEFAULT_QUALITY = 20.0
"""One scale for all encoders: x264's constant rate factor, 0 lossless or nearly … 51 worst."""


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """How overlays are encoded.

    Attributes:
        quality: 0 (best) to 51 (worst), x264's CRF; other encoders get what looks alike on
            their own scales; None for 20.  Lossless encoders ignore it.
        codec: ``h264``, ``hevc``, ``vp9``, ``av1``, ``ffv1`` or libav's name of an encoder, which is then taken
            and no other; None for the container's default.
        threads: threads of the encoder, 0 for its own choice.
        hwaccel: "auto": by an NVIDIA GPU that is there and takes the pictures, else in software; "none": in software;
            "cuda": by the GPU, or not at all; None: as the run says, else "auto".

    Raises:
        ConfigError: quality out of range, unknown codec, negative threads, a GPU's codec without one.
    """

    quality: float | None = None
    codec: str | None = None
    threads: int = 0
    hwaccel: HwAccel | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and not BEST_QUALITY <= self.quality <= WORST_QUALITY:
            raise ConfigError(f"quality {self.quality:g}: choose from 0 (best) to 51 (worst), 20 is the default")
        if self.threads < 0:
            raise ConfigError(f"threads {self.threads}: give a number of threads, or 0 for the encoder's own choice")
        check_choice(self.hwaccel or "auto")
        if self.codec is not None and encoder_named(self.codec).on_gpu and self.hwaccel == "none":
            raise ConfigError(f"codec {self.codec} is a GPU's: leave hwaccel none out, or choose another codec")


@dataclass(frozen=True, slots=True)
class Encoder:
    """One of libav's encoders and how this project drives it.

    Attributes:
        name: libav's name.
        alias: what people call the format.
        settings: its options for a quality on the common scale.
        even: pictures with subsampled chroma need even sizes.
        own_aspect: the bitstream itself carries the pixel aspect (else only mp4 and mov can).
        fixed: options that do not depend on quality.
        prompt: options by which every picture comes out before the next goes in.
        on_gpu: NVENC's.
        tags: codec tag by container, where the default would keep players from playing.
        silence: environment variables that keep its library from printing.
    """

    name: str
    alias: str
    settings: Callable[[float], Mapping[str, str]]
    even: bool = True
    own_aspect: bool = False
    fixed: Mapping[str, str] = field(default_factory=dict)
    prompt: Mapping[str, str] = field(default_factory=dict)
    on_gpu: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    silence: Mapping[str, str] = field(default_factory=dict)

    def options(self, quality: float | None, *, prompt: bool = False) -> dict[str, str]:
        """Options for libav, for a quality on the common scale (None for the default); ``prompt``: with those, too."""
        settings = self.settings(DEFAULT_QUALITY if quality is None else quality)
        return {**self.fixed, **settings, **(self.prompt if prompt else {})}

    def formats(self) -> tuple[PixelFormat, ...]:
        """The planar YUV layouts that it takes."""
        known = av.Codec(self.name, "w").video_formats or []
        return tuple(FORMATS[f.name] for f in known if f.name in FORMATS)

    def is_built(self) -> bool:
        """PyAV has it."""
        return _is_built(self.name)

    def quiet(self) -> None:
        """Keep its library from writing to standard error; before it is opened."""
        for variable, value in self.silence.items():
            os.environ.setdefault(variable, value)


def _crf(scale: float, offset: float = 0.0, most: float = 63.0) -> Callable[[float], Mapping[str, str]]:
    return lambda quality: {"crf": f"{min(most, quality * scale + offset):g}"}


def _whole_crf(scale: float) -> Callable[[float], Mapping[str, str]]:
    return lambda quality: {"crf": f"{min(63, round(quality * scale))}", "b": "0"}


def _lossless(_quality: float) -> Mapping[str, str]:
    return {}


def _cq(scale: float, most: float) -> Callable[[float], Mapping[str, str]]:
    """NVENC's constant quality, whose 0 means that it chooses itself."""
    return lambda quality: {"cq": f"{min(most, max(1.0, quality * scale)):g}"}


# The same scale of quantisers as x264's; how alike both look at one number has not been measured on hardware.
_NVENC = {"preset": "p4", "tune": "hq", "rc": "vbr"}
# Without `delay` libav holds back as many pictures as it has surfaces.
_NVENC_PROMPT = {"tune": "ull", "zerolatency": "1", "delay": "0", "bf": "0", "rc-lookahead": "0"}

ENCODERS = (
    # veryfast: 2.3 ms a 640×360 frame on one core at CRF 20.  medium takes three times as long for
    # 1.5 dB at equal size; superfast saves a quarter and doubles the file.
    Encoder(
        "libx264", "h264", _crf(1), own_aspect=True, fixed={"preset": "veryfast"}, prompt={"tune": "zerolatency"},
    ),
    Encoder(
        "libx265", "hevc", _crf(1, 5, 51), own_aspect=True,
        fixed={"preset": "superfast", "x265-params": "log-level=none"},
        tags={"mp4": "hvc1", "mov": "hvc1"},  # Apple's players ask for it
    ),
    Encoder(
        "libvpx-vp9", "vp9", _whole_crf(1.35), even=False,
        fixed={"deadline": "realtime", "cpu-used": "8", "row-mt": "1"},
    ),
    Encoder("libsvtav1", "av1", _whole_crf(1.5), fixed={"preset": "12"}, silence={"SVT_LOG": "1"}),
    # Every frame a key frame, so that one can seek to any; level 3 cuts pictures into slices with a
    # check sum each, how many is its own choice (not every number goes with every size).
    Encoder(
        "ffv1", "ffv1", _lossless, even=False, own_aspect=True,
        fixed={"level": "3", "coder": "range_def", "context": "0", "g": "1", "slicecrc": "1"},
    ),
    Encoder("h264_nvenc", "h264", _cq(1, 51), own_aspect=True, fixed=_NVENC, prompt=_NVENC_PROMPT, on_gpu=True),
    Encoder(
        "hevc_nvenc", "hevc", _cq(1, 51), own_aspect=True, fixed=_NVENC, prompt=_NVENC_PROMPT, on_gpu=True,
        tags={"mp4": "hvc1", "mov": "hvc1"},
    ),
    Encoder("av1_nvenc", "av1", _cq(1.5, 63), fixed=_NVENC, prompt=_NVENC_PROMPT, on_gpu=True),
)  # fmt: skip

KEYFRAMES_ASKED_FOR = {"forced-idr": "1", "g": "100000"}
"""Options of x264 and NVENC for no keyframe by counting pictures, and a whole one wherever it is asked for."""

CONTAINERS: Mapping[str, tuple[str, ...]] = {
    "mp4": ("libx264", "libx265", "libvpx-vp9", "libsvtav1"),
    "mov": ("libx264", "libx265"),
    "matroska": ("libx264", "libx265", "libvpx-vp9", "libsvtav1", "ffv1"),
    "webm": ("libvpx-vp9", "libsvtav1"),
}
"""Encoders by libav's name of the container, the default first; with each goes NVENC's of the same format."""

EXTENSIONS: Mapping[str, str] = {".mp4": "mp4", ".mkv": "matroska", ".webm": "webm", ".mov": "mov"}


def encoder_named(name: str) -> Encoder:
    """The encoder of a format's or an encoder's name.

    Raises:
        ConfigError: unknown, or not in this build of PyAV.
    """
    wanted = {"h265": "hevc", "x264": "h264", "x265": "hevc"}.get(name.lower(), name.lower())
    for encoder in ENCODERS:
        if wanted in (encoder.name, encoder.alias):
            if not _is_built(encoder.name):
                raise ConfigError(f"codec {name}: the installed PyAV was built without {encoder.name}")
            return encoder
    raise ConfigError(f"codec {name!r} is unknown: choose from {', '.join(e.alias for e in ENCODERS if not e.on_gpu)}")


def encoder_for(container: str, codec: str | None) -> Encoder:
    """The encoder for a container: the named one, or the first of its own that PyAV was built with.

    Raises:
        ConfigError: unknown codec, or the container cannot hold it.
    """
    choices = CONTAINERS[container]
    encoder = encoder_named(codec or next(filter(_is_built, choices), choices[0]))
    if encoder.alias not in {each.alias for each in ENCODERS if each.name in choices}:
        able = ", ".join(e.alias for e in ENCODERS if e.name in choices)
        raise ConfigError(f"codec {codec}: {container} cannot hold it here, choose from {able}, or write .mkv")
    return encoder


def _is_built(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def nearest_format(wanted: PixelFormat, available: tuple[PixelFormat, ...]) -> PixelFormat:
    """The layout of ``available`` that loses least of ``wanted``: depth first, then chroma, then size."""

    def loss(other: PixelFormat) -> tuple[int, int, int]:
        depth = wanted.depth - other.depth
        chroma = (other.log2_chroma_w - wanted.log2_chroma_w, other.log2_chroma_h - wanted.log2_chroma_h)
        return max(0, depth), sum(max(0, c) for c in chroma), abs(depth) + sum(abs(c) for c in chroma)

    return min(available, key=loss)


def plausible_rate(average: Fraction | None) -> Fraction | None:
    """A source's frame rate if it can be true, else None; headers and rate control use it, times never.

    Args:
        average: what the source says, which may be absent or absurd.
    """
    return average if average is not None and Fraction(1, 10) <= average <= 240 else None
