"""Whether the run in this container is well: exit status 0 or 1.  For HEALTHCHECK; standard library alone.

Asks /healthz at HEALTH_PORT (9100) of the loopback address, with and without TLS.  Where nothing listens there the run
has no metrics, and that its process is alive is all that can be known.
"""

import http.client
import os
import ssl
import sys
import urllib.error
import urllib.request

PORT = os.environ.get("HEALTH_PORT", "9100")


def ask(scheme: str) -> bool:
    """Whether /healthz says yes; raises OSError where nobody answers."""
    unchecked = ssl._create_unverified_context()  # it is ourselves, by an address that no certificate need name
    with urllib.request.urlopen(f"{scheme}://127.0.0.1:{PORT}/healthz", timeout=3, context=unchecked) as answer:
        return bool(answer.status == 200)


def healthy() -> bool:
    """As the module."""
    for scheme in ("http", "https"):
        try:
            return ask(scheme)
        except urllib.error.HTTPError:
            return False
        except OSError as error:
            if isinstance(getattr(error, "reason", error), ConnectionRefusedError):
                return True
        except http.client.HTTPException:  # no HTTP: then perhaps TLS
            pass
    return False


if __name__ == "__main__":
    sys.exit(not healthy())
