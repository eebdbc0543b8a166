"""Certificates for servers on this machine that no authority stands for."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.conftest import need_program


def self_signed(folder: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> tuple[Path, Path]:
    """A certificate for these names, and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", f"subjectAltName={names}"]
    openssl = need_program("openssl")
    subprocess.run([openssl, *command, "-out", cert, "-keyout", key], check=True, capture_output=True, timeout=30)
    return cert, key
