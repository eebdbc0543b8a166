"""Published weights into ONNX files, with numpy alone."""

from engines.convert.to_onnx import convert

__all__ = ["convert"]
