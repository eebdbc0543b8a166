"""NVIDIA GPUs: memory and streams, plans of TensorRT, and the kernels of our own."""
