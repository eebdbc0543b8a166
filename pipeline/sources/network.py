"""Addresses on the network: which there are, and how libav is told to open them."""

from __future__ import annotations

import re

from pipeline.errors import SourceError
from pipeline.sources.base import SourceOptions
from pipeline.sources.pictures import MAX_LIVE_PIXELS
from pipeline.sources.target import Target
from pipeline.sources.tls import verification
from pipeline.sources.uri import SCHEME, mask_uri

# A playlist or a redirect from elsewhere must not reach files, pipes or concatenations here.
_WEB = "http,https,httpproxy,tcp,tls,crypto,data"
_PACKETS = "rtp,srtp,udp,tcp,tls,crypto"
_FLASH = "rtmp,rtmps,rtmpt,rtmpts,ffrtmphttp,ffrtmpcrypt,tcp,tls,http,https,crypto"

_PROTOCOLS = {
    "http": _WEB,
    "https": _WEB,
    "rtsp": f"{_PACKETS},http,https,httpproxy",
    "rtsps": f"{_PACKETS},http,https,httpproxy",
    "rtmp": _FLASH,
    "rtmps": _FLASH,
    "rtp": _PACKETS,
    "udp": _PACKETS,
    "tcp": _PACKETS,
}

_PORT = re.compile(r"[^:]+://(?:[^/?#]*@)?(?:\[[^\]]*\]|[^/?#:@]*):(\d+)(?=[/?#]|$)")

_MAX_STREAMS = 64
"""What one input may hold: others decide what is sent, and each stream takes memory."""

_TRANSPORTS = {
    "auto": {"rtsp_transport": "udp+tcp", "rtsp_flags": "prefer_tcp"},
    "tcp": {"rtsp_transport": "tcp"},
    "udp": {"rtsp_transport": "udp"},
}

SCHEMES = tuple(_PROTOCOLS)
"""Schemes of network inputs."""


def live_by_nature(uri: str) -> bool:
    """An address that can hold nothing but a live stream; behind others there may be files."""
    match = SCHEME.match(uri)
    return match is not None and match[1].lower() in _PROTOCOLS and match[1].lower() not in ("http", "https")


def network_target(uri: str, options: SourceOptions) -> Target:
    """What libav opens for an address such as ``rtsp://host/path``.

    Raises:
        SourceError: unknown scheme, or a port that there is not.
    """
    match = SCHEME.match(uri)
    scheme = match[1].lower() if match else ""
    if scheme not in _PROTOCOLS:
        raise SourceError(f"{mask_uri(uri)}: unknown kind of address; known are {', '.join(SCHEMES)}, lavfi and file")
    port = _PORT.match(uri)
    if port is not None and not 0 < int(port[1]) < 65536:
        raise SourceError(f"{mask_uri(uri)}: the port must be from 1 to 65535, not {port[1]}")
    microseconds = str(int(options.read_timeout * 1e6))
    settings = {"protocol_whitelist": _PROTOCOLS[scheme], "max_streams": str(_MAX_STREAMS)}
    if scheme in ("http", "https"):
        settings["rw_timeout"] = microseconds
    elif scheme in ("rtsp", "rtsps"):
        # The session's description tells what probing would have to wait a second for.  No "nobuffer":
        # it throws away what was read while probing, which is the first keyframe.
        settings |= {"timeout": microseconds, "analyzeduration": "0", "probesize": "32"}
        settings |= _TRANSPORTS[options.rtsp_transport]
    else:
        settings |= {"analyzeduration": "100000", "fpsprobesize": "0"}
    settings |= verification(scheme, verify=options.tls_verify)
    if scheme == "udp":
        settings |= {"timeout": microseconds, "overrun_nonfatal": "1"}
    return Target(
        uri,
        mask_uri(uri),
        options=settings,
        open_timeout=options.open_timeout,
        read_timeout=options.read_timeout,
        seekable=scheme in ("http", "https"),
        live=None if scheme in ("http", "https") else True,
        network=True,
        endless=True,
        max_pixels=MAX_LIVE_PIXELS,
    )
