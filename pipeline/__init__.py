"""DeepLab on live and recorded video."""
