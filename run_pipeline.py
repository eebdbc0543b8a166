"""Segment video: ``python run_pipeline.py --input clip.mp4 --output overlay.mp4``."""

import sys

if __name__ == "__main__":
    try:
        try:
            from pipeline.cli import entry
        except ModuleNotFoundError as error:
            sys.exit(
                f"error: {error}: `make` sets up .venv with all that is needed; run .venv/bin/python {sys.argv[0]}"
            )
        entry()
    except KeyboardInterrupt:  # while modules are being imported
        sys.exit(130)
