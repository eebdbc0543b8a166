"""The fully connected CRF: plain arrays in, labels out."""
