"""Overlays over RTSP: an embedded server, and publishing to somebody else's."""
