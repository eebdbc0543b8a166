"""Presets of the command line, shipped inside the wheel."""
