"""DeepLab on live and recorded video.

>>> import pipeline
>>> for result in pipeline.stream("clip.mp4", model="street"):
...     result.frame, result.labels, result.pts
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import stream

__all__ = ["stream"]


def __getattr__(name: str) -> Any:
    # Worker processes and the native kernels' users import this package too: they need none of the stream.
    if name == "stream":
        from pipeline.api import stream

        return stream
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
