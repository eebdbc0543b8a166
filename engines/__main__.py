"""``python -m engines``: see `engines.cli`."""

from engines.cli import entry

if __name__ == "__main__":
    entry()
