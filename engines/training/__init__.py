"""Training and evaluation, offline: nothing that runs a compiled model imports this package."""
