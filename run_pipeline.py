"""Segment video: ``python run_pipeline.py --input clip.mp4 --output overlay.mp4``."""

import sys

if __name__ == "__main__":
    try:
        from pipeline.cli import entry

        entry()
    except ModuleNotFoundError as error:  # libraries are imported when they are needed, not all at the beginning
        sys.exit(
            f"error: {error}: `make demo` sets up .venv with all that is needed; run .venv/bin/python {sys.argv[0]}"
        )
    except KeyboardInterrupt:  # while modules are being imported
        sys.exit(130)
