"""What is done to a frame on its way."""
