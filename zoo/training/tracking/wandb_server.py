"""Whether a W&B server can be used, and time limits for what it may never answer."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from zoo.training.tracking.guest import first_line

PROBE_SECONDS = 3.0


def why_not_online(server: str) -> str | None:
    """Why an online run would ask for a key or wait, or None."""
    import wandb

    try:
        known = wandb.login(prompt=False, verify=False)
    except Exception as error:  # a key of the wrong form
        return first_line(error)
    return why_unreachable(server) if known else "no API key, `wandb login` sets one"


def why_unreachable(server: str) -> str | None:
    """Why a server is unreachable, or None if it answers HTTP in time."""

    def ask() -> str | None:
        # No secret is sent, so the certificate is not verified, which is up to wandb.
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        try:
            urllib.request.urlopen(server, timeout=PROBE_SECONDS, context=unchecked).close()
        except urllib.error.HTTPError as error:
            return f"{server} returned {error.code}" if error.code >= 500 else None
        return None

    try:
        return within(PROBE_SECONDS, ask)
    except Exception as error:
        return f"{server}: {first_line(error)}"


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """Run ``work`` in a thread with a time limit, which name resolution and wandb's own waits lack.

    Raises:
        TimeoutError: it takes longer; the thread is abandoned and does not delay the exit.
        Exception: raised by ``work``.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as error:  # wandb may also call sys.exit
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no response within {seconds:.0f} s")
    if "error" in outcome:
        error = outcome["error"]
        raise error if isinstance(error, Exception) else RuntimeError(str(error))
    return outcome["result"]
