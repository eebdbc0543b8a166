"""Segment video: ``python run_pipeline.py --input clip.mp4 --output overlay.mp4``."""

from pipeline.cli import entry

if __name__ == "__main__":
    entry()
