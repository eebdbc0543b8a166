"""Segment video: ``python run_pipeline.py --input clip.mp4 --output overlay.mp4``."""

import sys

if __name__ == "__main__":
    try:
        from pipeline.cli import entry

        entry()
    except KeyboardInterrupt:  # while modules are being imported
        sys.exit(130)
